//! Series that somebody measured: where they are, and how their rows and dates are read.
//!
//! They are beside the repository, or wherever `TEST_CORPUS` says. Where they are not, a test that needs them says
//! `SKIPPED`.

use std::path::{Path, PathBuf};

use crate::comparison::say;
use crate::series::{DAY_MS, HOUR_MS};

pub(crate) fn corpus() -> Option<PathBuf> {
    let named = std::env::var_os("TEST_CORPUS").map(PathBuf::from);
    let folder = named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus"));
    if folder.is_dir() {
        return Some(folder);
    }
    let said = format!("SKIPPED: no series of real devices at {}", folder.display());
    say(&format!("{said}\n"));
    None
}

/// A file's rows, split at commas.
pub(crate) fn rows(folder: &Path, name: &str) -> Vec<Vec<String>> {
    let path = folder.join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines()
        .map(|line| line.split(',').map(str::to_owned).collect())
        .collect()
}

/// Milliseconds of a civil date and hour (Gregorian), as if it were UTC.
pub(crate) fn civil(year: i64, month: i64, day: i64, hour: i64) -> i64 {
    let shifted = if month <= 2 { year - 1 } else { year };
    let months = (month + 9) % 12;
    let day_of_year = (153 * months + 2) / 5 + day - 1;
    let days = 365 * shifted + shifted.div_euclid(4) - shifted.div_euclid(100) + shifted.div_euclid(400);
    (days + day_of_year - 719_468) * DAY_MS + hour * HOUR_MS
}

/// `2024-01-31…` or `2024-01-31 15:45:00`.
pub(crate) fn date(text: &str) -> i64 {
    let numbers: Vec<i64> = text
        .split(['-', ' ', 'T', ':'])
        .map(|part| part.parse().unwrap())
        .collect();
    let get = |index: usize| numbers.get(index).copied().unwrap_or_default();
    civil(get(0), get(1), get(2), get(3)) + get(4) * 60_000
}
