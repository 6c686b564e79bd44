//! What `citygate devices` does to a folder, and what it says.
//!
//! Commands are given as on a command line; what they leave behind is read as a gateway reads it.

use super::*;
use clap::Parser;
use serde_json::json;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    options: Options,
}

fn try_do(folder: &Path, arguments: &str) -> anyhow::Result<String> {
    let words = ["devices"].into_iter().chain(arguments.split_whitespace());
    let command = Command::try_parse_from(words)?;
    let mut output = Vec::new();
    let mut config = Config::default();
    config.devices.folder = Some(folder.to_owned());
    config.schemas.folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
    run(&command.options, &config, &mut output)?;
    Ok(String::from_utf8(output).unwrap())
}

#[test]
fn a_new_key_replaces_passwords_too_and_links_stay_links() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = elsewhere.path().join("real.ndjson");
    let hash = PasswordHash::of(b"correct horse").unwrap();
    std::fs::write(&file, format!("{{\"id\": \"mast\", \"passwords\": [\"{hash}\"]}}\n")).unwrap();
    let link = folder.path().join("city.ndjson");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let passwords = || register(folder.path()).find("mast").unwrap().passwords().count();
    done(folder.path(), "rotate mast --keep-old");
    assert_eq!(passwords(), 1);
    done(folder.path(), "rotate mast");
    assert_eq!(passwords(), 0);
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
}

fn done(folder: &Path, arguments: &str) -> String {
    try_do(folder, arguments).unwrap_or_else(|error| panic!("{arguments}: {error:#}"))
}

fn register(folder: &Path) -> Register {
    files::read(folder, &Register::default()).unwrap()
}

#[test]
fn a_device_is_added_changed_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let added = done(
        folder,
        "add loop-7 --kind traffic --kind weather --tag district=north --acts-for mast-*",
    );
    let (id, key) = added.trim_end().split_once("  ").unwrap();
    assert_eq!(id, "loop-7");
    let digest = crate::devices::credential::digest(key.as_bytes());
    let found = register(folder);
    assert_eq!(found.find_by_key(&digest).unwrap().0.id(), "loop-7");
    assert!(found.find("loop-7").unwrap().may_write("mast-1", "traffic").is_ok());
    let shown: Value = serde_json::from_str(&done(folder, "show loop-7 --json")).unwrap();
    assert_eq!(shown["kinds"], json!(["traffic", "weather"]));
    assert!(done(folder, "show loop-7").contains("tags         district=north"));
    done(folder, "add mast --kind weather");
    let list = done(folder, "list");
    let words = |at: usize| list.lines().nth(at).unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!(words(0), ["ID", "STATE", "KINDS", "ACTS", "FOR"]);
    assert_eq!(words(1), ["loop-7", "enabled", "traffic,weather", "mast-*"]);
    assert_eq!(
        (words(2), list.lines().count()),
        (vec!["mast", "enabled", "weather", "-"], 3)
    );
    done(folder, "disable loop-7");
    assert!(register(folder).find("loop-7").unwrap().is_disabled());
    done(folder, "enable loop-7");
    let rotated: Value = serde_json::from_str(&done(folder, "rotate loop-7 --keep-old --json")).unwrap();
    let new = crate::devices::credential::digest(rotated["key"].as_str().unwrap().as_bytes());
    let both = register(folder);
    assert!(both.find_by_key(&digest).is_some() && both.find_by_key(&new).is_some());
    done(folder, "rotate loop-7");
    let neither = register(folder);
    assert!(neither.find_by_key(&digest).is_none() && neither.find_by_key(&new).is_none());
    done(folder, "remove loop-7");
    assert_eq!(done(folder, "list --json").lines().count(), 1);
    // No file is left but the one.
    let names = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), [FILE]);
}

#[test]
fn a_certificate_takes_the_place_of_a_key() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let pair = rcgen::generate_simple_self_signed(Vec::new()).unwrap();
    let file = folder.join("loop-9.pem");
    std::fs::write(&file, pair.cert.pem()).unwrap();
    assert_eq!(
        done(
            folder,
            "add loop-7 --certificate CN:loop-7 --certificate dns:Loop-7.example"
        ),
        ""
    );
    assert_eq!(
        done(folder, &format!("add loop-9 --certificate-file {}", file.display())),
        ""
    );
    let shown: Value = serde_json::from_str(&done(folder, "show loop-7 --json")).unwrap();
    assert_eq!(shown["certificates"], json!(["cn:loop-7", "dns:loop-7.example"]));
    assert!(shown.get("keys").is_none(), "{shown}");
    let fingerprint = CertificateName::fingerprint(pair.cert.der());
    assert!(done(folder, "show loop-9").contains(&format!("certificates {fingerprint}")));
    let names = |id: &str| {
        let shown: Value = serde_json::from_str(&done(folder, &format!("show {id} --json"))).unwrap();
        shown["certificates"].clone()
    };
    done(folder, "add-certificate loop-7 --certificate dns:loop-7.other");
    assert_eq!(
        names("loop-7"),
        json!(["cn:loop-7", "dns:loop-7.example", "dns:loop-7.other"])
    );
    // A certificate that may have been stolen is replaced as well, by whatever comes instead.
    done(folder, "rotate loop-7 --certificate cn:loop-7b --keep-old");
    assert_eq!(names("loop-7"), json!(["cn:loop-7b", "cn:loop-7"]));
    assert!(done(folder, "rotate loop-7").contains("cgk_"));
    assert_eq!(names("loop-7"), Value::Null);
    for (arguments, expected) in [
        (
            "add loop-8 --certificate loop-8",
            "a certificate is written as one of its names",
        ),
        (
            "add loop-8 --certificate subject:loop-8",
            "needs a whole name behind it",
        ),
        (
            "add loop-8 --certificate-file /nonexistent",
            "/nonexistent: no certificate in PEM form",
        ),
        (
            &format!("add loop-8 --certificate {fingerprint}"),
            "devices loop-9 and loop-8 have the same certificate",
        ),
    ] {
        let error = format!("{:#}", try_do(folder, arguments).unwrap_err());
        assert!(error.contains(expected), "{arguments}: {error}");
    }
    // Those that are imported with one get no key.
    let list = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&list, "{\"id\": \"c\", \"certificates\": [\"cn:c\"]}\n").unwrap();
    assert_eq!(done(folder, &format!("import {}", list.path().display())), "");
}

#[test]
fn what_cannot_be_done_changes_nothing_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("north.toml"), "[[device]]\nid = \"loop-1\"\n").unwrap();
    done(folder, "add loop-7");
    let before = std::fs::read_to_string(folder.join(FILE)).unwrap();
    let check = |arguments: &str, expected: &str| {
        let error = format!("{:#}", try_do(folder, arguments).unwrap_err());
        assert!(error.contains(expected), "{arguments}: {error}");
        assert_eq!(
            std::fs::read_to_string(folder.join(FILE)).unwrap(),
            before,
            "{arguments}"
        );
    };
    check("add loop-7", "device loop-7 exists, in ");
    check("add loop-1", "north.toml:1");
    check("add a/b", "id: \"a/b\" is no device id");
    check("add ok --acts-for *x", "acts_for: \"*x\"");
    check("add ok --tag north", "a tag is NAME=VALUE");
    check(
        "add ok --kind trafic",
        "device ok: kinds: \"trafic\" does not exist; did you mean traffic?; known kinds: ",
    );
    check("add-certificate loop-7", "give --certificate NAME");
    check("disable loop-8", "there is no device loop-8 in ");
    check("rotate loop-1", "north.toml:1; change it there");
    std::fs::write(folder.join("bad.ndjson"), "{\"id\": \"x y\"}\n").unwrap();
    check("add ok", "bad.ndjson:1: id: \"x y\" is no device id");
}

#[test]
fn many_are_imported_at_once_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let list = tempfile::NamedTempFile::new().unwrap();
    let with_key = format!("{{\"id\": \"c\", \"keys\": [\"{}\"]}}", Key::generate().hash());
    std::fs::write(
        &list,
        format!("{{\"id\": \"a\"}}\n\n{{\"id\": \"b\", \"kinds\": [\"air\"]}}\n{with_key}\n"),
    )
    .unwrap();
    let import = format!("import {}", list.path().display());
    let printed = done(folder.path(), &import);
    assert_eq!(printed.lines().count(), 2, "{printed}");
    assert_eq!(register(folder.path()).len(), 3);
    let error = format!("{:#}", try_do(folder.path(), &import).unwrap_err());
    assert!(error.contains("device a exists"), "{error}");
    // A list that grows is imported again.
    std::fs::write(&list, "{\"id\": \"a\", \"disabled\": true}\n{\"id\": \"d\"}\n").unwrap();
    let printed = done(folder.path(), &format!("{import} --skip-existing"));
    assert!(
        printed.starts_with("d  cgk_") && printed.lines().count() == 1,
        "{printed}"
    );
    assert!(!register(folder.path()).find("a").unwrap().is_disabled());
    std::fs::write(&list, "{\"id\": \"e\"}\n{\"id\": 5}\n").unwrap();
    let error = format!("{:#}", try_do(folder.path(), &import).unwrap_err());
    assert!(error.starts_with("line 2: "), "{error}");
    assert_eq!(register(folder.path()).len(), 4);
}
