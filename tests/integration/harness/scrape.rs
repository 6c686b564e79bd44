//! Reads Prometheus' text format, and checks the balance in it: `received =
//! delivered + spooled + rejected + busy` per protocol and kind. A parser of its
//! own, independent of the library that writes the text.

use std::collections::BTreeSet;

/// The samples of one scrape.
#[derive(Clone, Debug)]
pub struct Scrape {
    samples: Vec<Sample>,
}

#[derive(Clone, Debug)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

// === impl Scrape ===

impl Scrape {
    pub fn parse(text: &str) -> Self {
        let samples = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(Sample::parse)
            .collect();
        Scrape { samples }
    }

    /// The sum of all samples of this name that carry these labels; zero if there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let total: f64 = self
            .samples
            .iter()
            .filter(|sample| sample.name == name && labels.iter().all(|(key, value)| sample.label(key) == Some(value)))
            .map(|sample| sample.value)
            .sum();
        total as u64
    }

    /// Where `received = delivered + spooled + rejected + busy` does not hold, and how many receipts were dropped, in
    /// words; empty when all is well.
    pub fn imbalances(&self) -> Vec<String> {
        let mut imbalances = Vec::new();
        for (protocol, kind) in self.protocols_and_kinds() {
            let labels = [("protocol", protocol.as_str()), ("kind", kind.as_str())];
            let received = self.sum("citygate_readings_received_total", &labels);
            let ended = self.sum("citygate_readings_total", &labels);
            if received != ended {
                imbalances.push(format!("{protocol} {kind}: {received} received, {ended} ended"));
            }
        }
        match self.sum("citygate_receipts_dropped_total", &[]) {
            0 => {}
            dropped => imbalances.push(format!("{dropped} receipts dropped without an outcome")),
        }
        imbalances
    }

    fn protocols_and_kinds(&self) -> BTreeSet<(String, String)> {
        self.samples
            .iter()
            .filter(|sample| sample.name == "citygate_readings_received_total")
            .map(|sample| (sample.owned_label("protocol"), sample.owned_label("kind")))
            .collect()
    }
}

// === impl Sample ===

impl Sample {
    /// `name{key="value",…} number`; label values here hold no comma and no escape.
    fn parse(line: &str) -> Self {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("not a sample: {line}"));
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels
            .trim_end_matches('}')
            .split(',')
            .filter(|label| !label.is_empty());
        let pair = |label: &str| {
            let (key, value) = label.split_once('=').unwrap_or_else(|| panic!("not a label: {line}"));
            (key.to_owned(), value.trim_matches('"').to_owned())
        };
        Sample {
            name: name.to_owned(),
            labels: labels.map(pair).collect(),
            value: value.parse().unwrap_or_else(|_| panic!("not a number: {line}")),
        }
    }

    fn label(&self, key: &str) -> Option<&str> {
        let found = self.labels.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str())
    }

    fn owned_label(&self, key: &str) -> String {
        self.label(key).unwrap_or_default().to_owned()
    }
}
