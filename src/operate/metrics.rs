//! The registry of a gateway's metrics, and the macro by which each room declares its own.
//!
//! A field's name is the metric's name behind `citygate_`, and its doc comment is the help text. Labels come from enums
//! only; a device id is never one. This file names no room: they name it, and `gateway` puts all of them together.

use std::sync::{Mutex, PoisonError};

use prometheus::core::Collector;

/// All metrics of one gateway; its own, so that several gateways fit into one process.
#[derive(Debug, Default)]
pub struct Registry {
    inner: prometheus::Registry,
    declared: Mutex<Vec<Declared>>,
}

/// A metric as it is promised to whoever scrapes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Declared {
    pub name: String,
    /// As Prometheus calls it: counter, gauge, histogram.
    pub kind: &'static str,
    pub labels: Vec<String>,
    pub help: String,
}

/// Declares a struct of metrics and its registration; see the module's documentation.
macro_rules! metrics {
    ($(#[doc = $about:literal])+ $name:ident { $( $(#[doc = $help:literal])+ $field:ident: $type:ident $([$($label:literal),+])? $(in $buckets:ident)? ,)+ }) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone)]
        pub struct $name { $( $(#[doc = $help])+ pub $field: $type, )+ }

        impl $name {
            pub fn register(registry: &$crate::operate::metrics::Registry) -> Self {
                Self { $( $field: {
                    let opts = prometheus::Opts::new(concat!("citygate_", stringify!($field)), concat!($($help),+).trim());
                    let metric: $type = $crate::operate::metrics::make!($type, opts $(, [$($label),+])? $(, in $buckets)?);
                    registry.add(stringify!($type), metric.clone());
                    metric
                }, )+ }
            }
        }
    };
}

macro_rules! make {
    (IntCounter, $opts:ident) => { prometheus::IntCounter::with_opts($opts).expect("valid name") };
    (Counter, $opts:ident) => { prometheus::Counter::with_opts($opts).expect("valid name") };
    (Gauge, $opts:ident) => { prometheus::Gauge::with_opts($opts).expect("valid name") };
    (IntGauge, $opts:ident) => { prometheus::IntGauge::with_opts($opts).expect("valid name") };
    (IntCounterVec, $opts:ident, [$($label:literal),+]) => {
        prometheus::IntCounterVec::new($opts, &[$($label),+]).expect("valid names")
    };
    (GaugeVec, $opts:ident, [$($label:literal),+]) => { prometheus::GaugeVec::new($opts, &[$($label),+]).expect("valid names") };
    (IntGaugeVec, $opts:ident, [$($label:literal),+]) => {
        prometheus::IntGaugeVec::new($opts, &[$($label),+]).expect("valid names")
    };
    (HistogramVec, $opts:ident, [$($label:literal),+], in $buckets:ident) => {
        prometheus::HistogramVec::new(prometheus::HistogramOpts::from($opts).buckets($buckets.to_vec()), &[$($label),+]).expect("valid names")
    };
}

pub(crate) use {make, metrics};

// === impl Registry ===

impl Registry {
    /// Registers a metric of a type of the crate `prometheus`.
    pub fn add(&self, of_type: &str, metric: impl Collector + 'static) {
        let kind = match of_type.trim_start_matches("Int").trim_end_matches("Vec") {
            "Counter" => "counter",
            "Gauge" => "gauge",
            _ => "histogram",
        };
        let declared = metric.desc().into_iter().map(|desc| Declared {
            name: desc.fq_name.clone(),
            kind,
            labels: desc.variable_labels.clone(),
            help: desc.help.clone(),
        });
        self.declared
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(declared);
        self.inner
            .register(Box::new(metric))
            .expect("each name is declared once");
    }

    /// Adds what Prometheus' clients tell of a process: CPU, memory, file descriptors.
    pub fn add_process(&self) {
        #[cfg(target_os = "linux")]
        self.inner
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
            .expect("process metrics are registered once");
    }

    /// All metrics that rooms have declared, in the order of their names.
    pub fn declared(&self) -> Vec<Declared> {
        let mut declared = self.declared.lock().unwrap_or_else(PoisonError::into_inner).clone();
        declared.sort();
        declared
    }

    /// Everything in Prometheus' text format.
    pub fn encode(&self) -> String {
        prometheus::TextEncoder::new()
            .encode_to_string(&self.inner.gather())
            .unwrap_or_default()
    }
}
