//! Identity files: any file is read or refused, and what is read is the same when it is written and read again.
//!
//! The first byte of an input chooses the form, all else is the file.
//!
//! ```text
//! cargo fuzz run --fuzz-dir tests/fuzz --target-dir target/fuzz -s none identities
//! ```

#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use citygate::devices::files;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

/// Removed by whoever removes temporary files: libFuzzer ends without a word.
static FOLDERS: LazyLock<[TempDir; 2]> = LazyLock::new(|| [(); 2].map(|()| tempfile::tempdir().expect("a folder")));

/// What the folder says with this one file in it, as text.
fn records(folder: &Path, name: &str, text: &[u8]) -> Option<Vec<String>> {
    let file = folder.join(name);
    std::fs::write(&file, text).expect("it is written");
    let found = files::records(folder);
    std::fs::remove_file(&file).expect("it is removed");
    let found = found.ok()?.into_iter();
    Some(
        found
            .map(|found| serde_json::to_string(&found.record).expect("a record is JSON"))
            .collect(),
    )
}

fuzz_target!(|input: &[u8]| {
    let Some((choice, text)) = input.split_first() else {
        return;
    };
    let name = if choice % 2 == 0 { "a.ndjson" } else { "a.toml" };
    if let Some(read) = records(FOLDERS[0].path(), name, text) {
        let again = records(FOLDERS[1].path(), "a.ndjson", read.join("\n").as_bytes());
        assert_eq!(again, Some(read));
    }
});
