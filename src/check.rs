//! `citygate check`: is what the configuration names really there, and right?
//!
//! Schemas, registry, file descriptors, the spool's folder and Kafka's topics, all looked at, all findings at once. Nothing
//! is changed: no topic is created, no schema registered, and no address is bound (the gateway may be running).

use crate::config::Config;
use crate::deliver::{self, spool};
use crate::descriptors::{self, Plan};
use crate::metrics::Metrics;
use crate::schemas::{Schemas, registry};
use crate::validate::Validator;

/// What a check found, one line each.
#[derive(Debug, Default)]
pub struct Findings {
    pub good: Vec<String>,
    /// Works, but weakens the promise.
    pub weak: Vec<String>,
    /// Readings would not be taken.
    pub wrong: Vec<String>,
}

/// Looks at everything that the configuration names.
pub async fn findings(config: &Config) -> Findings {
    let mut findings = Findings::default();
    findings.good.push("configuration".into());
    let schemas = match Schemas::load(&config.schemas.folder, &config.kafka.topic_prefix) {
        Ok(schemas) => schemas,
        Err(errors) => {
            findings.wrong.extend(errors.iter().map(ToString::to_string));
            return findings;
        }
    };
    match Validator::new(&schemas, &config.clock) {
        Ok(_) => findings.good.push(format!("schemas: {}", schemas.names().join(", "))),
        Err(errors) => findings.wrong.extend(errors),
    }
    if config.registry.url.is_some() {
        let wrong = registry::check(&config.registry, &schemas).await;
        if wrong.is_empty() {
            findings.good.push("registry: it takes every schema".into());
        }
        findings.wrong.extend(wrong);
    }
    look_at_descriptors(config, &mut findings);
    look_at_spool(&config.spool, &mut findings);
    let metrics = Metrics::new(&schemas.names());
    match deliver::inspect(&config.kafka, &schemas, metrics.kafka).await {
        Ok(found) => {
            let servers = &config.kafka.bootstrap_servers;
            findings.good.push(match found.to_create {
                None => format!("kafka: every topic is there at {servers}"),
                Some(topics) => format!("kafka: at {servers} these topics will be created: {topics}"),
            });
            findings.weak.extend(found.weaknesses);
        }
        Err(error) => findings.wrong.push(error),
    }
    findings
}

fn look_at_descriptors(config: &Config, findings: &mut Findings) {
    // A service may run under another limit than the shell of its operator.
    let said = |plan: &Plan| format!("{plan} (under the limit of this shell; a service has its own)");
    match Plan::new(config, descriptors::limit()) {
        Ok(plan) if plan.is_short() => findings.weak.push(said(&plan)),
        Ok(plan) => findings.good.push(said(&plan)),
        Err(error) => findings.wrong.push(error),
    }
}

fn look_at_spool(config: &spool::Config, findings: &mut Findings) {
    if !config.enabled {
        let text = "spool: it is off, so readings are answered busy while kafka is unavailable";
        return findings.weak.push(text.into());
    }
    let folder = config.folder.display();
    let beside = spool::left_beside(&config.folder, &spool::RealDisk::default());
    findings.wrong.extend(beside.iter().map(|left| {
        let left = left.display();
        format!(
            "spool: {left} holds readings that were saved when files of {folder} were taken away: start once with \
             spool.folder = {left:?} until they are in kafka, then remove it",
            left = left.to_string()
        )
    }));
    match spool::recovery::inspect(config, &spool::RealDisk::default()) {
        Ok(None) => findings.good.push(format!("spool: {folder} will be made")),
        Ok(Some(segments)) => findings
            .good
            .push(format!("spool: {folder} is one, with {segments} segments")),
        Err(error) => findings.wrong.push(error.to_string()),
    }
}
