//! Lists the schemas of the repository (`schemas/*.avsc`), so that one file more there is one kind more of the fleet.
//!
//! Writes `bundled.rs`: the name and the text of each, in the order of their names; `devices::kinds` includes it.

use std::fmt::Write as _;
use std::io::{Error, Result};
use std::path::Path;
use std::{env, fs};

fn main() -> Result<()> {
    // Of the checkout that is built now: cargo may run a program that was compiled in another one with the same target folder.
    let package = env::var("CARGO_MANIFEST_DIR").map_err(Error::other)?;
    let folder = Path::new(&package).join("../schemas");
    println!("cargo::rerun-if-changed=../schemas");
    let mut files: Vec<_> = fs::read_dir(&folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "avsc"));
    files.sort();
    let mut list = String::from("[\n");
    for file in files {
        let name = file.file_stem().unwrap_or_default();
        let text = fs::read_to_string(&file)?;
        writeln!(list, "    ({name:?}, {text:?}),").map_err(Error::other)?;
    }
    list.push(']');
    let folder = env::var("OUT_DIR").map_err(Error::other)?;
    fs::write(Path::new(&folder).join("bundled.rs"), list)
}
