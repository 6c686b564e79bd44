//! `--html`: the report as one page that needs nothing else, in light and dark.
//!
//! The curves are drawn here as SVG, with titles that a pointer shows; there is no script in the page. Everything on it is
//! in the JSON report too, but for the points of the percentile curve.

mod chart;
mod curves;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::NamedTempFile;

use super::report::{Line, Report};
use super::table::{grouped, milliseconds};
use crate::uplinks::Protocol;

const STYLE: &str = include_str!("page.css");

/// The file that the page will be written to.
#[derive(Debug)]
pub struct Page {
    file: NamedTempFile,
    path: PathBuf,
}

// === impl Page ===

impl Page {
    /// Fails at once if the page could not be written at the end. What is at `path` stays until then.
    pub fn create(path: impl AsRef<Path>) -> anyhow::Result<Page> {
        let path = path.as_ref();
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        anyhow::ensure!(!path.is_dir(), "--html {}: this is a folder", path.display());
        let file = NamedTempFile::new_in(folder.unwrap_or(Path::new(".")));
        Ok(Page {
            file: file.with_context(|| format!("--html {}: nothing can be written in its folder", path.display()))?,
            path: path.to_owned(),
        })
    }

    pub fn write(mut self, report: &Report) -> anyhow::Result<()> {
        let said = || format!("--html {}", self.path.display());
        self.file.write_all(page(report).as_bytes()).with_context(said)?;
        // Temporary files are private; a report is for others too.
        let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        self.file.as_file().set_permissions(everyone).with_context(said)?;
        self.file
            .persist(&self.path)
            .map_err(|error| error.error)
            .with_context(said)?;
        Ok(())
    }
}

/// The whole page.
pub fn page(report: &Report) -> String {
    let mut body = String::new();
    body.push_str(&header(report));
    body.push_str(&tiles(report));
    if report.set.idle {
        body.push_str(&figure("Latency of PINGREQ", "", &curves::percentiles(report)));
    } else {
        let legend = legend(report);
        body.push_str(&figure("Latency by percentile", &legend, &curves::percentiles(report)));
        body.push_str(&figure("Positive answers per second", &legend, &curves::rates(report)));
        body.push_str(&figure(
            "Latency over time, 99th percentile",
            &legend,
            &curves::latencies(report),
        ));
    }
    body.push_str(&answers(report));
    body.push_str(&table(report));
    body.push_str(&footer(report));
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n<title>{}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n",
        title(report)
    )
}

fn title(report: &Report) -> String {
    let protocols: Vec<&str> = report.by_protocol.keys().map(|protocol| display(*protocol)).collect();
    format!("Load report: {}", protocols.join(", "))
}

fn display(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Mqtt => "MQTT",
        Protocol::Coap => "CoAP",
        Protocol::Http => "HTTP",
    }
}

fn header(report: &Report) -> String {
    let set = &report.set;
    let pace = match (set.idle, set.rate) {
        (true, _) => "idle connections".to_owned(),
        (false, Some(rate)) => format!("open loop at {} messages per second", grouped(rate.round() as u64)),
        (false, None) => {
            let windows = set.windows.iter();
            let windows: Vec<String> = windows
                .map(|(protocol, window)| format!("{} {window}", display(*protocol)))
                .collect();
            format!("closed loop, unanswered per connection: {}", windows.join(", "))
        }
    };
    let ending = report.ending().map_or_else(String::new, |ending| {
        format!("<p class=\"bad\">Ended early: {}.</p>\n", escaped(&ending))
    });
    format!(
        "<header>\n<h1>{}</h1>\n<p>{} connections, {pace}; {} s of ramp, {} s measured.</p>\n{ending}</header>\n",
        title(report),
        grouped(set.connections as u64),
        set.ramp_s,
        (report.seconds * 10.0).round() / 10.0,
    )
}

/// The few figures that people ask for first.
fn tiles(report: &Report) -> String {
    let total = &report.total;
    let bad = total.negative + total.unanswered + total.not_sent;
    let cost = report.generator.processor_us_per_message;
    let mut tiles = Vec::new();
    if report.set.idle {
        tiles.push(("connections up", grouped(total.connections_up), ""));
        tiles.push(("ping, median", milliseconds(total.ping.p50_ms), ""));
        let bytes = report.generator.resident_bytes_per_connection.unwrap_or(0);
        tiles.push(("memory per connection", format!("{:.1} KiB", bytes as f64 / 1024.0), ""));
    } else {
        tiles.push((
            "positive answers per second",
            grouped(total.per_second.round() as u64),
            "",
        ));
        tiles.push(("latency, median", milliseconds(total.latency.p50_ms), ""));
        tiles.push(("latency, 99th percentile", milliseconds(total.latency.p99_ms), ""));
        tiles.push((
            "not answered positively",
            grouped(bad),
            if bad > 0 { "bad" } else { "good" },
        ));
        tiles.push((
            "generator per message",
            cost.map_or_else(|| "-".to_owned(), |cost| format!("{cost:.2} µs")),
            "",
        ));
    }
    let mut text = String::from("<dl class=\"tiles\">\n");
    for (name, value, class) in tiles {
        text.push_str(&format!(
            "<div><dt>{name}</dt><dd class=\"{class}\">{value}</dd></div>\n"
        ));
    }
    text + "</dl>\n"
}

fn legend(report: &Report) -> String {
    let mut text = String::from("<ul class=\"legend\">");
    for protocol in report.by_protocol.keys() {
        text.push_str(&format!("<li class=\"{protocol}\"><i></i>{}</li>", display(*protocol)));
    }
    text + "</ul>"
}

fn figure(title: &str, legend: &str, svg: &str) -> String {
    format!("<figure>\n<figcaption><h2>{title}</h2>{legend}</figcaption>\n{svg}</figure>\n")
}

/// Every code that was met.
fn answers(report: &Report) -> String {
    let mut rows = String::new();
    for (protocol, line) in &report.by_protocol {
        let besides = [
            ("sent again (CoAP retransmission)", line.retransmissions),
            ("answers to nothing that was waited for", line.strays),
        ];
        let counts = line
            .answers
            .iter()
            .map(|(name, count)| (name.as_str(), "message", *count));
        let events = line
            .connection_events
            .iter()
            .map(|(name, count)| (name.as_str(), "connection", *count));
        let besides = besides.into_iter().map(|(name, count)| (name, "besides", count));
        for (name, what, count) in counts.chain(events).chain(besides).filter(|(.., count)| *count > 0) {
            rows.push_str(&format!(
                "<tr><th class=\"{protocol}\"><i></i>{}</th><td>{}</td><td>{what}</td><td class=\"number\">{}</td></tr>\n",
                display(*protocol),
                escaped(name),
                grouped(count)
            ));
        }
    }
    format!(
        "<section>\n<h2>What came back, over the whole run</h2>\n<div class=\"scroll\"><table>\n<thead><tr><th></th><th>Answer or \
         event</th><th>of a</th><th class=\"number\">count</th></tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n</section>\n"
    )
}

/// The figures behind the curves.
fn table(report: &Report) -> String {
    let mut columns: Vec<(&str, &Line)> = Vec::new();
    if report.by_protocol.len() != 1 {
        columns.push(("All", &report.total));
    }
    columns.extend(
        report
            .by_protocol
            .iter()
            .map(|(protocol, line)| (display(*protocol), line)),
    );
    let mut text = String::from(
        "<section>\n<h2>Figures of the steady part</h2>\n<div class=\"scroll\"><table>\n<thead><tr><th></th>",
    );
    for (name, _) in &columns {
        text.push_str(&format!("<th class=\"number\">{name}</th>"));
    }
    text.push_str("</tr></thead>\n<tbody>\n");
    let mut row = |name: &str, cell: &dyn Fn(&Line) -> String| {
        text.push_str(&format!("<tr><th>{name}</th>"));
        for (_, line) in &columns {
            text.push_str(&format!("<td class=\"number\">{}</td>", cell(line)));
        }
        text.push_str("</tr>\n");
    };
    row("connections", &|line| grouped(line.connections as u64));
    row("positive per second", &|line| grouped(line.per_second.round() as u64));
    for (index, (name, _)) in report.total.latency.rows().iter().enumerate() {
        row(&format!("latency {name}"), &|line| {
            let percentiles = if report.set.idle { &line.ping } else { &line.latency };
            milliseconds(percentiles.rows()[index].1)
        });
    }
    if report.set.rate.is_some() {
        row("send delay p99", &|line| milliseconds(line.send_delay.p99_ms));
    }
    text + "</tbody>\n</table></div>\n</section>\n"
}

fn footer(report: &Report) -> String {
    let generator = &report.generator;
    let mut text = String::from("<footer>\n");
    for note in &report.notes {
        // Writing to a string cannot fail.
        writeln!(text, "<p>Note: {}.</p>", escaped(note)).unwrap_or_default();
    }
    writeln!(
        text,
        "<p>Latency runs from when a message was due to its positive answer; what got no answer counts with the time that it \
         waited in vain. The generator used {:.2} s of processor time in {:.1} s and {} MiB of memory, with {} thread{}.</p>",
        generator.processor_s,
        report.seconds,
        grouped(generator.resident_bytes >> 20),
        report.set.threads,
        if report.set.threads == 1 { "" } else { "s" },
    )
    .unwrap_or_default();
    text + "</footer>\n"
}

/// As text of HTML.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}
