//! The admin port answers whoever asks next, and shows what it shows to operators, where it is said who they are.
//!
//! A liveness probe that finds no free connection would restart a gateway in good health, so peers that connect and stay
//! silent must not keep it out, with TLS or without; nor does it need a token.

use citygate::listen::tls::ClientCertificates;
use citygate::operate::config::Config;
use citygate::operate::secret::Secret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::certificates::{Authority, Client, replace};
use crate::harness::program::Program;
use crate::harness::{Broker, TestGateway, eventually, free_ports};

const TOKEN: &str = "canary-0123456789abcdef";
const METRICS: &str = "canary-fedcba9876543210";

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_do_not_keep_a_probe_out() {
    let gateway = TestGateway::start(&Broker::any(), |_| ()).await;
    let admin = gateway.addresses.admin.unwrap();
    // One that is used, as a scraper's is, among many that say nothing, or never more than the start of a request.
    let mut silent = Vec::new();
    for number in 0..100 {
        let mut connection = TcpStream::connect(admin).await.unwrap();
        if number % 2 == 0 {
            connection.write_all(b"GET /livez HTTP/1.1\r\nHos").await.unwrap();
        }
        silent.push(connection);
        if number % 10 == 0 {
            for path in ["/livez", "/readyz", "/metrics", "/status"] {
                assert_eq!(gateway.admin(path).await.0, 200, "{path} after {number}");
            }
        }
    }
    // Those that were closed are told so.
    assert_eq!(silent[0].read(&mut [0]).await.unwrap_or(0), 0);
    drop(silent);
    gateway.finish().await;
}

fn with_tokens(config: &mut Config) {
    config.admin.token = Some(Secret::from(TOKEN));
    config.admin.metrics_token = Some(Secret::from(METRICS));
}

/// TLS with the files of an authority, which issues the certificates of operators as well.
fn with_tls(config: &mut Config, authority: &Authority, how: ClientCertificates) {
    authority.issue(90);
    authority.revoke(&[], 30);
    replace(&authority.file("ca.pem"), &authority.pem());
    let tls = &mut config.admin.tls;
    tls.listen = Some("127.0.0.1:0".parse().unwrap());
    tls.certificate = authority.file("certificate.pem").into();
    tls.key = authority.file("key.pem").into();
    if how != ClientCertificates::None {
        tls.client_certificates = how;
        tls.client_ca = Some(authority.file("ca.pem"));
        tls.crl = authority.file("crl.pem").into();
    }
}

/// The answers of `/livez`, `/readyz`, `/metrics` and `/status`.
async fn statuses(client: &reqwest::Client, base: &str, token: Option<&str>) -> [u16; 4] {
    let mut statuses = [0; 4];
    for (status, path) in statuses.iter_mut().zip(["livez", "readyz", "metrics", "status"]) {
        let request = client.get(format!("{base}/{path}"));
        let request = token.into_iter().fold(request, reqwest::RequestBuilder::bearer_auth);
        let response = request.send().await.unwrap();
        *status = response.status().as_u16();
        let challenge = response
            .headers()
            .get("www-authenticate")
            .map(|value| value.to_str().unwrap());
        assert_eq!(
            challenge,
            (*status == 401).then_some("Bearer realm=\"citygate\""),
            "{path}"
        );
    }
    statuses
}

const ALL: [u16; 4] = [200; 4];
const PROBES: [u16; 4] = [200, 200, 401, 401];

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_learns_whether_it_runs_and_nothing_else() {
    let authority = Authority::new();
    let gateway = TestGateway::start(&Broker::any(), |config| {
        with_tokens(config);
        with_tls(config, &authority, ClientCertificates::None);
    })
    .await;
    let plain = format!("http://{}", gateway.addresses.admin.unwrap());
    let secure = format!("https://localhost:{}", gateway.addresses.admin_tls.unwrap().port());
    let client = authority.http();
    for base in [plain, secure] {
        for (token, expected) in [
            (None, PROBES),
            (Some(""), PROBES),
            (Some("wrong-0123456789abcdef"), PROBES),
            (Some(METRICS), [200, 200, 200, 401]),
            (Some(TOKEN), ALL),
        ] {
            assert_eq!(statuses(&client, &base, token).await, expected, "{base} {token:?}");
        }
    }
    let scrape = gateway.scrape();
    let refused = |reason| scrape.sum("citygate_admin_requests_refused_total", &[("reason", reason)]);
    assert_eq!(
        (refused("missing"), refused("bad_credential")),
        (8, 6),
        "an empty one is none"
    );
    gateway.finish().await;
}

/// Addresses of Kafka, names of topics and the spool's failures are an operator's business.
#[tokio::test(flavor = "multi_thread")]
async fn why_it_is_not_ready_is_told_to_operators_alone() {
    let [nobody] = free_ports();
    let kafka = format!("127.0.0.1:{nobody}");
    let readyz = async |gateway: &TestGateway, token: Option<&str>| {
        let request = reqwest::Client::new().get(format!("http://{}/readyz", gateway.addresses.admin.unwrap()));
        let request = token.into_iter().fold(request, reqwest::RequestBuilder::bearer_auth);
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    for spools in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let gateway = TestGateway::start_unready(&Broker::any(), |config| {
            with_tokens(config);
            config.kafka.bootstrap_servers = kafka.clone();
            config.spool.enabled = spools;
            config.spool.folder = folder.path().join("spool");
        })
        .await;
        let (status, expected) = if spools { (200, "ok\n") } else { (503, "not ready\n") };
        eventually("an operator is told", async || {
            let told = readyz(&gateway, Some(TOKEN)).await;
            (told.0 == status && told.1.to_lowercase().contains("kafka")).then_some(())
        })
        .await;
        for token in [None, Some("wrong-0123456789abcdef"), Some(METRICS)] {
            assert_eq!(
                readyz(&gateway, token).await,
                (status, expected.to_owned()),
                "{token:?}"
            );
        }
        let refused = gateway.scrape().sum("citygate_admin_requests_refused_total", &[]);
        assert_eq!(refused, 0, "a probe is not refused");
        gateway.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_has_a_certificate_or_a_token_and_loses_it_with_the_next_list() {
    let (authority, foreign) = (Authority::new(), Authority::named("foreign"));
    for how in [ClientCertificates::Optional, ClientCertificates::Required] {
        let gateway = TestGateway::start(&Broker::any(), |config| {
            with_tls(config, &authority, how);
            config.admin.token = (how == ClientCertificates::Optional).then(|| Secret::from(TOKEN));
        })
        .await;
        let base = format!("https://localhost:{}", gateway.addresses.admin_tls.unwrap().port());
        let operator = authority.client("operator");
        let with_certificate = operator.http(&authority);
        assert_eq!(statuses(&with_certificate, &base, None).await, ALL, "{how:?}");
        assert_eq!(statuses(&with_certificate, &base, Some("wrong")).await, ALL, "{how:?}");
        let refused = |client: &Client| {
            let request = client.http(&authority).get(format!("{base}/livez"));
            async move { request.send().await.is_err() }
        };
        assert!(refused(&foreign.client("operator")).await);
        match how {
            ClientCertificates::Optional => {
                assert_eq!(statuses(&authority.http(), &base, None).await, PROBES);
                assert_eq!(statuses(&authority.http(), &base, Some(TOKEN)).await, ALL);
            }
            _ => assert!(authority.http().get(format!("{base}/livez")).send().await.is_err()),
        }
        // On the plain address nobody can show a certificate.
        let plain = format!("http://{}", gateway.addresses.admin.unwrap());
        assert_eq!(statuses(&authority.http(), &plain, None).await, PROBES);
        authority.revoke(&[&operator], 30);
        // Also over the connection that is open.
        eventually("it is refused", async || {
            let request = with_certificate.get(format!("{base}/status")).send().await;
            request.is_ok_and(|response| response.status() == 401).then_some(())
        })
        .await;
        assert!(refused(&operator).await);
        gateway.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_handshakes_do_not_keep_a_probe_out() {
    let authority = Authority::new();
    let gateway = TestGateway::start(&Broker::any(), |config| {
        with_tls(config, &authority, ClientCertificates::None);
        // Longer than the test: they give way, they do not end by themselves.
        config.admin.tls.handshake_timeout = crate::harness::TEST_TIMEOUT * 2;
    })
    .await;
    let address = gateway.addresses.admin_tls.unwrap();
    let base = format!("https://localhost:{}", address.port());
    let mut silent = Vec::new();
    for number in 0..100 {
        silent.push(TcpStream::connect(address).await.unwrap());
        if number % 20 == 0 {
            assert_eq!(gateway.admin("/livez").await.0, 200, "after {number}");
            // A new connection each time.
            assert_eq!(statuses(&authority.http(), &base, None).await, ALL, "after {number}");
        }
    }
    assert_eq!(silent[0].read(&mut [0]).await.unwrap_or(0), 0);
    drop(silent);
    gateway.finish().await;
}

/// A probe that keeps its connection is the one that has been idle longest; strangers at the other listener have places of their own.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_at_one_listener_take_no_place_of_the_other() {
    let authority = Authority::new();
    let gateway = TestGateway::start(&Broker::any(), |config| {
        with_tls(config, &authority, ClientCertificates::None);
        config.admin.tls.handshake_timeout = crate::harness::TEST_TIMEOUT * 2;
    })
    .await;
    let mut probe = TcpStream::connect(gateway.addresses.admin.unwrap()).await.unwrap();
    let mut ask = async || {
        let request = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
        probe.write_all(request).await.unwrap();
        let mut answer = [0; 12];
        probe.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        // The rest of it: what ends the body is its last line.
        while probe.read_u8().await.unwrap() != b'k' {}
        assert_eq!(probe.read_u8().await.unwrap(), b'\n');
    };
    ask().await;
    let tls = gateway.addresses.admin_tls.unwrap();
    let mut strangers = Vec::new();
    for _ in 0..40 {
        strangers.push(TcpStream::connect(tls).await.unwrap());
    }
    // There are sixteen places: these had to go.
    for stranger in &mut strangers[..20] {
        assert_eq!(stranger.read(&mut [0]).await.unwrap_or(0), 0);
    }
    ask().await;
    drop(strangers);
    drop(probe);
    gateway.finish().await;
}

/// Nobody who reads the log at its most detailed learns a token.
#[tokio::test(flavor = "multi_thread")]
async fn no_token_is_shown_anywhere() {
    let program = Program::start_changed(&Broker::any(), |config| {
        with_tokens(config);
        config.log.level = "trace".into();
    });
    eventually("it is ready", async || {
        program.try_admin("/readyz").await.filter(|said| said.starts_with("ok"))
    })
    .await;
    let base = format!("http://{}", program.addresses.admin.unwrap());
    let wrong = "canary-wrong-0123456789";
    let client = reqwest::Client::new();
    assert_eq!(statuses(&client, &base, Some(wrong)).await, PROBES);
    assert_eq!(statuses(&client, &base, Some(TOKEN)).await, ALL);
    let shown = async |path: &str| {
        let request = client.get(format!("{base}/{path}")).bearer_auth(TOKEN);
        request.send().await.unwrap().text().await.unwrap()
    };
    let said = [
        program.said(),
        shown("status").await,
        shown("metrics").await,
        program.check(),
    ]
    .concat();
    assert!(!said.contains("canary-"), "{said}");
    assert!(
        said.contains("a request to the admin port is refused") && said.contains("127.0.0.1:"),
        "{said}"
    );
}
