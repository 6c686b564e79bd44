//! The admin port answers whoever asks next.
//!
//! A liveness probe that finds no free connection would restart a gateway in good health, so peers that connect and stay
//! silent must not keep it out.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Broker, TestGateway};

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
