//! `citygate health`: asks the gateway or the store of this configuration whether it runs and works; for HEALTHCHECK and probes.
//!
//! Of a gateway it asks `admin.listen`, which is plain text in every configuration and usually on loopback, with the operator's token
//! where there is one: without it `/readyz` does not say why. Of a store it asks `store.listen`, which is open. A wildcard is asked
//! on loopback. One line, and an answer in time or none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use jiff::SignedDuration;

use crate::operate::admin;
use crate::operate::secret::Secret;
use crate::store;

/// What is printed of an answer, at most.
const SAID_BYTES_MAX: usize = 4096;

/// What to ask.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Ask whether readings are accepted, or by the store stored (/readyz), not only whether it runs (/livez).
    #[arg(long)]
    ready: bool,
    /// Ask the store (store.listen) instead of the gateway (admin.listen).
    #[arg(long, env = "CITYGATE_HEALTH_STORE")]
    store: bool,
    /// How long the answer may take.
    #[arg(long, value_name = "DURATION", default_value = "3s")]
    timeout: SignedDuration,
}

/// The answer is no, or there is none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("admin.enabled is false, so there is nothing to ask; enable it")]
    Disabled,
    #[error("{setting} is {address}: which port that became is not known here; name one")]
    AnyPort { setting: &'static str, address: SocketAddr },
    #[error("{url} does not answer: {why}")]
    NoAnswer { url: String, why: String },
    #[error("{url} answers {status}: {said}")]
    No { url: String, status: u16, said: String },
}

/// Where to ask, and as whom.
struct Port<'a> {
    setting: &'static str,
    listen: &'a [SocketAddr],
    token: Option<&'a Secret>,
}

/// Asks once; what it said, if the answer is yes.
///
/// # Errors
/// See [`Error`].
pub async fn ask(admin: &admin::Config, store: &store::Config, options: &Options) -> Result<String, Error> {
    let port = port(admin, store, options.store)?;
    let address = address(port.listen);
    if address.port() == 0 {
        let setting = port.setting;
        return Err(Error::AnyPort { setting, address });
    }
    let path = if options.ready { "readyz" } else { "livez" };
    let url = format!("http://{address}/{path}");
    let (status, said) = get(&url, port.token, options.timeout.unsigned_abs())
        .await
        .map_err(|error| Error::NoAnswer {
            url: url.clone(),
            why: cause(&error),
        })?;
    match status {
        200 => Ok(said),
        _ => Err(Error::No { url, status, said }),
    }
}

fn port<'a>(admin: &'a admin::Config, store: &'a store::Config, is_store: bool) -> Result<Port<'a>, Error> {
    match is_store {
        true => Ok(Port {
            setting: "store.listen",
            listen: &store.listen,
            token: None,
        }),
        false if !admin.enabled => Err(Error::Disabled),
        false => Ok(Port {
            setting: "admin.listen",
            listen: &admin.listen,
            token: admin.token.as_ref(),
        }),
    }
}

async fn get(url: &str, token: Option<&Secret>, timeout: Duration) -> Result<(u16, String), reqwest::Error> {
    // A proxy of the environment is for other machines.
    let client = reqwest::Client::builder().timeout(timeout).no_proxy().build()?;
    let mut request = client.get(url);
    if let Some(token) = token {
        request = request.bearer_auth(token.reveal());
    }
    let mut response = request.send().await?;
    let mut body = Vec::new();
    while body.len() < SAID_BYTES_MAX
        && let Some(chunk) = response.chunk().await?
    {
        body.extend_from_slice(&chunk);
    }
    body.truncate(SAID_BYTES_MAX);
    let body = String::from_utf8_lossy(&body);
    let said = body.lines().next().unwrap_or_default().to_owned();
    Ok((response.status().as_u16(), said))
}

/// Which of them to ask: loopback if it is one of them, as nothing between can fail.
fn address(listen: &[SocketAddr]) -> SocketAddr {
    let mut asked: Vec<SocketAddr> = listen.iter().map(|&address| reachable(address)).collect();
    asked.sort_by_key(|address| !address.ip().is_loopback());
    asked[0]
}

fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        _ => return address,
    };
    SocketAddr::new(ip, address.port())
}

/// What the system said, not which library passed it on.
fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "not in time (--timeout)".into();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::addresses::ListenAddresses;

    #[test]
    fn loopback_is_asked_if_it_is_one_of_them() {
        let check = |listen: &str, expected: &str| {
            let listen: ListenAddresses = listen.parse().unwrap();
            assert_eq!(address(&listen).to_string(), expected, "{listen}");
        };
        check("127.0.0.1:9464", "127.0.0.1:9464");
        check("0.0.0.0:9464", "127.0.0.1:9464");
        check("[::]:9464", "[::1]:9464");
        check("10.0.0.1:9464, 127.0.0.1:9465", "127.0.0.1:9465");
        check("10.0.0.1:1, [::]:2, 0.0.0.0:3", "[::1]:2");
        check("10.0.0.1:9464, 10.0.0.2:9464", "10.0.0.1:9464");
    }
}
