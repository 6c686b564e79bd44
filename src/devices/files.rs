//! The folder of identity files: all its records, or everything that is wrong with them.
//!
//! `*.toml` has `[[device]]` tables, `*.ndjson` one JSON object per line; anything else in the folder, and hidden files, are left
//! alone. A mistake has its file and line, and quotes no credential.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::record::Record;
use super::register::{Clash, Register};
use crate::operate::mistake::{Mistake, Mistakes};
use crate::operate::spelling;
use crate::outcome::quoted;

/// Where a record stands.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    file: usize,
    line: usize,
}

/// What a folder holds.
#[derive(Debug, Default)]
struct Read {
    files: Vec<PathBuf>,
    records: Vec<Record>,
    // Of each record.
    places: Vec<Place>,
    mistakes: Mistakes,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    device: Vec<toml::Spanned<toml::Value>>,
}

/// A million devices have 120 MB.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Mistakes that are listed; with more, the first show what is wrong.
const MISTAKES_MAX: usize = 100;

/// Devices with kinds that do not exist, of those that are listed.
const UNKNOWN_MAX: usize = 20;

/// A record, and where it stands.
#[derive(Clone, Debug)]
pub struct Found {
    pub file: PathBuf,
    /// From 1.
    pub line: usize,
    pub record: Record,
}

/// Reads a folder. A device of `before` that has not changed goes on as it is.
///
/// # Errors
/// Everything that is wrong, up to a hundred mistakes; and no file at all where there were devices: a disk that is not mounted, a
/// copy that failed, would lock out a city.
pub fn read(folder: &Path, before: &Register) -> Result<Register, Mistakes> {
    let mut read = all(folder);
    if read.files.is_empty() && read.mistakes.0.is_empty() && !before.is_empty() {
        let text = format!(
            "{} has no file *.toml or *.ndjson any more; leave an empty one if nobody is to send",
            folder.display()
        );
        read.mistakes.push("devices.folder", text);
    }
    read.finish(before)
}

/// Reads a folder, for whoever changes it.
///
/// # Errors
/// Everything that is wrong, up to a hundred mistakes.
pub fn records(folder: &Path) -> Result<Vec<Found>, Mistakes> {
    let read = all(folder);
    let (files, places, records) = (read.files.clone(), read.places.clone(), read.records.clone());
    read.finish(&Register::default())?;
    let found = records
        .into_iter()
        .zip(places)
        .map(|(record, Place { file, line })| Found {
            file: files[file].clone(),
            line,
            record,
        });
    Ok(found.collect())
}

/// Devices that may write a kind that does not exist, each with its place: a warning, since a schema may come later. `known` are the
/// kinds that do.
pub fn unknown_kinds(folder: &Path, known: &[&str]) -> Vec<Mistake> {
    let read = all(folder);
    let mut unknown = Vec::new();
    for (record, place) in read.records.iter().zip(&read.places) {
        for kind in record.kinds.iter().filter(|kind| !known.contains(&kind.as_str())) {
            let text = format!("device {}: {}", record.id, unknown_kind(kind, known));
            unknown.push(Mistake::new("", text).at(read.place(place.file, Some(place.line))));
        }
    }
    let more = unknown.len().saturating_sub(UNKNOWN_MAX);
    unknown.truncate(UNKNOWN_MAX);
    if more > 0 {
        unknown.push(Mistake::new(
            "",
            format!("and {more} more with kinds that do not exist"),
        ));
    }
    unknown
}

/// What is wrong with a kind that does not exist.
pub fn unknown_kind(kind: &str, known: &[&str]) -> String {
    let (shown, hint, known) = (
        quoted(kind),
        spelling::hint(kind, known.iter().copied()),
        known.join(", "),
    );
    format!("kinds: \"{shown}\" does not exist{hint}; known kinds: {known}")
}

fn all(folder: &Path) -> Read {
    let mut read = Read::default();
    match files(folder) {
        Ok(files) => read.files = files,
        Err(error) => read.mistakes.push(
            "devices.folder",
            format!("{} cannot be read: {error}", folder.display()),
        ),
    }
    for file in 0..read.files.len() {
        read.file(file);
    }
    read
}

/// The files that hold records, by name.
///
/// # Errors
/// The folder cannot be read.
pub fn files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && Format::of(&path).is_some() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Toml,
    Ndjson,
}

// === impl Format ===

impl Format {
    /// By the end of its name.
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "toml" => Some(Format::Toml),
            "ndjson" => Some(Format::Ndjson),
            _ => None,
        }
    }
}

/// A file that is one: a pipe or a device would be read for ever.
fn read_text(path: &Path) -> std::io::Result<String> {
    use std::io::{Error, ErrorKind};
    let found = std::fs::metadata(path)?;
    if !found.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "it is no regular file"));
    }
    if found.len() > FILE_BYTES_MAX {
        let text = format!("it has more than {} MiB", FILE_BYTES_MAX / 1024 / 1024);
        return Err(Error::new(ErrorKind::FileTooLarge, text));
    }
    std::fs::read_to_string(path)
}

/// Line breaks.
fn lines_in(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte == b'\n').count()
}

// === impl Read ===

impl Read {
    fn file(&mut self, file: usize) {
        let path = &self.files[file];
        match (read_text(path), Format::of(path)) {
            (Err(error), _) => self.mistake(file, None, format!("cannot be read: {error}")),
            (Ok(text), Some(Format::Toml)) => self.toml(file, &text),
            (Ok(text), _) => self.ndjson(file, &text),
        }
    }

    fn ndjson(&mut self, file: usize, text: &str) {
        for (index, line) in text.lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let parsed = serde_json::from_str(line).map_err(|error| error.to_string());
            match parsed.and_then(Record::from_value) {
                Ok(record) => self.record(record, Place { file, line: index + 1 }),
                Err(text) => {
                    // Its own place counts within the line.
                    let text = text.rsplit_once(" at line 1 column ").map_or(&*text, |(text, _)| text);
                    self.mistake(file, Some(index + 1), text.to_owned());
                }
            }
        }
    }

    fn toml(&mut self, file: usize, text: &str) {
        // The message alone: the error in full quotes the line, and a value that is no list.
        let parsed = toml::from_str::<toml::Table>(text).and_then(|table| {
            let is_list = table.get("device").is_none_or(toml::Value::is_array);
            is_list.then(|| toml::from_str::<Document>(text)).transpose()
        });
        let document = match parsed {
            Ok(Some(document)) => document,
            Ok(None) => return self.mistake(file, None, "must have a table [[device]] for each device".to_owned()),
            Err(error) => {
                let line = error.span().and_then(|span| text.as_bytes().get(..span.start));
                let line = line.map(|before| lines_in(before) + 1);
                return self.mistake(file, line, error.message().to_owned());
            }
        };
        // Counted on from the one before.
        let (mut line, mut counted) = (1, 0);
        for table in document.device {
            let start = table.span().start;
            line += text.as_bytes().get(counted..start).map_or(0, lines_in);
            counted = start;
            let value = serde_json::to_value(table.into_inner()).map_err(|error| error.to_string());
            match value.and_then(Record::from_value) {
                Ok(record) => self.record(record, Place { file, line }),
                Err(text) => self.mistake(file, Some(line), text),
            }
        }
    }

    fn record(&mut self, record: Record, place: Place) {
        for text in record.mistakes() {
            self.mistake(place.file, Some(place.line), text);
        }
        self.records.push(record);
        self.places.push(place);
    }

    fn mistake(&mut self, file: usize, line: Option<usize>, text: String) {
        let place = self.place(file, line);
        self.mistakes.0.push(Mistake::new("", text).at(place));
    }

    fn place(&self, file: usize, line: Option<usize>) -> String {
        let path = self.files[file].display();
        line.map_or_else(|| path.to_string(), |line| format!("{path}:{line}"))
    }

    fn finish(mut self, before: &Register) -> Result<Register, Mistakes> {
        let register = match self.mistakes.0.is_empty() {
            true => Register::new(std::mem::take(&mut self.records), before),
            false => Err(Vec::new()),
        };
        register.map_err(|clashes| {
            for clash in clashes {
                let (first, second, what) = match clash {
                    Clash::Id { first, second } => (first, second, "id: another device has it"),
                    Clash::Key { first, second } => (first, second, "keys: another device has one of them"),
                    Clash::Certificate { first, second } => {
                        (first, second, "certificates: another device has one of them")
                    }
                };
                let (first, second) = (self.places[first].clone(), self.places[second].clone());
                let text = format!("{what}, at {}", self.place(first.file, Some(first.line)));
                self.mistake(second.file, Some(second.line), text);
            }
            let more = self.mistakes.0.len().saturating_sub(MISTAKES_MAX);
            self.mistakes.0.truncate(MISTAKES_MAX);
            if more > 0 {
                self.mistakes.push("", format!("and {more} mistakes more"));
            }
            self.mistakes
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(files: &[(&str, &str)], expected: Result<&[&str], &[&str]>) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let read = read(folder.path(), &Register::default());
        match (read, expected) {
            (Ok(register), Ok(ids)) => {
                assert_eq!(register.len(), ids.len(), "{files:?}");
                assert!(ids.iter().all(|id| register.find(id).is_some()), "{files:?}");
            }
            (Err(mistakes), Err(expected)) => {
                let said = mistakes
                    .to_string()
                    .replace(&format!("{}/", folder.path().display()), "");
                let lines: Vec<_> = said.lines().collect();
                assert_eq!(lines.len(), expected.len(), "{said}");
                for (line, start) in lines.iter().zip(expected) {
                    assert!(line.starts_with(start), "{line}\nexpected {start}");
                }
                assert!(!said.contains("hunter2"), "{said}");
            }
            (read, expected) => panic!("{files:?}: {read:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn both_forms_are_read_and_everything_else_is_left_alone() {
        check(&[], Ok(&[]));
        check(
            &[
                (
                    "north.toml",
                    "# north\n[[device]]\nid = \"a\"\nkinds = [\"traffic\"]\n[[device]]\nid = \"b\"\n",
                ),
                (
                    "south.ndjson",
                    "{\"id\": \"c\"}\n\n{\"id\": \"d\", \"tags\": {\"x\": \"y\"}}\n",
                ),
                ("README.md", "not a record"),
                (".hidden.toml", "not = [toml"),
                ("empty.toml", ""),
            ],
            Ok(&["a", "b", "c", "d"]),
        );
    }

    #[test]
    fn every_mistake_has_its_file_and_line_and_quotes_no_credential() {
        check(
            &[
                (
                    "a.toml",
                    "[[device]]\nid = \"a\"\n\n[[device]]\nid = \"b\"\npassword = \"hunter2\"\n",
                ),
                ("b.toml", "[[device]]\nid = \"b\"\nkeys = [\"hunter2\"]\n"),
                ("c.toml", "[[device]\nid = \"hunter2\"\n"),
                ("d.toml", "[[devices]]\nid = \"a\"\n"),
                (
                    "e.ndjson",
                    "{\"id\": \"a\"}\n{\"id\": \"x y\"}\n{\"id\": \"e\", \"passwords\": [\"hunter2\"]}\n{\"id\": \"hunter2\n",
                ),
                (
                    "f.ndjson",
                    "[]\n\"hunter2\"\n{\"id\": \"f\", \"keys\": \"hunter2\"}\n{\"id\": \"f\", \"passwords\": [[\"hunter2\"]]}\n",
                ),
                ("g.toml", "device = [\"hunter2\"]\n"),
                ("h.toml", "device = \"hunter2\"\n"),
            ],
            Err(&[
                "a.toml:4: unknown field `password`, expected one of `id`, `keys`, `passwords`, `certificates`",
                "b.toml:1: a key is stored as \"sha256:\"",
                "c.toml:1: ",
                "d.toml:1: unknown field `devices`, expected `device`",
                "e.ndjson:2: id: \"x y\" is no device id",
                "e.ndjson:3: a password is stored as its Argon2id hash",
                "e.ndjson:4: EOF while parsing a string",
                "f.ndjson:1: a device must be an object",
                "f.ndjson:2: a device must be an object",
                "f.ndjson:3: keys: must be a list of texts",
                "f.ndjson:4: passwords: must be a list of texts",
                "g.toml:1: a device must be an object",
                "h.toml: must have a table [[device]] for each device",
            ]),
        );
        let hash = format!("sha256:{:064}", 7);
        check(
            &[
                ("a.toml", &format!("[[device]]\nid = \"a\"\nkeys = [\"{hash}\"]\n")),
                (
                    "b.ndjson",
                    &format!("{{\"id\": \"a\"}}\n{{\"id\": \"b\", \"keys\": [\"{hash}\"]}}\n"),
                ),
            ],
            Err(&[
                "b.ndjson:1: id: another device has it, at ",
                "b.ndjson:2: keys: another device has one of them, at ",
            ]),
        );
    }

    #[test]
    fn a_kind_that_does_not_exist_is_said_of_its_device_at_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let toml =
            "[[device]]\nid = \"a\"\nkinds = [\"air\"]\n\n[[device]]\nid = \"b\"\nkinds = [\"trafic\", \"air\"]\n";
        std::fs::write(folder.path().join("a.toml"), toml).unwrap();
        let many: String = (0..30)
            .map(|at| format!("{{\"id\": \"c{at}\", \"kinds\": [\"zebra\"]}}\n"))
            .collect();
        std::fs::write(folder.path().join("b.ndjson"), many).unwrap();
        let said = unknown_kinds(folder.path(), &["air", "traffic"]);
        let said: Vec<_> = said.iter().map(ToString::to_string).collect();
        let (start, first) = (format!("{}/", folder.path().display()), &said[0]);
        assert_eq!(
            first.strip_prefix(&*start).unwrap(),
            "a.toml:5: device b: kinds: \"trafic\" does not exist; did you mean traffic?; known kinds: air, traffic"
        );
        assert!(said[1].ends_with("b.ndjson:1: device c0: kinds: \"zebra\" does not exist; known kinds: air, traffic"));
        assert_eq!(
            (said.len(), &*said[20]),
            (21, "and 11 more with kinds that do not exist")
        );
    }

    #[test]
    fn a_folder_that_is_missing_is_a_mistake_of_the_setting() {
        let mistakes = read(Path::new("/nonexistent/devices"), &Register::default()).unwrap_err();
        assert!(
            mistakes
                .to_string()
                .starts_with("devices.folder: /nonexistent/devices cannot be read: No such file")
        );
    }

    /// Damaged files, by the thousand: each is read or refused, without a panic, and no refusal quotes a credential.
    #[test]
    fn damaged_files_are_refused_and_quote_no_credential() {
        use rand::rngs::StdRng;
        use rand::{RngExt, SeedableRng};
        let seed = std::env::var("TEST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
        println!("TEST_SEED={seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let password =
            "$argon2id$v=19$m=65536,t=8,p=4$c29tZXNhbHRzb21lc2FsdA$MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI";
        let secret = "OTAxMjM0NTY3ODkwMTI";
        let ndjson = format!(
            "{{\"id\": \"a\", \"keys\": [\"sha256:{:064}\"], \"tags\": {{\"x\": \"y\"}}}}\n{{\"id\": \"b\", \"passwords\": [\"{password}\"]}}\n",
            7
        );
        let toml = format!(
            "[[device]]\nid = \"a\"\nacts_for = [\"b*\"]\n[[device]]\nid = \"b\"\npasswords = [\"{password}\"]\n"
        );
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("a.ndjson", ndjson), ("a.toml", toml)] {
            let file = folder.path().join(name);
            for _ in 0..2000 {
                let mut bytes = text.clone().into_bytes();
                for _ in 0..random.random_range(1..4) {
                    let at = random.random_range(0..bytes.len());
                    match random.random_range(0..3) {
                        0 => bytes[at] = random.random(),
                        1 => drop(bytes.remove(at)),
                        _ => bytes.insert(at, *b"\"[]{}=,:\n\\".get(random.random_range(0..10)).unwrap()),
                    }
                }
                std::fs::write(&file, &bytes).unwrap();
                if let Err(mistakes) = read(folder.path(), &Register::default()) {
                    let said = mistakes.to_string();
                    assert!(!said.contains(secret), "{said}\n{}", String::from_utf8_lossy(&bytes));
                }
            }
            std::fs::remove_file(&file).unwrap();
        }
    }

    #[test]
    fn what_is_no_file_or_too_large_is_a_mistake_and_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let check = |name: &str, expected: &str| {
            let mistakes = read(folder.path(), &Register::default()).unwrap_err();
            let said = mistakes.to_string();
            assert!(said.contains(name) && said.contains(expected), "{said}");
        };
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir(path("a.toml")).unwrap();
        check("a.toml", "it is no regular file");
        std::fs::remove_dir(path("a.toml")).unwrap();
        let made = std::process::Command::new("mkfifo")
            .arg(path("b.ndjson"))
            .status()
            .unwrap();
        assert!(made.success());
        check("b.ndjson", "it is no regular file");
        std::fs::remove_file(path("b.ndjson")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", path("c.ndjson")).unwrap();
        check("c.ndjson", "it is no regular file");
        std::fs::remove_file(path("c.ndjson")).unwrap();
        let large = std::fs::File::create(path("d.ndjson")).unwrap();
        large.set_len(FILE_BYTES_MAX + 1).unwrap();
        check("d.ndjson", "it has more than 256 MiB");
    }
}
