//! `state_dir`: the directory in which the gateway keeps what must outlive it, its spool and caches.
//!
//! It is created at the start, if anything is to be kept in it and its parent exists. What is in it is the business of the
//! rooms: `spool/` (unless `spool.folder` is elsewhere), `schema-ids.json` (with a registry).

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use crate::operate::config::Config;

/// The directory cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not exist, and its parent does not let it be created.
    #[error("state_dir: {} cannot be created: {source}; its parent must exist, and be writable", path.display())]
    Create { path: PathBuf, source: io::Error },
    /// What exists there is no directory, or may not be written to.
    #[error("state_dir: {} cannot be used: {source}; it must be a directory, and writable", path.display())]
    Use { path: PathBuf, source: io::Error },
}

/// Whether anything is kept in it.
pub fn is_used(config: &Config) -> bool {
    let is_inside = |path: &Path| path.parent() == Some(&config.state_dir);
    let caches = config.registry.url.is_some() && config.registry.cache_file.as_deref().is_some_and(is_inside);
    caches || (config.spool.enabled && is_inside(&config.spool.folder))
}

/// The directory, if a start would create it.
///
/// # Errors
/// It is needed, and can neither be used nor be created, as far as that can be known without trying.
pub fn to_create(config: &Config) -> Result<Option<&Path>, Error> {
    if !is_used(config) {
        return Ok(None);
    }
    let folder = &*config.state_dir;
    let path = || folder.to_owned();
    if std::fs::symlink_metadata(folder).is_ok() {
        let usable = writable_directory(folder);
        return usable
            .map(|()| None)
            .map_err(|source| Error::Use { path: path(), source });
    }
    let creatable = writable_directory(parent(folder));
    creatable
        .map(|()| Some(folder))
        .map_err(|source| Error::Create { path: path(), source })
}

fn parent(folder: &Path) -> &Path {
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

fn writable_directory(path: &Path) -> io::Result<()> {
    if !std::fs::metadata(path)?.is_dir() {
        return Err(ErrorKind::NotADirectory.into());
    }
    Ok(access(path, Access::WRITE_OK | Access::EXEC_OK)?)
}

/// Creates it, and makes its name durable: what is acknowledged later must be found in it.
///
/// # Errors
/// The system refuses.
pub fn create(config: &Config) -> Result<(), Error> {
    let Some(folder) = to_create(config)? else {
        return Ok(());
    };
    let created = match std::fs::create_dir(folder) {
        // Another gateway was faster.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        created => created,
    };
    let synced = created.and_then(|()| std::fs::File::open(parent(folder))?.sync_all());
    synced.map_err(|source| Error::Create {
        path: folder.to_owned(),
        source,
    })
}

/// A path as it is from anywhere, as people read it.
pub fn absolute(path: &Path) -> String {
    std::path::absolute(path)
        .as_deref()
        .unwrap_or(path)
        .display()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_created_if_something_is_kept_in_it() {
        let parent = tempfile::tempdir().unwrap();
        let state_dir = parent.path().join("state");
        let mut config = Config {
            state_dir: state_dir.clone(),
            ..Config::default()
        };
        config.spool.folder = parent.path().join("spool");
        create(&config).unwrap();
        assert!(!state_dir.exists(), "the spool is elsewhere");
        config.spool.folder = state_dir.join("spool");
        assert_eq!(to_create(&config).unwrap(), Some(&*state_dir));
        create(&config).unwrap();
        assert!(state_dir.is_dir());
        create(&config).unwrap();
        assert_eq!(to_create(&config).unwrap(), None);

        config.state_dir = parent.path().join("a/b");
        config.spool.folder = config.state_dir.join("spool");
        let said = to_create(&config).unwrap_err().to_string();
        let error = create(&config).unwrap_err().to_string();
        assert_eq!(said, error, "a check says what a start says");
        let expected = format!(
            "state_dir: {} cannot be created: No such file",
            config.state_dir.display()
        );
        assert!(error.starts_with(&expected), "{error}");

        config.state_dir = parent.path().join("file");
        config.spool.folder = config.state_dir.join("spool");
        std::fs::write(&config.state_dir, "").unwrap();
        let error = to_create(&config).unwrap_err().to_string();
        let expected = format!(
            "state_dir: {} cannot be used: not a directory",
            config.state_dir.display()
        );
        assert!(error.starts_with(&expected), "{error}");
    }
}
