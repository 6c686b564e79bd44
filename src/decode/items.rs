//! Several readings in one body: the elements of a JSON array, or the lines of NDJSON, and where each of them is.
//!
//! An item is found by its ends alone; whether it is JSON is left to `validate`, so that a bad item (NaN, a bad byte, bad
//! UTF-8, a missing value) is lost alone. An element ends at the comma or bracket behind it that is neither in a string
//! nor within brackets of its own. If a string or a bracket in it is not closed, where it ends cannot be told: then the
//! whole body is refused, and the item named.

use std::ops::Range;

use super::whitespace::{BYTE_ORDER_MARK, is_whitespace};
use crate::outcome::{Position, Rejection};

/// The items of a body, in its order.
#[derive(Debug)]
pub struct Items<'a> {
    body: &'a [u8],
    shape: Shape,
    spans: Vec<Range<usize>>,
    // With those for which `spans` has no room.
    found: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Array,
    Lines,
}

/// Says where in the whole body an item is rejected. Items are asked for in their order, so that no byte is looked at
/// twice however many are rejected.
#[derive(Debug)]
pub struct Places<'i, 'a> {
    items: &'i Items<'a>,
    // Bytes before it have been looked at.
    at: usize,
    // The line of `at`, from 1, and where it begins.
    line: usize,
    line_start: usize,
}

/// The lines that hold something; the first `items_max` of them are kept.
pub fn lines(body: &[u8], items_max: usize) -> Items<'_> {
    let mut items = Items::new(body, Shape::Lines);
    let mut start = 0;
    for line in body.split(|&byte| byte == b'\n') {
        let end = start + line.len();
        let marked = line.starts_with(BYTE_ORDER_MARK);
        let span = items.trimmed(start + if marked { BYTE_ORDER_MARK.len() } else { 0 }..end);
        if !span.is_empty() {
            items.push(span, items_max);
        }
        start = end + 1;
    }
    items
}

/// The elements of a JSON array; the first `items_max` of them are kept. An element may be empty (`[1,,2]`).
///
/// # Errors
/// It is no array, or where an element of it ends cannot be told.
pub fn elements(body: &[u8], items_max: usize) -> Result<Items<'_>, Rejection> {
    let mut items = Items::new(body, Shape::Array);
    let whole = items.trimmed(text_start(body)..body.len());
    if body.get(whole.start) != Some(&b'[') {
        return Err(items.refuse(
            whole.start,
            "not a JSON array of readings; NDJSON needs the content type application/x-ndjson",
        ));
    }
    let mut start = whole.start + 1;
    let mut depth = 0_usize;
    let mut at = start;
    while let Some((found, byte)) = next_structural(body, at) {
        at = found + 1;
        match byte {
            b'"' => match string_end(body, at) {
                Some(end) => at = end,
                None => break,
            },
            b'[' | b'{' => depth += 1,
            // Which of the two closes is not checked: a wrong one is the item's mistake.
            b']' | b'}' if depth > 0 => depth -= 1,
            b',' if depth == 0 => {
                items.push(items.trimmed(start..found), items_max);
                start = at;
            }
            b']' => {
                let last = items.trimmed(start..found);
                if items.found > 0 || !last.is_empty() {
                    items.push(last, items_max);
                }
                return if at == whole.end {
                    Ok(items)
                } else {
                    Err(items.refuse(at, "the JSON array of readings ends here, and more follows"))
                };
            }
            _ => {}
        }
    }
    let start = items.trimmed(start..body.len()).start;
    let what = format!(
        "the JSON array of readings is not closed: a string or a bracket in [{}], which begins here, or the array itself",
        items.found
    );
    Err(items.refuse(start, &what))
}

fn text_start(body: &[u8]) -> usize {
    if body.starts_with(BYTE_ORDER_MARK) {
        BYTE_ORDER_MARK.len()
    } else {
        0
    }
}

fn next_structural(body: &[u8], from: usize) -> Option<(usize, u8)> {
    let rest = body.get(from..)?;
    let is_structural = |&byte: &u8| matches!(byte, b'"' | b'[' | b'{' | b']' | b'}' | b',');
    let found = from + rest.iter().position(is_structural)?;
    Some((found, body[found]))
}

/// Behind the quotation mark that closes a string of which `from` is the first character.
fn string_end(body: &[u8], mut from: usize) -> Option<usize> {
    loop {
        let rest = body.get(from..)?;
        let found = from + rest.iter().position(|&byte| matches!(byte, b'"' | b'\\'))?;
        if body[found] == b'"' {
            return Some(found + 1);
        }
        from = found + 2;
    }
}

// === impl Items ===

impl<'a> Items<'a> {
    fn new(body: &'a [u8], shape: Shape) -> Self {
        Items {
            body,
            shape,
            spans: Vec::new(),
            found: 0,
        }
    }

    fn push(&mut self, span: Range<usize>, items_max: usize) {
        self.found += 1;
        if self.found <= items_max {
            self.spans.push(span);
        }
    }

    /// Without whitespace at its ends.
    fn trimmed(&self, span: Range<usize>) -> Range<usize> {
        let bytes = &self.body[span.clone()];
        let Some(first) = bytes.iter().position(|&byte| !is_whitespace(byte)) else {
            return span.end..span.end;
        };
        let behind = bytes.iter().rev().take_while(|&&byte| is_whitespace(byte)).count();
        span.start + first..span.end - behind
    }

    /// How many there are, with those beyond what is kept.
    pub fn found(&self) -> usize {
        self.found
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [u8]> {
        let body = self.body;
        self.spans.iter().map(move |span| &body[span.clone()])
    }

    pub fn places(&self) -> Places<'_, 'a> {
        Places {
            items: self,
            at: 0,
            line: 1,
            line_start: text_start(self.body),
        }
    }

    /// Where the columns of the line that begins at this byte are counted from: behind the mark, where one is ignored.
    fn line_start(&self, at: usize) -> usize {
        match self.shape {
            Shape::Lines => at + text_start(&self.body[at..]),
            Shape::Array => at,
        }
    }

    /// The body as a whole is refused, for what is at this place.
    fn refuse(&self, at: usize, what: &str) -> Rejection {
        let mut places = self.places();
        places.advance(at);
        let at = Position::new(places.line, 1 + at.saturating_sub(places.line_start));
        Rejection::malformed_at(at, what)
    }
}

// === impl Places ===

impl Places<'_, '_> {
    /// The rejection of item `index`, which must not be before the last one asked for.
    pub fn locate(&mut self, index: usize, rejection: Rejection) -> Rejection {
        let span = &self.items.spans[index];
        self.advance(span.start);
        let columns_before = span.start.saturating_sub(self.line_start);
        let detail = match rejection.at {
            _ if span.is_empty() => {
                let at = Position::new(self.line, 1 + columns_before);
                format!("[{index}], {at}: a reading is expected, nothing came")
            }
            Some(Position { line, column }) => {
                let columns_before = if line == 1 { columns_before } else { 0 };
                let at = Position::new(self.line + line as usize - 1, columns_before + column as usize);
                format!("[{index}], {at}: {}", rejection.what())
            }
            None if self.items.shape == Shape::Lines => format!("[{index}], line {}: {}", self.line, rejection.detail),
            None => format!("[{index}]: {}", rejection.detail),
        };
        Rejection {
            item: Some(index),
            ..Rejection::new(rejection.reason, detail)
        }
    }

    fn advance(&mut self, to: usize) {
        for (offset, &byte) in self.items.body.iter().enumerate().take(to).skip(self.at) {
            if byte == b'\n' {
                self.line += 1;
                self.line_start = self.items.line_start(offset + 1);
            }
        }
        self.at = self.at.max(to);
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    use serde_json::value::RawValue;

    use super::*;
    use crate::outcome::Reason;

    const MANY: usize = 100;

    fn shown(items: &Items<'_>) -> Vec<String> {
        items.iter().map(|item| item.escape_ascii().to_string()).collect()
    }

    #[test]
    fn an_element_is_found_whatever_is_in_it() {
        let check = |body: &[u8], expected: &[&str]| {
            let items = elements(body, MANY).unwrap_or_else(|rejection| panic!("{}: {rejection}", body.escape_ascii()));
            assert_eq!(shown(&items), expected, "{}", body.escape_ascii());
        };
        check(b"[]", &[]);
        check(b" [ \n ] ", &[]);
        check(b"[1]", &["1"]);
        check(b"\xEF\xBB\xBF\r\n[ 1 ,\t2 ]\n", &["1", "2"]);
        check(
            br#"[{"a":[1,{"b":2}]},[[],[]],"x"]"#,
            &[r#"{\"a\":[1,{\"b\":2}]}"#, "[[],[]]", r#"\"x\""#],
        );
        // What looks like the end of an item, in a string.
        check(
            br#"["],[{\"", "\\", "\\\"]", ""]"#,
            &[r#"\"],[{\\\"\""#, r#"\"\\\\\""#, r#"\"\\\\\\\"]\""#, r#"\"\""#],
        );
        // What is no JSON is an item all the same.
        check(b"[NaN,-Infinity, ,1,]", &["NaN", "-Infinity", "", "1", ""]);
        check(b"[,]", &["", ""]);
        check(
            b"[1 2,\xFF,\"\xC3\",\x0c3,\0]",
            &["1 2", r"\xff", r#"\"\xc3\""#, r"\x0c3", r"\x00"],
        );
        check(b"[\xEF\xBB\xBF1]", &[r"\xef\xbb\xbf1"]);
        check(b"[1\\,2]", &[r"1\\", "2"]);
        // A bracket of the wrong kind, or one too many that does not end the array.
        check(br#"[{"a":1],2]"#, &[r#"{\"a\":1]"#, "2"]);
        check(br#"[{"a":1}},2]"#, &[r#"{\"a\":1}}"#, "2"]);
        check(br#"[{"a":[1]]},2]"#, &[r#"{\"a\":[1]]}"#, "2"]);
        let deep = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
        assert_eq!(elements(&deep, MANY).unwrap().found(), 1);
    }

    #[test]
    fn where_an_element_has_no_end_the_body_is_refused_and_the_item_named() {
        let check = |body: &[u8], expected: &str| {
            let rejection = elements(body, MANY).unwrap_err();
            let detail = rejection.detail;
            assert!(
                detail.starts_with("line ") && detail.contains(expected),
                "{}: {detail}",
                body.escape_ascii()
            );
            assert_eq!(rejection.reason, Reason::Malformed);
        };
        check(b"{}", "line 1, column 1: not a JSON array");
        check(b"\xEF\xBB\xBF {}", "line 1, column 2: not a JSON array");
        check(b"\x0c[1]", "line 1, column 1: not a JSON array");
        check(b"[", "line 1, column 2: the JSON array of readings is not closed");
        check(
            b"[1,\n 2",
            "line 2, column 2: the JSON array of readings is not closed: a string or a bracket in [1],",
        );
        check(b"[1,", "in [1],");
        check(br#"[1,{"a":"x},2]"#, "in [1],");
        check(
            br#"[1,{"a":{"b":1},{"c":2}]"#,
            "line 1, column 4: the JSON array of readings is not closed: a string or a bracket in [1],",
        );
        check(br#"["\"#, "in [0],");
        check(
            b"[1],2]",
            "line 1, column 4: the JSON array of readings ends here, and more follows",
        );
        check(b"[1]]", "column 4: the JSON array of readings ends here");
        check(b"[1]\n[2]", "line 1, column 4: the JSON array of readings ends here");
    }

    #[test]
    fn lines_are_trimmed_and_empty_ones_left_out() {
        let check =
            |body: &str, expected: &[&str]| assert_eq!(shown(&lines(body.as_bytes(), MANY)), expected, "{body:?}");
        check("1\n2", &["1", "2"]);
        check("1\r\n\r\n 2 \n\t\n", &["1", "2"]);
        check("\u{feff}1\n2\n", &["1", "2"]);
        // Two files, each with a mark, put together.
        check("\u{feff}1\n\u{feff} 2\n\u{feff}\n", &["1", "2"]);
        check("1\n\u{c}2\n", &["1", r"\x0c2"]);
        check("\"a\n\"\n", &[r#"\"a"#, r#"\""#]);
    }

    #[test]
    fn items_beyond_the_limit_are_counted_and_not_kept() {
        for items in [lines(b"1\n2\n3\n4", 3), elements(b"[1,2,3,4]", 3).unwrap()] {
            assert_eq!((items.found(), items.iter().len()), (4, 3));
        }
    }

    #[test]
    fn a_rejection_names_the_item_and_its_place_in_the_whole_body() {
        let check = |items: &Items<'_>, expected: &[&str]| {
            let mut places = items.places();
            let located = (0..items.found()).map(|index| {
                let rejection = if index % 2 == 0 {
                    Rejection::malformed_at(Position::new(1, 5), "expected value")
                } else {
                    Rejection::new(Reason::OutOfRange, "a: 9 is above the maximum 5")
                };
                let located = places.locate(index, rejection);
                assert_eq!(located.item, Some(index));
                located.detail
            });
            assert_eq!(located.collect::<Vec<_>>(), expected);
        };
        check(
            &lines(b"\xEF\xBB\xBFaaaaaa\n\n  bbbbbb\r\n\n cccccc", MANY),
            &[
                "[0], line 1, column 5: expected value",
                "[1], line 3: a: 9 is above the maximum 5",
                "[2], line 5, column 6: expected value",
            ],
        );
        // A mark takes no column on any line that is a JSON text; within one it does.
        check(
            &lines(b"aaaaaa\n\xEF\xBB\xBFb\n\xEF\xBB\xBF  cccccc", MANY),
            &[
                "[0], line 1, column 5: expected value",
                "[1], line 2: a: 9 is above the maximum 5",
                "[2], line 3, column 7: expected value",
            ],
        );
        check(
            &elements(b"\xEF\xBB\xBF[a, b,\n\xEF\xBB\xBF\n,]", MANY).unwrap(),
            &[
                "[0], line 1, column 6: expected value",
                "[1]: a: 9 is above the maximum 5",
                "[2], line 2, column 5: expected value",
                "[3], line 3, column 2: a reading is expected, nothing came",
            ],
        );
        check(
            &elements(b"[aaaaaa, bbbbbb,\n  cccccc]", MANY).unwrap(),
            &[
                "[0], line 1, column 6: expected value",
                "[1]: a: 9 is above the maximum 5",
                "[2], line 2, column 7: expected value",
            ],
        );
        check(
            &elements(b"[,\n]", MANY).unwrap(),
            &[
                "[0], line 1, column 2: a reading is expected, nothing came",
                "[1], line 2, column 1: a reading is expected, nothing came",
            ],
        );
        // Of an item over several lines only the first begins behind something.
        let items = elements(b"[1, {\n\"a\": b}]", MANY).unwrap();
        let located = items
            .places()
            .locate(1, Rejection::malformed_at(Position::new(2, 6), "expected value"));
        assert_eq!(located.detail, "[1], line 2, column 6: expected value");
    }

    /// Any JSON value, with everything in its strings that ends an item elsewhere, and white space wherever it may be.
    fn value(random: &mut StdRng, depth: u32) -> String {
        const TEXTS: [&str; 9] = ["[", "]", "{", "}", ",", "\"", "\\", "é", "\n"];
        let text = |random: &mut StdRng| {
            let parts: String = (0..random.random_range(0..6))
                .map(|_| TEXTS[random.random_range(0..9)])
                .collect();
            serde_json::to_string(&parts).unwrap()
        };
        let space = |random: &mut StdRng| [" ", "\n", "", "\t\r\n", ""][random.random_range(0..5)];
        let several = |random: &mut StdRng, one: &mut dyn FnMut(&mut StdRng) -> String| {
            let items = (0..random.random_range(0..4)).map(|_| {
                let (before, after) = (space(random), space(random));
                format!("{before}{}{after}", one(random))
            });
            items.collect::<Vec<_>>().join(",")
        };
        match random.random_range(0..if depth < 4 { 6 } else { 4 }) {
            0 => random.random_range(-1000..1000).to_string(),
            1 => "-1.5e3".to_owned(),
            2 => "null".to_owned(),
            3 => text(random),
            4 => format!("[{}]", several(random, &mut |random| value(random, depth + 1))),
            _ => {
                let mut member = |random: &mut StdRng| format!("{}:{}", text(random), value(random, depth + 1));
                format!("{{{}}}", several(random, &mut member))
            }
        }
    }

    #[test]
    fn any_array_is_split_as_serde_json_splits_it_and_a_bad_byte_costs_one_item() {
        let mut random = StdRng::seed_from_u64(13);
        let (mut spoilt, mut several) = (0, 0);
        for _ in 0..20_000 {
            let items: Vec<_> = (0..random.random_range(0..6)).map(|_| value(&mut random, 0)).collect();
            let mut body = format!(" [{}] \n", items.join(" ,")).into_bytes();
            let judge: Vec<&RawValue> = serde_json::from_slice(&body).unwrap();
            let expected: Vec<Vec<u8>> = judge.iter().map(|item| item.get().as_bytes().to_vec()).collect();
            let found: Vec<_> = elements(&body, MANY).unwrap().iter().map(<[u8]>::to_vec).collect();
            assert_eq!(found, expected, "{}", body.escape_ascii());
            several += usize::from(found.len() > 1);
            // A byte that separates nothing becomes a bad one.
            let at = random.random_range(0..body.len());
            if is_whitespace(body[at]) || b"[]{},\"\\".contains(&body[at]) || (at > 0 && body[at - 1] == b'\\') {
                continue;
            }
            body[at] = 0xFF;
            let found: Vec<_> = elements(&body, MANY).unwrap().iter().map(<[u8]>::to_vec).collect();
            let differ = found
                .iter()
                .zip(&expected)
                .filter(|(found, expected)| found != expected)
                .count();
            assert_eq!((found.len(), differ), (expected.len(), 1), "{}", body.escape_ascii());
            spoilt += 1;
        }
        assert!(
            spoilt > 1000 && several > 1000,
            "{spoilt} {several}: the seed meets too little"
        );
    }

    #[test]
    fn whatever_the_bytes_are_items_are_in_the_body_and_in_order() {
        const BYTES: &[u8] = b"\"\\{}[],,  \n1a\xEF\xBB\xBF\xFF";
        let mut random = StdRng::seed_from_u64(13);
        for _ in 0..100_000 {
            let length = random.random_range(0..24);
            let mut body = b"[".to_vec();
            body.extend((0..length).map(|_| BYTES[random.random_range(0..BYTES.len())]));
            for items in [Some(lines(&body, MANY)), elements(&body, MANY).ok()]
                .into_iter()
                .flatten()
            {
                let mut places = items.places();
                let mut end = 0;
                for (index, span) in items.spans.iter().enumerate() {
                    assert!(end <= span.start && span.start <= span.end && span.end <= body.len());
                    end = span.end;
                    places.locate(index, Rejection::malformed_at(Position::new(1, 1), "expected value"));
                }
            }
        }
    }
}
