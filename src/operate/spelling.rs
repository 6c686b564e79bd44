//! What somebody may have meant: the known name that is nearest to one that does not exist.
//!
//! Used wherever a name comes from a person: settings, librdkafka's properties, log levels, environment variables. A name that is near
//! nothing is answered by nothing, so that no far-fetched advice is given.

/// The known name that differs from `written` by a letter or two: left out, added, changed, or exchanged with its neighbour.
pub fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let most = if written.len() < 5 { 1 } else { 2 };
    let measured = known.into_iter().map(|name| (distance(written, name), name));
    let (apart, name) = measured.min()?;
    (1..=most).contains(&apart).then_some(name)
}

/// `nearest` as the end of a message.
pub fn hint<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(written, known).map_or_else(String::new, |name| format!("; did you mean {name}?"))
}

/// Levenshtein's distance, in which two neighbours that were exchanged count once.
fn distance(left: &str, right: &str) -> usize {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for i in 1..=left.len() {
        let mut next = vec![i];
        for j in 1..=right.len() {
            let changed = row[j - 1] + usize::from(left[i - 1] != right[j - 1]);
            let mut least = changed.min(row[j] + 1).min(next[j - 1] + 1);
            if i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1] {
                least = least.min(before[j - 2] + 1);
            }
            next.push(least);
        }
        before = std::mem::replace(&mut row, next);
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_found_and_another_word_is_not() {
        let known = ["kafka", "linger", "sasl.password", "log"];
        let check = |written: &str, expected: Option<&str>| assert_eq!(nearest(written, known), expected, "{written}");
        check("kafak", Some("kafka"));
        check("kfaka", Some("kafka"));
        check("lingr", Some("linger"));
        check("sasl.pasword", Some("sasl.password"));
        check("lg", Some("log"));
        check("kafka", None);
        check("zebra", None);
        check("x", None);
        check("", None);
    }
}
