//! The folder of the SQL that computes results: `*.sql`, run at start in the order of their names, each to be run any number of
//! times, and `jobs.toml`, statements that are run again and again. Read once, at start; running them is left to
//! [`jobs`](super::jobs).

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

/// What the files run at start are called among the jobs.
pub const FILES: &str = "sql_files";

/// What is in the folder.
#[derive(Clone, Debug, Default)]
pub struct Sql {
    pub files: Vec<PathBuf>,
    pub jobs: Vec<Job>,
}

impl Sql {
    /// What to warn of, if there is nothing to compute.
    pub fn warning(&self, folder: &Path) -> Option<String> {
        let is_empty = self.files.is_empty() && self.jobs.is_empty();
        is_empty.then(|| {
            format!(
                "store.sql_folder: {} has no SQL files and no jobs: readings are stored, and nothing is computed of them",
                folder.display()
            )
        })
    }
}

/// A statement that is run again and again.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    pub name: String,
    /// From the beginning of one run to that of the next.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub every: Duration,
    /// One statement or several.
    pub sql: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JobsFile {
    #[serde(default)]
    job: Vec<Job>,
}

/// The folder is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("store.sql_folder: {} cannot be read: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{}: {why}", path.display())]
    Jobs { path: PathBuf, why: String },
}

/// What is in the folder; nothing, if there is none.
///
/// # Errors
/// It cannot be read, or its jobs are not as they should be.
pub fn read(folder: &Path) -> Result<Sql, Error> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Unreadable { path, source }
    };
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Sql::default()),
        entries => entries.map_err(unreadable(folder))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable(folder))?.path();
        if path.extension().is_some_and(|extension| extension == "sql") {
            files.push(path);
        }
    }
    files.sort();
    let path = folder.join("jobs.toml");
    let jobs = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        text => parse(&text.map_err(unreadable(&path))?).map_err(|why| Error::Jobs { path, why })?,
    };
    Ok(Sql { files, jobs })
}

fn parse(text: &str) -> Result<Vec<Job>, String> {
    let file: JobsFile = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
    for (index, job) in file.job.iter().enumerate() {
        let name = &job.name;
        if name.is_empty() || name == FILES || file.job[..index].iter().any(|other| other.name == *name) {
            return Err(format!(
                "job {name:?}: each job needs a name of its own, other than {FILES}"
            ));
        }
        if job.every < Duration::from_millis(100) {
            return Err(format!("job {name:?}: every must be at least 100ms"));
        }
    }
    Ok(file.job)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_read_or_it_is_said_what_is_wrong() {
        let check = |text: &str, expected: Result<usize, &str>| match (parse(text), expected) {
            (Ok(jobs), Ok(expected)) => assert_eq!(jobs.len(), expected, "{text}"),
            (Err(why), Err(expected)) => assert!(why.contains(expected), "{why}"),
            (is, _) => panic!("{text}: {is:?}"),
        };
        check("", Ok(0));
        let job =
            |name: &str, every: &str| format!("[[job]]\nname = \"{name}\"\nevery = \"{every}\"\nsql = \"select 1\"\n");
        check(&job("windows", "5s"), Ok(1));
        check(&[job("a", "5s"), job("b", "1h")].concat(), Ok(2));
        check(
            &[job("a", "5s"), job("a", "1h")].concat(),
            Err("job \"a\": each job needs a name of its own"),
        );
        check(&job("sql_files", "5s"), Err("other than sql_files"));
        check(&job("a", "1ms"), Err("at least 100ms"));
        check(
            "[[job]]\nname = \"a\"\nsql = \"select 1\"",
            Err("missing field `every`"),
        );
        check(
            &job("a", "5s").replace("sql", "command"),
            Err("unknown field `command`"),
        );
    }
}
