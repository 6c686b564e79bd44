//! The real program as a process of its own: `citygate run --config …`, as its operator starts it.
//!
//! For what cannot be seen from inside: its memory alone, its exit code, its words on standard error.

use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use citygate::gateway::Addresses;
use citygate::operate::config::Config;
use tempfile::TempDir;

use super::scrape::Scrape;
use super::{Broker, Client, Via, chaos, eventually, gateway};

pub struct Program {
    child: Child,
    pub addresses: Addresses,
    pub topic_prefix: String,
    /// Its configuration, spool, and what it says.
    folder: TempDir,
    /// Lives as long as the program.
    _broker: Broker,
}

// === impl Program ===

impl Program {
    /// Starts it and waits until `/readyz` says yes.
    pub async fn start(broker: &Broker) -> Self {
        Program::start_with(broker, &[]).await
    }

    /// The same, with more in its environment.
    pub async fn start_with(broker: &Broker, environment: &[(&str, &Path)]) -> Self {
        let mut program = Program::spawned(broker, |_| {}, |folder| spawn(folder, environment));
        program.await_ready().await;
        program
    }

    /// The same, with so many file descriptors: the soft limit and the hard one.
    pub async fn start_limited(broker: &Broker, (soft, hard): (u64, u64)) -> Self {
        let limited = |folder: &Path| {
            let mut shell = Command::new("bash");
            let limits = format!(r#"ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$0" "$@""#);
            shell.args(["-c", &limits, env!("CARGO_BIN_EXE_citygate")]);
            run(&mut shell, folder)
        };
        let mut program = Program::spawned(broker, |_| {}, limited);
        program.await_ready().await;
        program
    }

    /// With another configuration; it waits for nothing.
    pub fn start_changed(broker: &Broker, change: impl FnOnce(&mut Config)) -> Self {
        Program::spawned(broker, change, |folder| spawn(folder, &[]))
    }

    fn spawned(broker: &Broker, change: impl FnOnce(&mut Config), spawn: impl FnOnce(&Path) -> Child) -> Self {
        let [mqtt, coap, http, admin] = super::free_ports();
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut topic_prefix = String::new();
        let folder = TempDir::new().unwrap();
        let config = gateway::config(broker, |config| {
            topic_prefix = config.kafka.topic_prefix.clone();
            config.mqtt.listen = at(mqtt).into();
            config.coap.listen = at(coap).into();
            config.http.listen = at(http).into();
            config.admin.listen = at(admin).into();
            config.state_dir = folder.path().to_owned();
            config.spool.enabled = true;
            config.spool.folder = folder.path().join("spool");
            change(config);
        });
        for topic in ["traffic", "weather", "energy", "dead-letter"] {
            broker.create_topic(&format!("{topic_prefix}{topic}"), 3);
        }
        std::fs::write(folder.path().join("citygate.toml"), gateway::toml(&config)).unwrap();
        Program {
            child: spawn(folder.path()),
            topic_prefix,
            addresses: Addresses {
                mqtt: Some(at(mqtt)),
                coap: Some(at(coap)),
                http: Some(at(http)),
                mqtt_tls: None,
                http_tls: None,
                admin: Some(at(admin)),
                admin_tls: None,
            },
            folder,
            _broker: broker.clone(),
        }
    }

    /// Starts it once more after its end, with the same configuration and spool.
    pub async fn start_again(&mut self) {
        self.child = spawn(self.folder.path(), &[]);
        self.await_ready().await;
    }

    async fn await_ready(&mut self) {
        eventually("the program is ready", async || {
            assert!(self.child.try_wait().unwrap().is_none(), "it ended: {}", self.said());
            let answer = reqwest::get(self.url("/readyz")).await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }

    pub async fn client(&self, via: Via) -> Client {
        Client::connect(via, &self.addresses).await
    }

    pub async fn scrape(&self) -> Scrape {
        let response = reqwest::get(self.url("/metrics")).await.unwrap();
        Scrape::parse(&response.text().await.unwrap())
    }

    /// The body of a GET on the admin port; `None` while it does not serve yet.
    pub async fn try_admin(&self, path: &str) -> Option<String> {
        reqwest::get(self.url(path)).await.ok()?.text().await.ok()
    }

    /// What `citygate check` prints for the same configuration.
    pub fn check(&self) -> String {
        String::from_utf8(self.command("check").output().unwrap().stdout).unwrap()
    }

    /// Another command of the program, with the same configuration.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_citygate"));
        command
            .args([name, "--config"])
            .arg(self.folder.path().join("citygate.toml"))
            .stdin(Stdio::null());
        command
    }

    pub fn resident_bytes(&self) -> u64 {
        chaos::resident_bytes(self.child.id())
    }

    pub fn signal(&self, signal: &str) {
        chaos::signal(self.child.id(), signal);
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        eventually("the program ends", async || self.child.try_wait().unwrap()).await
    }

    /// All it wrote, on both streams.
    pub fn said(&self) -> String {
        let mut said = String::new();
        for stream in ["stdout", "stderr"] {
            let mut file = File::open(self.folder.path().join(stream)).unwrap();
            file.read_to_string(&mut said).unwrap();
        }
        said
    }

    /// Status and body of a GET on the admin port.
    pub async fn admin(&self, path: &str) -> (u16, String) {
        let response = reqwest::get(self.url(path)).await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    pub fn spool(&self) -> PathBuf {
        self.folder.path().join("spool")
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addresses.admin.unwrap())
    }
}

fn spawn(folder: &Path, environment: &[(&str, &Path)]) -> Child {
    let mut program = Command::new(env!("CARGO_BIN_EXE_citygate"));
    run(program.envs(environment.iter().copied()), folder)
}

fn run(program: &mut Command, folder: &Path) -> Child {
    program
        .args(["run", "--config"])
        .arg(folder.join("citygate.toml"))
        .stdin(Stdio::null())
        .stdout(File::create(folder.join("stdout")).unwrap())
        .stderr(File::create(folder.join("stderr")).unwrap())
        .spawn()
        .unwrap()
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already; that is what was wanted.
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}
