//! What a gateway does at its start with a spool's folder that it cannot use: it ends, says why, and touches nothing.
//!
//! The program as its operator runs it, for its exit code and its words. Kafka need not be available.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use bytesize::ByteSize;
use citygate::deliver::spool::{self, RealDisk, Spool, Writer, segment};
use citygate::operate::clock::SystemClock;
use tempfile::TempDir;

use crate::harness::program::Program;
use crate::harness::{Broker, Via, broker, eventually, gateway, repository, say_skipped};

/// Somebody who owns no file: root may write wherever it likes.
const NOBODY: u32 = 65534;

/// Opens a spool as a gateway does, and holds it until the writer is dropped; what the writer does comes in turns.
fn open(folder: &Path) -> (Spool<()>, Writer<()>) {
    let config = spool::Config {
        folder: folder.to_owned(),
        segment_bytes: ByteSize::mib(1),
        ..spool::Config::default()
    };
    let disk = Arc::new(RealDisk::default());
    let (spool, writer, _) = spool::open_stepwise(&config, disk, Arc::new(SystemClock), |_| {}).unwrap();
    (spool, writer)
}

/// A folder with a spool in it that holds a few entries; its gateway is gone.
fn ground() -> (TempDir, PathBuf) {
    let parent = TempDir::new().unwrap();
    let folder = parent.path().join("spool");
    let (spool, mut writer) = open(&folder);
    for entry in 0..10 {
        spool.append(vec![entry; 1000], ()).unwrap();
    }
    writer.turn();
    writer.finish();
    (parent, folder)
}

/// Everything below a folder: the bytes of files, nothing for folders.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
            found.insert(path, None);
        } else {
            let bytes = fs::read(&path).unwrap();
            found.insert(path, Some(bytes));
        }
    }
    found
}

fn segment_of(folder: &Path) -> PathBuf {
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|end| end == "segment");
    contents(folder).into_keys().find(is_segment).unwrap()
}

/// Starts `citygate run` or `citygate check` with this spool; `Err`: the system refused to start it as this user.
fn start(asked: &str, folder: &Path, files: &Path, user: Option<u32>) -> std::io::Result<Child> {
    let config = format!(
        r#"
        mqtt.listen = "127.0.0.1:0"
        coap.listen = "127.0.0.1:0"
        http.listen = "127.0.0.1:0"
        admin.listen = "127.0.0.1:0"
        kafka.bootstrap_servers = "127.0.0.1:9"
        schemas.folder = {:?}
        spool.enabled = true
        spool.folder = {folder:?}
        spool.segment_bytes = "1 MiB"
        spool.entry_bytes_max = "900 KiB"
        "#,
        schemas(files),
    );
    fs::set_permissions(files, Permissions::from_mode(0o755)).unwrap();
    fs::write(files.join("citygate.toml"), config).unwrap();
    let mut command = Command::new(match user {
        Some(_) => for_others(files)?,
        None => env!("CARGO_BIN_EXE_citygate").into(),
    });
    command
        .args([asked, "--config"])
        .arg(files.join("citygate.toml"))
        .stdin(Stdio::null())
        .stdout(File::create(files.join("stdout")).unwrap())
        .stderr(File::create(files.join("stderr")).unwrap());
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    command.spawn()
}

/// The program where others may run it: the folder it was built in may be closed to them.
fn for_others(files: &Path) -> std::io::Result<PathBuf> {
    let program = files.join("citygate");
    fs::copy(env!("CARGO_BIN_EXE_citygate"), &program)?;
    Ok(program)
}

/// The schemas where others may read them.
fn schemas(files: &Path) -> PathBuf {
    let folder = files.join("schemas");
    fs::create_dir(&folder).unwrap();
    for file in fs::read_dir(repository().join("schemas")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), folder.join(file.file_name())).unwrap();
    }
    folder
}

/// Waits for its end; kills it if it does not come.
async fn ended(mut child: Child) -> ExitStatus {
    struct Kill<'a>(&'a mut Child);
    impl Drop for Kill<'_> {
        fn drop(&mut self) {
            // It has ended already unless the test fails.
            let _killed = self.0.kill();
            let _reaped = self.0.wait();
        }
    }
    let child = Kill(&mut child);
    eventually("the program ends", async || child.0.try_wait().unwrap()).await
}

/// Spoils a spool, starts a gateway on what `spoil` returns, and looks for `expected` in what it says, and for the same in
/// what `citygate check` does.
async fn check(spoil: impl FnOnce(&Path) -> PathBuf, user: Option<u32>, expected: &[&str]) {
    let (parent, folder) = ground();
    let chosen = spoil(&folder);
    let before = contents(parent.path());
    let mut wrong = Vec::new();
    for asked in ["run", "check"] {
        let files = TempDir::new().unwrap();
        let child = match start(asked, &chosen, files.path(), user) {
            Ok(child) => child,
            Err(error) if user.is_some() => return say_skipped(&format!("{expected:?}: {error}")),
            Err(error) => panic!("{error}"),
        };
        let status = ended(child).await;
        let read = |name: &str| fs::read_to_string(files.path().join(name)).unwrap();
        let said = format!("{}{}", read("stdout"), read("stderr"));
        assert_eq!(status.code(), Some(1), "{said}");
        for words in expected {
            assert!(said.contains(words), "{words:?} is not in:\n{said}");
        }
        assert!(said.contains(parent.path().to_str().unwrap()), "no path in:\n{said}");
        assert!(
            contents(parent.path()) == before,
            "{expected:?}: the folder was changed"
        );
        let about_spool = said.lines().map(|line| line.strip_prefix("error    ").unwrap_or(line));
        let about_spool = about_spool.filter(|line| line.starts_with("spool: "));
        wrong.push(about_spool.map(str::to_owned).collect::<Vec<_>>());
    }
    assert_eq!(wrong[0], wrong[1], "run and check do not say the same");
}

#[tokio::test]
async fn what_the_spool_did_not_write_is_left_alone() {
    let foreign = |name: &'static str, bytes: usize| {
        move |folder: &Path| {
            fs::write(folder.join(name), vec![b'x'; bytes]).unwrap();
            folder.to_owned()
        }
    };
    let advice = "is not a file of the spool; give the spool a folder of its own";
    check(foreign("notes.txt", 4), None, &["/notes.txt", advice]).await;
    check(
        foreign("0000000099.segment", 64 << 10),
        None,
        &["/0000000099.segment", advice],
    )
    .await;
    // A folder that has never been a spool's gets not even a lock.
    let other = |folder: &Path| {
        let other = folder.with_file_name("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("photo.jpg"), "mine").unwrap();
        other
    };
    check(other, None, &["/other/photo.jpg", advice]).await;
}

/// Its good readings go to Kafka; that others are gone is said once, and counted; what is left of it is kept.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_segment_that_was_cut_short_the_good_readings_are_sent() {
    const READINGS: u64 = 20;
    let broker = Broker::any();
    let nowhere = [("CITYGATE_KAFKA__BOOTSTRAP_SERVERS", Path::new("127.0.0.1:1"))];
    let mut program = Program::start_with(&broker, &nowhere).await;
    let mut client = program.client(Via::Http).await;
    for sequence in 1..=READINGS {
        let reading = format!(r#"{{"temperature_c": 21.5, "sequence": {sequence}}}"#);
        let answer = client.send("devices/cut/weather", "", reading.as_bytes()).await;
        assert!(answer.is_yes(Via::Http), "{answer:?}");
    }
    program.signal("TERM");
    assert_eq!(program.ended().await.code(), Some(0), "{}", program.said());
    let segment = segment_of(&program.spool());
    let written = fs::read(&segment).unwrap();
    let half = written.iter().rposition(|byte| *byte != 0).unwrap() / 2;
    let file = OpenOptions::new().write(true).open(&segment).unwrap();
    file.set_len(half as u64).unwrap();

    let check = program.check();
    assert!(
        !check
            .lines()
            .any(|line| line.starts_with("error") && line.contains("spool")),
        "{check}"
    );
    program.start_again().await;
    let schema = gateway::schema(&repository().join("schemas"), "weather");
    let topic = format!("{}weather", program.topic_prefix);
    let sequences = || -> Vec<u64> {
        let arrived = gateway::decoded(&schema, broker::read_all(&broker.servers, &topic));
        let numbers = arrived
            .iter()
            .map(|arrived| arrived.reading["sequence"].as_u64().unwrap());
        numbers.collect()
    };
    eventually("the spool is empty, and kafka has the readings", async || {
        let left = program.scrape().await.sum("citygate_spool_readings", &[]);
        (left == 0 && !sequences().is_empty()).then_some(())
    })
    .await;
    let sent = sequences();
    assert_eq!(sent, (1..=sent.len() as u64).collect::<Vec<_>>(), "all up to the cut");
    assert!((7..14).contains(&sent.len()), "{sent:?}");
    let said = program.said();
    assert_eq!(said.matches("the spool is damaged").count(), 1, "{said}");
    assert!(said.contains("more_unknown=true"), "{said}");
    assert_eq!(program.scrape().await.sum("citygate_spool_damaged_places", &[]), 1);
    assert!(
        program
            .try_admin("/status")
            .await
            .unwrap()
            .contains("\"damaged_places\": 1,")
    );
    let name = segment.file_stem().unwrap().to_str().unwrap();
    let kept = segment.with_file_name(format!("{name}-cut-{half}.damaged"));
    assert_eq!(fs::read(kept).unwrap(), written[..half]);
}

#[tokio::test]
async fn a_later_version_is_left_alone() {
    let advice = "is of version 2, this program reads version 1; start the version that wrote it";
    let later_segment = |folder: &Path| {
        let path = segment_of(folder);
        let mut header = fs::read(&path).unwrap();
        header.truncate(segment::HEADER_BYTES);
        header[8] = 2;
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..]);
        header[12..16].copy_from_slice(&checksum.to_le_bytes());
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&header, 0).unwrap();
        folder.to_owned()
    };
    check(later_segment, None, &[".segment ", advice]).await;
    let later_cursor = |folder: &Path| {
        let path = folder.join("cursor");
        let mut slot = fs::read(&path).unwrap();
        slot.drain(..4096);
        slot[8] = 2;
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&slot[..12]), &slot[16..]);
        slot[12..16].copy_from_slice(&checksum.to_le_bytes());
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&slot, 4096).unwrap();
        folder.to_owned()
    };
    check(later_cursor, None, &["/cursor ", advice]).await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_is_named() {
    let missing = |folder: &Path| folder.with_file_name("missing").join("spool");
    check(
        missing,
        None,
        &["cannot create the folder", "/missing/spool", "its parent must exist"],
    )
    .await;
    let file = |folder: &Path| {
        let file = folder.with_file_name("file");
        fs::write(&file, "mine").unwrap();
        file
    };
    check(file, None, &["cannot create the folder", "/file", "must be a folder"]).await;
    let below_a_file = |folder: &Path| {
        let file = folder.with_file_name("file");
        fs::write(&file, "mine").unwrap();
        file.join("spool")
    };
    check(
        below_a_file,
        None,
        &["cannot create the folder", "/file/spool", "must be a folder"],
    )
    .await;
}

#[tokio::test]
async fn a_folder_that_is_read_only_is_named() {
    let user = rustix::process::geteuid().is_root().then_some(NOBODY);
    let read_only = |files: u32| {
        move |folder: &Path| {
            for path in contents(folder).into_keys() {
                chown(&path, user, user).unwrap();
                fs::set_permissions(path, Permissions::from_mode(files)).unwrap();
            }
            fs::set_permissions(folder, Permissions::from_mode(0o555)).unwrap();
            fs::set_permissions(folder.parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
            folder.to_owned()
        }
    };
    let advice = "the gateway must be able to read and write there";
    check(read_only(0o444), user, &["/spool/lock: Permission denied", advice]).await;
    // Its files can be written to, and no new one can be made.
    check(read_only(0o644), user, &["/spool/filling: Permission denied", advice]).await;
    let read_only_parent = |folder: &Path| {
        let parent = folder.with_file_name("parent");
        fs::create_dir(&parent).unwrap();
        fs::set_permissions(&parent, Permissions::from_mode(0o555)).unwrap();
        fs::set_permissions(folder.parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
        parent.join("spool")
    };
    check(read_only_parent, user, &["/parent/spool: Permission denied", advice]).await;
}

#[tokio::test]
async fn a_folder_that_another_gateway_holds_is_left_alone() {
    let mut held = None;
    let hold = |folder: &Path| {
        held = Some(open(folder));
        folder.to_owned()
    };
    let advice = "is locked by another gateway; two gateways need two folders";
    check(hold, None, &["/spool/lock", advice]).await;
}
