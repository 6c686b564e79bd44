//! The command line of `load`, made into the settings of a run. Each target is resolved and tried once, so that an
//! address nobody listens on is reported before the run and by name. What contradicts itself is refused here;
//! `settings` holds what is left.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::mqtt::Version;
use super::pace::Pace;
use super::settings::{Credentials, FIRST_DEVICE, Settings, loopback_sources, make_room};
use crate::uplinks::{Protocol, coap, credentials};

/// How long a gateway may take to answer the first connection attempt or ping.
const HELLO_TIMEOUT: Duration = Duration::from_secs(3);

/// What the command line says.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The gateway's MQTT listener.
    #[arg(long, value_name = "HOST:PORT", required_unless_present_any = ["coap", "http"], help_heading = "Where to send")]
    mqtt: Option<String>,
    /// The gateway's CoAP listener (UDP).
    #[arg(long, value_name = "HOST:PORT", help_heading = "Where to send")]
    coap: Option<String>,
    /// The gateway's HTTP listener.
    #[arg(long, value_name = "HOST:PORT", help_heading = "Where to send")]
    http: Option<String>,
    /// Addresses of this machine to send from, in turn [default: the system's choice; for a gateway on 127.x.x.x as many
    /// loopback addresses as there must be].
    #[arg(
        long,
        value_name = "ADDRESS,…",
        value_delimiter = ',',
        help_heading = "Where to send"
    )]
    from: Vec<IpAddr>,
    /// Username of MQTT's CONNECT and of HTTP's Basic authentication.
    #[arg(long, value_name = "NAME", help_heading = "Where to send")]
    username: Option<String>,
    /// The password to it; better in the environment, where other users do not see it.
    #[arg(
        long,
        value_name = "TEXT",
        env = "DEVICE_SIMULATORS_PASSWORD",
        hide_env_values = true,
        requires = "username",
        help_heading = "Where to send"
    )]
    password: Option<String>,
    /// PEM file: the authority of the gateway's certificate. MQTT and HTTP have TLS then; the name in the certificate is not looked at.
    #[arg(long, value_name = "FILE", help_heading = "Where to send")]
    tls_ca: Option<PathBuf>,
    /// Keys of the devices, as `citygate devices import --json` prints them: {"id": "…", "key": "…"}; or "password" instead of
    /// "key". A device without one has --username and --password, if they are given.
    #[arg(long, value_name = "FILE", help_heading = "Where to send")]
    keys: Option<PathBuf>,
    /// Client certificates: <device>.pem and <device>.key (PKCS #8) for each device that has one.
    #[arg(long, value_name = "FOLDER", requires = "tls_ca", help_heading = "Where to send")]
    certificates: Option<PathBuf>,
    /// Print the devices instead, an object per line: {"id": "…", "kinds": ["…"]}, for `citygate devices import`.
    #[arg(long)]
    pub list_devices: bool,

    /// Connections over all protocols, a device each; for CoAP these are source ports.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000), help_heading = "How much")]
    connections: u32,
    /// Closed loop: messages that a connection has unanswered [default: 16 for MQTT, 1 for CoAP (NSTART of RFC 7252) and
    /// HTTP (no pipelining)].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), help_heading = "How much")]
    window: Option<u16>,
    /// Open loop: messages per second over all connections. Latency counts from when a message was due; what finds its
    /// window full waits, its clock running [default window: 64 for MQTT, 4 for CoAP, 1 for HTTP].
    #[arg(long, value_name = "N", value_parser = rate, help_heading = "How much")]
    rate: Option<f64>,
    /// Only connect, and keep alive with PINGREQ.
    #[arg(long, conflicts_with_all = ["rate", "window", "coap", "http"], help_heading = "How much")]
    idle: bool,
    /// Over how long the connections are opened, one after the other; not measured.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = time, help_heading = "How much")]
    ramp: Duration,
    /// How long is measured.
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=604_800), help_heading = "How much")]
    seconds: u64,
    /// A message without an answer after this counts as unanswered.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = positive_time, help_heading = "How much")]
    timeout: Duration,
    /// MQTT's keep-alive, in whole seconds.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = positive_time, help_heading = "How much")]
    keep_alive: Duration,
    /// Threads that send [default: half of this machine's cores].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "How much")]
    threads: Option<u16>,

    #[arg(long, value_name = "VERSION", default_value = "5", help_heading = "What to send")]
    mqtt_version: Version,
    /// The same seed gives the same devices, roads and weather.
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "What to send")]
    seed: u64,
    /// Number of the first device. Several generators must not share any: who connects with a device's name takes its MQTT
    /// session over.
    #[arg(long, value_name = "N", default_value_t = FIRST_DEVICE, value_parser = clap::value_parser!(u64).range(..=1_000_000_000), help_heading = "What to send")]
    first_device: u64,
    /// So many of a hundred readings are invalid: of a wrong type, or cut off.
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(..=100), help_heading = "What to send")]
    invalid: u8,
    /// Bytes of text in a further field `padding`, which the gateway's schemas must have; 0 for none.
    #[arg(long, value_name = "BYTES", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1_000_000), help_heading = "What to send")]
    padding: u32,
    /// Names that each kind goes under, connection by connection: traffic, traffic-2, traffic-3 and so on.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=10_000), help_heading = "What to send")]
    kind_names: u16,

    /// Print the report as JSON.
    #[arg(long, help_heading = "What to show")]
    pub json: bool,
    /// Write the report as a page with curves, in one file.
    #[arg(long, value_name = "FILE", help_heading = "What to show")]
    pub html: Option<PathBuf>,
    /// Serve metrics of the run at /metrics, while it lasts.
    #[arg(long, value_name = "ADDRESS:PORT", help_heading = "What to show")]
    pub prometheus: Option<SocketAddr>,
}

// === impl Options ===

impl Options {
    /// The settings of the run, once a listener answers at each address and the limit of open files allows every connection.
    pub async fn settings(&self) -> anyhow::Result<Settings> {
        let targets = self.targets().await?;
        let connections = self.connections as usize;
        anyhow::ensure!(
            connections >= targets.len(),
            "--connections {connections} is less than one for each protocol"
        );
        make_room(connections)?;
        let sources = match self.from.is_empty() {
            true => loopback_sources(&targets, connections, self.first_device),
            false => self.from.clone(),
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Settings {
            targets,
            sources,
            credentials: Credentials {
                username: self.username.clone(),
                password: self.password.clone(),
            },
            device_credentials: Arc::new(self.credentials()?),
            connections,
            windows: self.windows(),
            pace: self.pace(),
            ramp: self.ramp,
            steady: Duration::from_secs(self.seconds),
            timeout: self.timeout,
            keep_alive: self.keep_alive,
            mqtt_version: self.mqtt_version,
            threads: self.threads.map_or((cores / 2).max(1), usize::from),
            seed: self.seed,
            first_device: self.first_device,
            padding: self.padding as usize,
            kind_names: self.kind_names.into(),
            invalid_percent: self.invalid,
            ..Settings::default()
        })
    }

    /// Prints the devices that it would be.
    pub fn list(&self) {
        let settings = Settings {
            seed: self.seed,
            first_device: self.first_device,
            kind_names: self.kind_names.into(),
            ..Settings::default()
        };
        let targets = [&self.mqtt, &self.coap, &self.http].into_iter().flatten().count();
        for index in 0..self.connections as usize {
            let (device, place) = settings.device(index, targets);
            println!("{}", serde_json::json!({ "id": device.name(), "kinds": [place] }));
        }
    }

    fn credentials(&self) -> anyhow::Result<credentials::Credentials> {
        let read = credentials::Credentials::read(self.keys.as_deref(), self.tls_ca.as_deref())?;
        match &self.certificates {
            Some(folder) => read.with_certificates(folder),
            None => Ok(read),
        }
    }

    fn pace(&self) -> Pace {
        match (self.idle, self.rate) {
            (true, _) => Pace::Idle,
            (false, Some(rate)) => Pace::Open { rate },
            (false, None) => Pace::Closed,
        }
    }

    fn windows(&self) -> [u16; 3] {
        match (self.window, self.rate) {
            (Some(window), _) => [window; 3],
            (None, None) => Settings::default().windows,
            (None, Some(_)) => [64, 4, 1],
        }
    }

    async fn targets(&self) -> anyhow::Result<Vec<(Protocol, SocketAddr)>> {
        let wanted = [
            (Protocol::Mqtt, &self.mqtt),
            (Protocol::Coap, &self.coap),
            (Protocol::Http, &self.http),
        ];
        let mut targets = Vec::new();
        for (protocol, address) in wanted {
            if let Some(address) = address {
                targets.push((protocol, reach(protocol, address).await?));
            }
        }
        Ok(targets)
    }
}

/// The address of a listener that answers; an error in words if none does.
async fn reach(protocol: Protocol, address: &str) -> anyhow::Result<SocketAddr> {
    let found = lookup_host(address).await;
    let found = found.with_context(|| format!("--{protocol} {address} is not an address"))?;
    let mut error = anyhow!("the name has no address");
    for server in found {
        let answered = match protocol {
            Protocol::Coap => coap::ping(server, HELLO_TIMEOUT).await,
            Protocol::Mqtt | Protocol::Http => match timeout(HELLO_TIMEOUT, TcpStream::connect(server)).await {
                Ok(connected) => connected.map(drop),
                Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
            },
        };
        match answered {
            Ok(()) => return Ok(server),
            Err(reason) => error = reason.into(),
        }
    }
    Err(error.context(format!("no gateway answers on {protocol} at {address}")))
}

/// `250ms`, `5s`, `2m`, or seconds without a unit.
pub fn time(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(char::is_alphabetic);
    let unit = text.strip_prefix(digits).unwrap_or_default();
    let seconds = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{unit:?} is not a unit of time: ms, s, m, h")),
    };
    let number: f64 = digits.parse().map_err(|_| "expected a time such as 250ms, 5s or 2m")?;
    let found = Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())?;
    if found > Duration::from_secs(7 * 86_400) {
        return Err("more than a week".to_owned());
    }
    Ok(found)
}

fn positive_time(text: &str) -> Result<Duration, String> {
    match time(text)? {
        Duration::ZERO => Err("must be more than nothing".to_owned()),
        found => Ok(found),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let number: f64 = text
        .replace('_', "")
        .parse()
        .map_err(|_| "expected messages per second")?;
    if (0.001..=100_000_000.0).contains(&number) {
        Ok(number)
    } else {
        Err("must be between 0.001 and 100000000 messages per second".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_rates_are_read_as_people_write_them() {
        let check =
            |text: &str, milliseconds: u64| assert_eq!(time(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        check("250ms", 250);
        check("5s", 5000);
        check("5", 5000);
        check("0.5s", 500);
        check("2m", 120_000);
        for text in ["", "s", "-1s", "5 s", "5d", "NaN", "inf", "9999h"] {
            assert!(time(text).is_err(), "{text}");
        }
        assert!(positive_time("0s").is_err());
        assert_eq!(rate("150_000"), Ok(150_000.0));
        for text in ["0", "-5", "NaN", "inf", "many"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }
}
