//! What Alertmanager is told of the city's alerts: from rows of `city.alert` to the JSON of its API, version 2. Pure.
//!
//! An alert is known by its labels, as in Prometheus; they stay the same while it lasts, and `startsAt` is when it was raised. Its
//! end is told for a while. What was told as lasting, and is no row any more (it was withdrawn, is part of another alert now,
//! or has become critical, which is a label), has ended at that moment: for this, and nothing else, there is a [`Memory`]. A store that
//! starts anew has none; what it would have ended ends by itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde_json::{Value, json};

/// Until when an alert that lasts is told to last. It is told every minute; longer than a restart of the store, of the database or
/// of a machine takes, so that none of them takes an alert back.
pub const VALID_FOR: Duration = Duration::from_secs(15 * 60);

/// For how long it is told that an alert has ended, to those that did not hear it.
const ENDED_FOR: Duration = Duration::from_secs(15 * 60);

/// Alerts that were cleared within this time are told. A quarter of an hour is judged when it is over, and clears from its
/// beginning, so an alert may have been cleared half an hour ago when it is known.
pub const LATELY: Duration = Duration::from_secs(60 * 60);

/// A row of `city.alert`.
#[derive(Clone, Debug)]
pub struct Row {
    pub alert: String,
    pub scope: String,
    pub subject: String,
    pub district: Option<String>,
    pub severity: String,
    pub reason: String,
    pub raised_at: SystemTime,
    pub cleared_at: Option<SystemTime>,
}

/// What an alert is known by.
pub type Labels = BTreeMap<&'static str, String>;

/// An alert, as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    pub labels: Labels,
    pub summary: String,
    pub description: String,
    pub starts_at: SystemTime,
    /// None: it lasts.
    pub ends_at: Option<SystemTime>,
}

/// What there is to tell; none: another instance tells.
pub type Told = Option<Arc<[Alert]>>;

/// What was told.
#[derive(Debug, Default)]
pub struct Memory {
    lasting: BTreeMap<Labels, Alert>,
    /// What ended because it was no row any more.
    ended: BTreeMap<Labels, Alert>,
}

// === impl Memory ===

impl Memory {
    /// What is to be told, of these rows and of what was told before.
    pub fn told(&mut self, rows: &[Row], now: SystemTime) -> Vec<Alert> {
        let alerts: BTreeMap<Labels, Alert> = rows.iter().map(alert).collect();
        for (labels, mut gone) in std::mem::take(&mut self.lasting) {
            gone.ends_at = Some(now.max(gone.starts_at));
            self.ended.insert(labels, gone);
        }
        let is_recent = |at: SystemTime| now <= at + ENDED_FOR;
        self.ended
            .retain(|labels, alert| !alerts.contains_key(labels) && alert.ends_at.is_some_and(is_recent));
        let lasting = alerts.iter().filter(|(_, alert)| alert.ends_at.is_none());
        self.lasting = lasting.map(|(labels, alert)| (labels.clone(), alert.clone())).collect();
        alerts.into_values().chain(self.ended.values().cloned()).collect()
    }
}

fn alert(row: &Row) -> (Labels, Alert) {
    let mut labels = Labels::from([
        ("alertname", alertname(&row.alert)),
        ("scope", row.scope.clone()),
        ("severity", row.severity.clone()),
        ("subject", row.subject.clone()),
    ]);
    if let Some(district) = &row.district {
        labels.insert("district", district.clone());
    }
    let alert = Alert {
        labels: labels.clone(),
        summary: format!("{}: {} {}", row.alert.replace('_', " "), row.scope, row.subject),
        description: row.reason.clone(),
        starts_at: row.raised_at,
        // Alertmanager refuses what ends before it starts.
        ends_at: row.cleared_at.map(|at| at.max(row.raised_at)),
    };
    (labels, alert)
}

/// `district_silent` is `CityDistrictSilent`.
fn alertname(alert: &str) -> String {
    let words = alert.split(|letter: char| !letter.is_alphanumeric());
    let capital = words.flat_map(|word| {
        let mut letters = word.chars();
        letters.next().into_iter().flat_map(char::to_uppercase).chain(letters)
    });
    "City".chars().chain(capital).collect()
}

/// As `POST /api/v2/alerts` accepts it.
pub fn json(alerts: &[&Alert], now: SystemTime) -> Value {
    let told = alerts.iter().map(|alert| {
        json!({
            "labels": alert.labels,
            "annotations": { "summary": alert.summary, "description": alert.description },
            "startsAt": rfc3339(alert.starts_at),
            "endsAt": rfc3339(alert.ends_at.unwrap_or(now + VALID_FOR)),
        })
    });
    told.collect()
}

fn rfc3339(time: SystemTime) -> String {
    // Only times beyond the year 9999 are none of jiff's, and the database refuses them where they are computed.
    Timestamp::try_from(time).unwrap_or(Timestamp::MAX).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(text: &str) -> SystemTime {
        let time: Timestamp = format!("2026-11-28T{text}:00Z").parse().unwrap();
        time.into()
    }

    /// `alert severity subject raised [cleared]`; segments are in the district north.
    fn row(text: &str) -> Row {
        let words: Vec<&str> = text.split(' ').collect();
        let scope = match words[0] {
            "congestion" => "segment",
            "feeder_overload" => "feeder",
            _ => "district",
        };
        Row {
            alert: words[0].into(),
            scope: scope.into(),
            subject: words[2].into(),
            district: (scope != "feeder").then(|| "north".into()),
            severity: words[1].into(),
            reason: format!("{} of {}", words[0], words[2]),
            raised_at: at(words[3]),
            cleared_at: words.get(4).map(|text| at(text)),
        }
    }

    /// `alertname severity subject start end`, sorted; `…` is the end of what lasts.
    fn words(alerts: &[Alert]) -> Vec<String> {
        let time = |time: SystemTime| rfc3339(time).get(11..16).unwrap().to_owned();
        let mut words: Vec<String> = alerts
            .iter()
            .map(|alert| {
                let label = |name| &alert.labels[name];
                let (name, severity, subject) = (label("alertname"), label("severity"), label("subject"));
                let end = alert.ends_at.map_or("…".into(), time);
                format!("{name} {severity} {subject} {} {end}", time(alert.starts_at))
            })
            .collect();
        words.sort();
        words
    }

    #[test]
    fn rows_become_the_json_of_alertmanagers_api() {
        let check = |row: Row, expected: Value| {
            let (_, alert) = alert(&row);
            assert_eq!(json(&[&alert], at("10:00")), json!([expected]));
        };
        check(
            row("district_silent critical north 09:57"),
            json!({
                "labels": {"alertname": "CityDistrictSilent", "severity": "critical", "scope": "district", "subject": "north", "district": "north"},
                "annotations": {"summary": "district silent: district north", "description": "district_silent of north"},
                "startsAt": "2026-11-28T09:57:00Z",
                "endsAt": "2026-11-28T10:15:00Z",
            }),
        );
        check(
            row("feeder_overload warning f7 09:30 09:45"),
            json!({
                "labels": {"alertname": "CityFeederOverload", "severity": "warning", "scope": "feeder", "subject": "f7"},
                "annotations": {"summary": "feeder overload: feeder f7", "description": "feeder_overload of f7"},
                "startsAt": "2026-11-28T09:30:00Z",
                "endsAt": "2026-11-28T09:45:00Z",
            }),
        );
        assert_eq!(json(&[], at("10:00")), json!([]));
    }

    #[test]
    fn names_are_those_of_alerts() {
        let check = |alert: &str, expected: &str| assert_eq!(alertname(alert), expected);
        check("congestion", "CityCongestion");
        check("heavy_rain", "CityHeavyRain");
        check("ice-on road", "CityIceOnRoad");
        check("ölunfall", "CityÖlunfall");
        check("", "City");
    }

    #[test]
    fn what_is_told_follows_from_the_rows_and_from_what_was_told() {
        /// Rows at a time, and what is told then.
        type Look<'a> = (&'a str, &'a [&'a str], &'a [&'a str]);
        let check = |of: &str, looks: &[Look<'_>]| {
            let mut memory = Memory::default();
            for (time, rows, expected) in looks {
                let rows: Vec<Row> = rows.iter().map(|text| row(text)).collect();
                assert_eq!(words(&memory.told(&rows, at(time))), *expected, "{of}, at {time}");
            }
        };
        let slow = "congestion warning s1 10:00";
        let lasts = "CityCongestion warning s1 10:00 …";
        check(
            "raised and cleared",
            &[
                ("10:04", &[], &[]),
                ("10:05", &[slow], &[lasts]),
                ("10:06", &[slow], &[lasts]),
                (
                    "10:30",
                    &["congestion warning s1 10:00 10:25"],
                    &["CityCongestion warning s1 10:00 10:25"],
                ),
                // It is no row any more once that was long ago.
                ("11:30", &[], &[]),
            ],
        );
        check(
            "withdrawn, for as long as somebody may not have heard it",
            &[
                ("10:05", &[slow], &[lasts]),
                ("10:06", &[], &["CityCongestion warning s1 10:00 10:06"]),
                ("10:21", &[], &["CityCongestion warning s1 10:00 10:06"]),
                ("10:22", &[], &[]),
            ],
        );
        check(
            "critical is another label: the warning ends, once",
            &[
                ("10:05", &[slow], &[lasts]),
                (
                    "10:06",
                    &["congestion critical s1 10:00"],
                    &[
                        "CityCongestion critical s1 10:00 …",
                        "CityCongestion warning s1 10:00 10:06",
                    ],
                ),
                (
                    "10:07",
                    &["congestion critical s1 10:00"],
                    &[
                        "CityCongestion critical s1 10:00 …",
                        "CityCongestion warning s1 10:00 10:06",
                    ],
                ),
            ],
        );
        check(
            "raised again: what lasts is told, and not what ended before",
            &[
                ("10:05", &[slow], &[lasts]),
                ("10:06", &[], &["CityCongestion warning s1 10:00 10:06"]),
                (
                    "10:07",
                    &["congestion warning s1 10:07"],
                    &["CityCongestion warning s1 10:07 …"],
                ),
                (
                    "10:08",
                    &["congestion warning s1 10:07"],
                    &["CityCongestion warning s1 10:07 …"],
                ),
            ],
        );
        check(
            "a correction moves its beginning",
            &[
                ("10:05", &[slow], &[lasts]),
                (
                    "10:06",
                    &["congestion warning s1 10:02"],
                    &["CityCongestion warning s1 10:02 …"],
                ),
            ],
        );
        check(
            "raised ahead of this clock, and withdrawn",
            &[
                (
                    "10:05",
                    &["congestion warning s1 10:06"],
                    &["CityCongestion warning s1 10:06 …"],
                ),
                ("10:05", &[], &["CityCongestion warning s1 10:06 10:06"]),
            ],
        );
        check(
            "several",
            &[(
                "10:05",
                &[
                    slow,
                    "storm critical north 10:00",
                    "feeder_overload warning f 09:00 09:30",
                ],
                &[
                    "CityCongestion warning s1 10:00 …",
                    "CityFeederOverload warning f 09:00 09:30",
                    "CityStorm critical north 10:00 …",
                ],
            )],
        );
    }

    /// Else a store that is restarted, or a minute in which nothing could be told, would take alerts back.
    #[test]
    fn what_lasts_is_told_to_last_longer_than_it_is_not_told() {
        assert!(VALID_FOR >= 10 * MINUTE);
        assert!(LATELY >= 45 * MINUTE + ENDED_FOR);
    }
}
