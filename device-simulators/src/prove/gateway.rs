//! The gateway under proof: the real program, a process of its own, with a generated configuration.
//!
//! Every life of it has the same ports, the same configuration and the same spool folder.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use reqwest::Client;
use rustix::process::{Pid, Signal, kill_process};

use super::identities::Identities;
use super::ports::free_block;

/// How long the gateway may take until it is ready, and how long until it has ended.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const END_TIMEOUT: Duration = Duration::from_secs(60);

const RECHECK_INTERVAL: Duration = Duration::from_millis(50);

/// How long one question to the admin port may take.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Where Debian, Fedora and others put libfaketime.
const FAKETIME: [&str; 5] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib64/faketime/libfaketime.so.1",
    "/usr/lib/faketime/libfaketime.so.1",
    "/usr/local/lib/faketime/libfaketime.so.1",
];

/// What a gateway is run with.
#[derive(Clone, Debug)]
pub struct Settings {
    pub program: PathBuf,
    /// Its configuration, log and, unless said otherwise, its spool.
    pub folder: PathBuf,
    pub schemas: PathBuf,
    pub bootstrap: String,
    pub topic_prefix: String,
    pub spool: Spool,
    /// Its wall clock can be set.
    pub with_own_clock: bool,
    /// librdkafka never asks the configured brokers again once it was made to forget all it knew: otherwise it does so only
    /// now and then, when it loses a race.
    pub never_asks_again: bool,
    /// Devices have keys or certificates, MQTT and HTTP have TLS.
    pub identities: Option<Identities>,
    /// Loopback has limits as other networks do, and MQTT twice the connections.
    pub exempts_nobody: bool,
}

/// The spool that it is given.
#[derive(Clone, Debug)]
pub struct Spool {
    pub folder: PathBuf,
    pub bytes_max: &'static str,
    /// Further lines of its section.
    pub more: &'static str,
}

/// The gateway, alive or between two lives.
#[derive(Debug)]
pub struct Gateway {
    settings: Settings,
    ports: Ports,
    faketime: Option<PathBuf>,
    child: Option<Child>,
    /// Exits that were not requested.
    deaths: Vec<String>,
}

/// Six in a row: MQTT, CoAP, HTTP, the admin port, and MQTT and HTTP with TLS.
const PORTS: u16 = 6;

#[derive(Clone, Copy, Debug)]
struct Ports {
    first: u16,
}

// === impl Gateway ===

impl Gateway {
    /// Starts it and waits until it is ready.
    pub async fn start(settings: Settings, admin: &Admin) -> anyhow::Result<Gateway> {
        let faketime = settings.with_own_clock.then(faketime).transpose()?;
        fs::create_dir_all(&settings.folder)?;
        let mut gateway = Gateway {
            ports: Ports {
                first: admin.first_port,
            },
            settings,
            faketime,
            child: None,
            deaths: Vec::new(),
        };
        gateway.step_clock(0)?;
        gateway.spawn()?;
        gateway.await_ready(admin).await?;
        Ok(gateway)
    }

    pub fn mqtt(&self) -> SocketAddr {
        self.ports
            .address(if self.settings.identities.is_some() { 4 } else { 0 })
    }

    pub fn coap(&self) -> SocketAddr {
        self.ports.address(1)
    }

    pub fn http(&self) -> SocketAddr {
        self.ports
            .address(if self.settings.identities.is_some() { 5 } else { 2 })
    }

    pub fn identities(&self) -> Option<&Identities> {
        self.settings.identities.as_ref()
    }

    /// Starts the process, and waits for nothing.
    pub fn spawn(&mut self) -> anyhow::Result<()> {
        let settings = &self.settings;
        let config = settings.folder.join("citygate.toml");
        fs::write(&config, self.config())?;
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = Command::new(&settings.program);
        command.args(["run", "--config"]).arg(&config);
        if let Some(library) = &self.faketime {
            command
                .env("LD_PRELOAD", library)
                .env("FAKETIME_TIMESTAMP_FILE", self.clock_file())
                .env("FAKETIME_CACHE_DURATION", "1")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot run the gateway {}", settings.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// The process, if it runs.
    pub fn process(&self) -> Option<Pid> {
        self.child.as_ref().map(Pid::from_child)
    }

    /// Its resident memory in KiB: `VmRSS` now, `VmHWM` at most.
    pub fn memory_kib(&self, field: &str) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process()?.as_raw_pid())).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    }

    /// kill -9; returns once it is gone.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.note_death();
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// SIGTERM; returns once it is gone.
    pub async fn end(&mut self) -> anyhow::Result<ExitStatus> {
        self.note_death();
        let mut child = self.child.take().context("the gateway does not run")?;
        kill_process(Pid::from_child(&child), Signal::TERM)?;
        let deadline = Instant::now() + END_TIMEOUT;
        while Instant::now() < deadline {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            tokio::time::sleep(RECHECK_INTERVAL).await;
        }
        child.kill()?;
        child.wait()?;
        bail!("the gateway did not end within {END_TIMEOUT:?} of SIGTERM")
    }

    pub async fn await_ready(&mut self, admin: &Admin) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        while Instant::now() < deadline {
            if admin.is_ready().await {
                return Ok(());
            }
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                bail!("the gateway ended ({status}); its last words:\n{}", self.last_words());
            }
            tokio::time::sleep(RECHECK_INTERVAL).await;
        }
        bail!(
            "the gateway was not ready within {READY_TIMEOUT:?}; its last words:\n{}",
            self.last_words()
        )
    }

    /// Sets its wall clock so far off.
    pub fn step_clock(&self, seconds: i64) -> anyhow::Result<()> {
        let file = self.clock_file();
        let new = file.with_extension("new");
        fs::write(&new, format!("{seconds:+}\n"))?;
        // In one step: it is read at any time.
        fs::rename(new, file).context("cannot set the gateway's clock")
    }

    /// Exits that were not requested, with the end of the last one's log.
    pub fn deaths(&mut self) -> &[String] {
        self.note_death();
        &self.deaths
    }

    fn note_death(&mut self) {
        let Some(child) = &mut self.child else { return };
        if let Ok(Some(status)) = child.try_wait() {
            self.child = None;
            let words = self.last_words();
            self.deaths
                .push(format!("the gateway ended by itself ({status}):\n{words}"));
        }
    }

    fn config(&self) -> String {
        let Settings {
            schemas,
            bootstrap,
            topic_prefix,
            spool,
            ..
        } = &self.settings;
        let listeners = ["mqtt", "coap", "http", "admin"].into_iter().enumerate();
        let mut config: String = listeners
            .map(|(index, name)| {
                // Devices over CoAP cannot prove anything.
                let more = match name {
                    "coap" => "allow_anonymous = true\n",
                    "mqtt" if self.settings.exempts_nobody => "connections_max = 20000\n",
                    _ => "",
                };
                format!("[{name}]\nlisten = \"{}\"\n{more}", self.ports.address(index as u16))
            })
            .collect();
        if let Some(identities) = &self.settings.identities {
            config += &self.identities_config(identities);
        }
        if self.settings.exempts_nobody {
            config += "[limits.prefix]\nexempt = []\n";
        }
        config += &format!("[schemas]\nfolder = {:?}\n", schemas.display().to_string());
        config += &format!(
            "[kafka]\nbootstrap_servers = \"{bootstrap}\"\ncreate_topics = true\n\
             topic_prefix = \"{topic_prefix}\"\ndead_letter_topic = \"{topic_prefix}dead-letter\"\n"
        );
        if self.settings.never_asks_again {
            config += "[kafka.properties]\n\"metadata.recovery.strategy\" = \"none\"\n";
        }
        let folder = spool.folder.display().to_string();
        let Spool { bytes_max, more, .. } = spool;
        config += &format!("[spool]\nfolder = {folder:?}\nbytes_max = \"{bytes_max}\"\n{more}");
        config
    }

    fn identities_config(&self, identities: &Identities) -> String {
        let text = |path: &Path| format!("{:?}", path.display().to_string());
        let (certificate, key) = (text(&identities.certificate), text(&identities.certificate_key));
        let clients = identities
            .client_authorities
            .as_deref()
            .map_or_else(String::new, |file| {
                format!("client_certificates = \"required\"\nclient_ca = {}\n", text(file))
            });
        let tls = |table: &str, address: SocketAddr| {
            format!("[{table}.tls]\nlisten = \"{address}\"\ncertificate = {certificate}\nkey = {key}\n{clients}")
        };
        let devices = format!("[devices]\nfolder = {}\n", text(&identities.folder));
        [devices, tls("mqtt", self.mqtt()), tls("http", self.http())].concat()
    }

    fn log(&self) -> PathBuf {
        self.settings.folder.join("citygate.log")
    }

    fn clock_file(&self) -> PathBuf {
        self.settings.folder.join("clock")
    }

    fn last_words(&self) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("the gateway could not be killed: {error:#}");
        }
    }
}

impl Ports {
    fn address(self, index: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.first + index).into()
    }
}

fn faketime() -> anyhow::Result<PathBuf> {
    let found = FAKETIME.into_iter().map(Path::new).find(|path| path.exists());
    let found = found.map(Path::to_owned);
    found.context("libfaketime is not installed (Debian's package faketime), and no clock can be set without it")
}

/// The gateway's admin port, which stays the same over all its lives.
#[derive(Clone, Debug)]
pub struct Admin {
    client: Client,
    first_port: u16,
}

// === impl Admin ===

impl Admin {
    /// Finds free ports for a gateway.
    pub fn new() -> anyhow::Result<Admin> {
        let client = Client::builder().no_proxy().timeout(ADMIN_TIMEOUT).build()?;
        Ok(Admin {
            client,
            first_port: free_block(PORTS)?,
        })
    }

    pub async fn is_ready(&self) -> bool {
        self.get("readyz").await.is_some()
    }

    /// Returns once the gateway has found Kafka and its topics.
    pub async fn await_kafka(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        while Instant::now() < deadline {
            let up = |text: String| text.lines().any(|line| line == "citygate_kafka_up 1");
            if self.metrics().await.is_some_and(up) {
                return Ok(());
            }
            tokio::time::sleep(RECHECK_INTERVAL).await;
        }
        bail!("the gateway did not find Kafka within {READY_TIMEOUT:?}")
    }

    /// Prometheus' text, if the gateway answers.
    pub async fn metrics(&self) -> Option<String> {
        self.get("metrics").await
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.first_port + 3)
    }

    async fn get(&self, path: &str) -> Option<String> {
        let response = self.client.get(self.url(path)).send().await.ok()?;
        response.error_for_status().ok()?.text().await.ok()
    }
}
