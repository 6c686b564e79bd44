//! The report as a table for people.
//!
//! A column for each protocol and one for all, then every code that was met, what the generator itself cost, and what a
//! reader of the figures should know.

use std::fmt;

use super::report::{Line, Report};
pub use crate::report::grouped;

/// With three digits that matter.
pub fn milliseconds(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value < 10.0 => format!("{value:.2} ms"),
        Some(value) if value < 100.0 => format!("{value:.1} ms"),
        Some(value) => format!("{} ms", grouped(value.round() as u64)),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_table(f)?;
        self.write_codes(f)?;
        self.write_generator(f)?;
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        if let Some(ending) = self.ending() {
            writeln!(f, "\nended early: {ending}")?;
        }
        Ok(())
    }
}

impl Report {
    /// A column for each protocol, and one for all if there are several.
    fn write_table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = (self.by_protocol.len() != 1).then_some(("all".to_owned(), &self.total));
        let each = self
            .by_protocol
            .iter()
            .map(|(protocol, line)| (protocol.name().to_owned(), line));
        let columns: Vec<(String, &Line)> = all.into_iter().chain(each).collect();
        let mut row = |name: &str, cell: &dyn Fn(&Line) -> String| {
            write!(f, "{name:<18}")?;
            for (_, line) in &columns {
                write!(f, "{:>14}", cell(line))?;
            }
            writeln!(f)
        };
        row("", &|line| {
            let found = columns.iter().find(|(_, other)| std::ptr::eq(*other, line));
            found.map_or_else(String::new, |(name, _)| name.clone())
        })?;
        row("connections", &|line| grouped(line.connections as u64))?;
        if self.set.idle {
            row("up at the end", &|line| grouped(line.connections_up))?;
            row("pings answered", &|line| grouped(line.pings_answered))?;
            for (index, (name, _)) in self.total.ping.rows().iter().enumerate() {
                row(&format!("ping {name}"), &|line| milliseconds(line.ping.rows()[index].1))?;
            }
            return Ok(());
        }
        row("sent", &|line| grouped(line.sent))?;
        row("positive answers", &|line| grouped(line.positive))?;
        row("other answers", &|line| grouped(line.negative))?;
        row("no answer", &|line| grouped(line.unanswered))?;
        if self.set.rate.is_some() {
            row("not sent in time", &|line| grouped(line.not_sent))?;
            row("send delay p99", &|line| milliseconds(line.send_delay.p99_ms))?;
        }
        row("positive per s", &|line| grouped(line.per_second.round() as u64))?;
        for (index, (name, _)) in self.total.latency.rows().iter().enumerate() {
            row(&format!("latency {name}"), &|line| {
                milliseconds(line.latency.rows()[index].1)
            })?;
        }
        Ok(())
    }

    fn write_codes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        for (protocol, line) in &self.by_protocol {
            let besides = [
                ("sent again", line.retransmissions),
                ("answers to nothing", line.strays),
            ];
            let besides = besides.iter().map(|(name, count)| (*name, *count));
            let counts = line.answers.iter().chain(&line.connection_events);
            for (name, count) in counts.map(|(name, count)| (name.as_str(), *count)).chain(besides) {
                if count > 0 {
                    writeln!(f, "{protocol:<6}{name:<42}{:>16}", grouped(count))?;
                }
            }
        }
        Ok(())
    }

    fn write_generator(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let generator = &self.generator;
        write!(
            f,
            "\nthe generator: {:.2} s of processor time in {:.1} s",
            generator.processor_s, self.seconds
        )?;
        if let Some(per_message) = generator.processor_us_per_message {
            write!(f, ", {per_message:.2} µs a message")?;
        }
        write!(f, "; {} MiB of memory", grouped(generator.resident_bytes >> 20))?;
        if let Some(bytes) = generator.resident_bytes_per_connection {
            write!(f, ", {:.1} KiB a connection", bytes as f64 / 1024.0)?;
        }
        writeln!(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_easy_to_read() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
        for (value, text) in [(0.123, "0.12 ms"), (12.34, "12.3 ms"), (1234.5, "1,235 ms")] {
            assert_eq!(milliseconds(Some(value)), text);
        }
        assert_eq!(milliseconds(None), "-");
    }
}
