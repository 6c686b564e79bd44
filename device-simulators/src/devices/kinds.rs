//! Where kinds come from: the program, which has those of the repository's `schemas/`, or a folder of schemas.
//!
//! A file `<kind>.avsc` is a kind. Those called traffic, weather and energy have devices made after physics, if their file is the
//! program's own but for what its `doc`s say; those of any other follow from its schema. A file that nobody asks for is not opened.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Kind, generic};

/// The program's kinds and their schemas, as the repository had them when this was built (`build.rs`).
const BUNDLED: &[(&str, &str)] = &include!(concat!(env!("OUT_DIR"), "/bundled.rs"));

/// In the place of all names: every kind that there is.
const EVERY: &str = "*";

/// A source of kinds.
#[derive(Clone, Debug, Default)]
pub struct Kinds {
    /// None: the program.
    folder: Option<PathBuf>,
}

// === impl Kinds ===

impl Kinds {
    /// Those that the program has.
    pub fn bundled() -> Kinds {
        Kinds::default()
    }

    /// Those of a folder of `<kind>.avsc` files.
    pub fn of_folder(folder: impl Into<PathBuf>) -> Kinds {
        Kinds {
            folder: Some(folder.into()),
        }
    }

    /// All names: the physical kinds first.
    ///
    /// # Errors
    /// The folder cannot be read, or has no schema.
    pub fn names(&self) -> anyhow::Result<Vec<String>> {
        let bundled = || BUNDLED.iter().map(|(name, _)| (*name).to_owned());
        let physical = || Kind::PHYSICAL.iter().map(|kind| kind.name().to_owned());
        let mut names = match &self.folder {
            None => bundled().collect(),
            Some(folder) => stems(folder)?,
        };
        names.sort_by_key(|name| {
            (
                physical().position(|kind| kind == *name).unwrap_or(usize::MAX),
                name.clone(),
            )
        });
        Ok(names)
    }

    /// The kind of that name.
    ///
    /// # Errors
    /// There is none, or its schema has mistakes: all of them, a line each.
    pub fn get(&self, name: &str) -> anyhow::Result<Kind> {
        let physical = Kind::PHYSICAL.into_iter().find(|kind| kind.name() == name);
        let Some(folder) = &self.folder else {
            let bundled = BUNDLED.iter().find(|(known, _)| *known == name);
            return match (physical, bundled) {
                (Some(kind), _) => Ok(kind),
                (None, Some((name, schema))) => read(name, Path::new(&format!("{name}.avsc")), schema),
                (None, None) => Err(self.unknown(name)),
            };
        };
        let path = folder.join(format!("{name}.avsc"));
        match std::fs::read_to_string(&path) {
            Ok(schema) => match physical {
                Some(kind) if is_same(kind.schema(), &schema) => Ok(kind),
                _ => read(name, &path, &schema),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(self.unknown(name)),
            Err(error) => Err(anyhow::anyhow!("{} cannot be read: {error}", path.display())),
        }
    }

    /// The kinds of these names, each once; of `*`, all.
    ///
    /// # Errors
    /// All that is wrong with any of them, a line each.
    pub fn select(&self, names: &[impl AsRef<str>]) -> anyhow::Result<Vec<Kind>> {
        let named: Vec<String> = match names {
            [every] if every.as_ref() == EVERY => self.names()?,
            names => names.iter().map(|name| name.as_ref().to_owned()).collect(),
        };
        anyhow::ensure!(!named.is_empty(), "no kind is named: name some, or * for every kind");
        let (mut kinds, mut mistakes) = (Vec::new(), Vec::new());
        for name in named {
            match self.get(&name) {
                Ok(kind) => kinds.push(kind),
                Err(error) => mistakes.push(format!("{error:#}")),
            }
        }
        anyhow::ensure!(mistakes.is_empty(), "{}", mistakes.join("\n"));
        kinds.sort();
        kinds.dedup();
        Ok(kinds)
    }

    fn unknown(&self, name: &str) -> anyhow::Error {
        match self.names() {
            Ok(names) => {
                let place = self.folder.as_ref();
                let place = place.map_or_else(String::new, |folder| format!(" in {}", folder.display()));
                anyhow::anyhow!("unknown kind {name}; known kinds{place}: {}", names.join(", "))
            }
            Err(error) => error,
        }
    }
}

/// Whether a schema says the same to a program, however it is written and explained.
fn is_same(one: &str, other: &str) -> bool {
    let parsed = |text| {
        let mut schema: Value = serde_json::from_str(text).ok()?;
        remove_docs(&mut schema);
        Some(schema)
    };
    parsed(one) == parsed(other)
}

fn remove_docs(part: &mut Value) {
    match part {
        Value::Object(members) => {
            members.remove("doc");
            members.values_mut().for_each(remove_docs);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_docs),
        _ => {}
    }
}

fn read(name: &str, path: &Path, schema: &str) -> anyhow::Result<Kind> {
    generic::kind(name, schema).map_err(|mistakes| {
        let lines = mistakes.iter().map(|mistake| format!("{}: {mistake}", path.display()));
        anyhow::anyhow!("{}", lines.collect::<Vec<_>>().join("\n"))
    })
}

fn stems(folder: &Path) -> anyhow::Result<Vec<String>> {
    let unreadable = |error| anyhow::anyhow!("the folder of schemas {} cannot be read: {error}", folder.display());
    let mut stems = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        stems.extend(stem.filter(|_| path.extension().is_some_and(|extension| extension == "avsc")));
    }
    anyhow::ensure!(
        !stems.is_empty(),
        "{}: no <kind>.avsc file in this folder",
        folder.display()
    );
    Ok(stems)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::Device;
    use crate::devices::tests::at;

    #[test]
    fn the_program_has_every_kind_of_the_repository() {
        let folder = Kinds::of_folder(concat!(env!("CARGO_MANIFEST_DIR"), "/../schemas"));
        assert_eq!(Kinds::bundled().names().unwrap(), folder.names().unwrap());
        let kinds = Kinds::bundled().select(&["*"]).unwrap();
        assert_eq!(kinds, folder.select(&["*"]).unwrap());
        assert_eq!(kinds[..3], Kind::PHYSICAL);
        assert!(kinds.iter().all(|kind| kind.is_numbered()));
        for (ours, theirs) in kinds.iter().zip(folder.select(&["*"]).unwrap()) {
            assert_eq!(ours.schema(), theirs.schema());
        }
    }

    #[test]
    fn what_a_doc_says_makes_no_other_device() {
        let folder = tempfile::tempdir().unwrap();
        let write = |text: &str| std::fs::write(folder.path().join("traffic.avsc"), text).unwrap();
        let ours = Kind::TRAFFIC.schema();
        let get = || Kinds::of_folder(folder.path()).select(&["traffic"]).unwrap();
        for (from, to) in [("\"doc\": \"", "\"doc\": \"Here: "), ("  ", " ")] {
            assert!(ours.contains(from));
            write(&ours.replace(from, to));
            assert_eq!(get()[0].schema(), ours, "{to}");
            assert_eq!(Kind::by_schema(&get()), []);
        }
        write(&ours.replacen("\"maximum\": ", "\"maximum\": 1", 1));
        assert_ne!(get()[0].schema(), ours);
        assert_eq!(Kind::by_schema(&get()), [Kind::TRAFFIC]);
    }

    #[test]
    fn mistakes_name_the_file_the_field_and_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, field: &str| {
            let text = format!(r#"{{"type":"record","name":"R","fields":[{field}]}}"#);
            std::fs::write(folder.path().join(name), text).unwrap();
        };
        write(
            "flow.avsc",
            r#"{"name":"flow","type":"double","maximum":5,"simulate":{"mean":9}}"#,
        );
        write("good.avsc", r#"{"name":"flow","type":"double"}"#);
        write("rain.avsc", r#"{"name":"rain","type":"int","simulate":{"maen":9}}"#);
        write("traffic.avsc", r#"{"name":"any","type":"int"}"#);
        let kinds = Kinds::of_folder(folder.path());
        let check = |names: &[&str], expected: &str| {
            let error = kinds.select(names).unwrap_err().to_string();
            assert_eq!(error.replace(&format!("{}/", folder.path().display()), ""), expected);
        };
        let flow = "flow.avsc: field flow: simulate.mean 9 is beyond maximum 5";
        let rain = "rain.avsc: field rain: simulate.maen is no hint; did you mean mean?";
        check(&["flow"], flow);
        check(&["*"], &format!("{flow}\n{rain}"));
        let known = format!("known kinds in {}: traffic, flow, good, rain", folder.path().display());
        check(&["floww", "good"], &format!("unknown kind floww; {known}"));
        check(&[], "no kind is named: name some, or * for every kind");
        let good = kinds.select(&["good", "traffic", "good"]).unwrap();
        assert_eq!(
            good.iter().map(|kind| kind.name()).collect::<Vec<_>>(),
            ["good", "traffic"]
        );
        assert!(good.iter().all(|kind| !kind.is_numbered()));
        assert_eq!(good[1], Kind::TRAFFIC, "it counts as that");
        assert!(good[1].schema().contains("any"), "the folder's own");
        let device = Device::new(good[1], 7, 1);
        assert!(device.reading(1, at(8.0)).starts_with(br#"{"any":"#), "by its schema");
        assert_eq!(Kind::by_schema(&good), [good[1]], "which is said");
        let missing = Kinds::of_folder("/nonexistent").select(&["*"]).unwrap_err();
        assert!(
            missing
                .to_string()
                .starts_with("the folder of schemas /nonexistent cannot be read")
        );
    }
}
