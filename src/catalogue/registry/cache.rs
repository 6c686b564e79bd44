//! The schema ids of earlier starts, in a file, so that a restart works while the registry is unavailable.
//!
//! Ids belong to the registry that gave them: with another URL they would name other schemas, and no consumer could read
//! the values. They are therefore kept by URL (without credentials), and serve only for the same text of the schema.
//! Version 1 of the file did not say whose ids they are; they serve as before until a registry has confirmed its own.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tracing::warn;

const VERSION: u32 = 2;

/// The file.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Cache {
    version: u32,
    registries: BTreeMap<String, Subjects>,
    /// What version 1 kept. Always written: a program of that version finds it empty, and asks the registry.
    subjects: Subjects,
}

/// By subject.
type Subjects = BTreeMap<String, Cached>;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Cached {
    schema: String,
    id: u32,
}

// === impl Cache ===

impl Cache {
    /// Whatever can be read of the file; a failure costs only the convenience.
    pub(super) fn read(path: &Path) -> Self {
        let path_shown = path.display();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Cache::default(),
            Err(error) => {
                warn!(path = %path_shown, %error, "the schema ids that were kept cannot be read; asking the registry for all");
                return Cache::default();
            }
        };
        match serde_json::from_str::<Cache>(&text) {
            Ok(cache) if cache.version <= VERSION => cache,
            Ok(cache) => {
                let version = cache.version;
                warn!(path = %path_shown, version, "the schema ids were kept by a later version; asking the registry for all");
                Cache::default()
            }
            Err(error) => {
                warn!(path = %path_shown, %error, "the schema ids that were kept cannot be read; asking the registry for all");
                Cache::default()
            }
        }
    }

    /// The id that the registry at `url` gave to this schema.
    pub(super) fn id(&self, url: &str, subject: &str, schema: &str) -> Option<u32> {
        let own = self.registries.get(url).and_then(|subjects| subjects.get(subject));
        let kept = own.or_else(|| self.subjects.get(subject))?;
        (kept.schema == schema).then_some(kept.id)
    }

    /// Whether the id of a subject was kept by version 1, which did not say whose it is.
    pub(super) fn is_of_unknown_registry(&self, url: &str, subject: &str) -> bool {
        let is_own = self.registries.get(url).is_some_and(|own| own.contains_key(subject));
        !is_own && self.subjects.contains_key(subject)
    }

    /// Keeps what the registry at `url` said.
    pub(super) fn keep(&mut self, url: &str, subject: String, schema: &str, id: u32) {
        self.subjects.remove(&subject);
        let cached = Cached {
            schema: schema.to_owned(),
            id,
        };
        self.registries
            .entry(url.to_owned())
            .or_default()
            .insert(subject, cached);
    }

    /// Replaces the file as a whole; a failure costs only the convenience.
    pub(super) fn write(&mut self, path: &Path) {
        self.version = VERSION;
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let written = tempfile::NamedTempFile::new_in(folder).and_then(|file| {
            serde_json::to_writer_pretty(&file, self)?;
            file.as_file().sync_all()?;
            file.persist(path).map_err(|error| error.error)
        });
        if let Err(error) = written {
            warn!(path = %path.display(), %error, "the schema ids could not be kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "http://a:8081";
    const B: &str = "http://b:8081";

    #[test]
    fn ids_serve_the_registry_that_gave_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ids.json");
        let mut cache = Cache::read(&path);
        cache.keep(A, "x-value".into(), "schema", 7);
        cache.keep(B, "x-value".into(), "schema", 8);
        cache.write(&path);
        let cache = Cache::read(&path);
        let check = |url: &str, subject: &str, schema: &str, expected: Option<u32>| {
            assert_eq!(cache.id(url, subject, schema), expected, "{url} {subject} {schema}");
        };
        check(A, "x-value", "schema", Some(7));
        check(B, "x-value", "schema", Some(8));
        check("http://c:8081", "x-value", "schema", None);
        check(A, "x-value", "another schema", None);
        check(A, "y-value", "schema", None);
    }

    #[test]
    fn the_file_of_version_1_serves_until_a_registry_has_confirmed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ids.json");
        let first = r#"{"subjects": {"x-value": {"schema": "s", "id": 7}, "y-value": {"schema": "s", "id": 9}}}"#;
        std::fs::write(&path, first).unwrap();
        let mut cache = Cache::read(&path);
        assert_eq!(cache.id(A, "x-value", "s"), Some(7));
        assert!(cache.is_of_unknown_registry(A, "x-value"));
        cache.keep(A, "x-value".into(), "s", 70);
        cache.write(&path);
        let cache = Cache::read(&path);
        assert_eq!(cache.id(A, "x-value", "s"), Some(70));
        assert!(!cache.is_of_unknown_registry(A, "x-value"));
        assert_eq!(cache.id(B, "x-value", "s"), None, "no longer anybody's");
        assert_eq!(cache.id(B, "y-value", "s"), Some(9));
        let as_version_1: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert!(as_version_1["subjects"].is_object(), "version 1 can still read it");
    }

    #[test]
    fn what_cannot_be_read_is_as_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ids.json");
        let later = r#"{"version": 3, "registries": {"http://a:8081": {"x-value": {"schema": "s", "id": 7}}}}"#;
        for text in ["", "[", "[]", later] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(Cache::read(&path), Cache::default(), "{text}");
        }
    }
}
