//! All metrics of one gateway, put together from those of the rooms.
//!
//! Names, types, labels and help texts are a public contract: `tests/golden/metrics.txt` lists them, with those of a store, and a
//! test compares it with the registry. `TEST_GOLDEN=write cargo test --lib golden` rewrites the list after a change that is meant.

use std::sync::Arc;

use crate::operate::admin::AdminMetrics;
use crate::operate::metrics::Registry;
use crate::receipt::metrics::Tallies;
use crate::{deliver, devices, listen};

#[derive(Debug)]
pub struct Metrics {
    pub registry: Arc<Registry>,
    pub tallies: Arc<Tallies>,
    pub listen: listen::Metrics,
    pub deliver: deliver::Metrics,
    pub devices: devices::Metrics,
    pub admin: AdminMetrics,
}

// === impl Metrics ===

impl Metrics {
    pub fn new() -> Self {
        let registry = Registry::default();
        registry.add_process();
        Metrics {
            tallies: Arc::new(Tallies::register(&registry)),
            listen: listen::Metrics::register(&registry),
            deliver: deliver::Metrics::register(&registry),
            devices: devices::Metrics::register(&registry),
            admin: AdminMetrics::register(&registry),
            registry: Arc::new(registry),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::operate::metrics::Declared;
    use crate::store::StoreMetrics;

    /// Those of a gateway, and those of a store, which is another process.
    fn declared() -> Vec<Declared> {
        let registry = Metrics::new().registry;
        StoreMetrics::register(&registry);
        registry.declared()
    }

    #[test]
    fn the_metrics_are_those_of_the_golden_list() {
        let declared = declared();
        let lines = declared.iter().map(|metric| {
            let labels = match metric.labels.join(", ") {
                labels if labels.is_empty() => labels,
                labels => format!("{{{labels}}}"),
            };
            format!("{}{labels} {}\n    {}\n", metric.name, metric.kind, metric.help)
        });
        let now: String = lines.collect();
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/metrics.txt");
        if std::env::var_os("TEST_GOLDEN").is_some_and(|value| value == "write") {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, &now).unwrap();
        }
        let golden = std::fs::read_to_string(&file).unwrap();
        assert!(
            golden == now,
            "the metrics are not those of {}; if that is meant: TEST_GOLDEN=write cargo test --lib golden\n{now}",
            file.display()
        );
    }

    /// Prometheus' conventions: what counts up ends in `_total`, nothing else does; base units only.
    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        for metric in declared() {
            let name = metric.name;
            assert_eq!(metric.kind == "counter", name.ends_with("_total"), "{name}");
            for unit in [
                "_ms", "_millis", "_minutes", "_hours", "_kb", "_kib", "_mib", "_percent",
            ] {
                assert!(!name.contains(unit), "{name}: {unit} is no base unit");
            }
        }
    }
}
