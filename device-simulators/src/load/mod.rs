//! The load generator: more readings per second than what it tests can accept, with latencies that hide nothing.
//!
//! A device of a [fleet](crate::fleet) is a faithful client and costs as much as one. Here a connection is a few hundred
//! bytes, a message is a copy of a [real reading](readings) made current, and packets are written by hand into buffers
//! that are reused; one [thread](worker) serves thousands of connections. The closed loop keeps a window of unanswered
//! messages on each; the open loop keeps a [rate](pace), whatever the server does, and counts latency from when a message
//! was due. What happened is counted by [code], second by [second](time_series), and told by a [report], a
//! [page](html) and [metrics](exporter). [`sink`] is the counterpart that only acknowledges, which shows the
//! generator's own limit.
//!
//! ```text
//! runner ── starts ─→ worker (a thread) ── owns ─→ stream (TCP: mqtt, http), port (UDP: coap)
//!    ↑                     │                            │ sender: who, and what is due (pace); slots: what waits
//!  series ←── each second ── tally ←──── every answer ────┘
//!    └─→ progress, exporter, report → html
//! ```
//!
//! [code]: codes

pub mod clock;
pub mod coap;
pub mod codes;
mod context;
pub mod exporter;
pub mod html;
pub mod http;
mod link;
pub mod mqtt;
pub mod options;
pub mod pace;
mod poller;
mod port;
pub mod progress;
pub mod readings;
pub mod report;
pub mod runner;
mod sender;
pub mod settings;
pub mod sink;
mod slots;
mod stream;
pub mod table;
pub mod tally;
pub mod time_series;
mod worker;

#[cfg(test)]
mod tests;

use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use anyhow::Context;

pub use options::Options;
pub use report::Report;
pub use runner::{Ended, SharedSeries};
pub use settings::{Credentials, Settings};

/// Runs `device-simulators load`: prints the report, and says by the exit code what it comes to.
pub async fn run(options: Options) -> anyhow::Result<ExitCode> {
    if options.list_devices {
        options.list();
        return Ok(ExitCode::SUCCESS);
    }
    let page = options.html.as_ref().map(html::Page::create).transpose()?;
    let settings = options.settings().await?;
    let series: SharedSeries = Arc::new(Mutex::new(None));
    let progress = progress::Progress::on_stderr();
    let interrupted = async {
        // Without a way to hear of Ctrl-C the run ends by the clock.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let running = runner::run(
        settings,
        Arc::clone(&series),
        |series, settings| progress.show(series, settings),
        interrupted,
    );
    let report = match options.prometheus {
        None => running.await,
        Some(address) => {
            let exporter = exporter::Exporter::bind(address, series).await?;
            eprintln!("metrics: http://{}/metrics", exporter.address()?);
            tokio::select! {
                report = running => report,
                served = exporter.serve() => Err(served.err().map_or_else(|| anyhow::anyhow!("it ended"), Into::into))
                    .context("the metrics cannot be served any more"),
            }
        }
    };
    progress.end();
    let report = report?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{report}");
    }
    if let Some(page) = page {
        page.write(&report)?;
    }
    if let Some(ending) = report.ending() {
        eprintln!("device-simulators: {ending}");
    } else if report.is_empty() {
        eprintln!("device-simulators: nothing was answered, so nothing was measured");
    }
    Ok(report.exit_code())
}
