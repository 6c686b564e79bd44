//! `citygate check`: would `run` start, would Kafka accept the readings, and could `store` store them?
//!
//! All that a start looks at ([`start`]), and then Kafka's topics, without which a gateway starts and waits; of a configuration with
//! a database, the tables that it has and needs; or, beside a gateway that runs, files alone. All findings at once. Nothing is changed:
//! no topic is created, no schema registered, no file made, and addresses are let go at once.

use crate::gateway::bound::Bound;
use crate::operate::config::Config;
use crate::operate::start::{self, Findings};
use crate::store;

/// What is looked at.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct Options {
    /// Look at files alone: settings, schemas, identities, certificates. Neither Kafka nor a registry or database is asked, and no
    /// address or spool is tried, so that the gateway may run meanwhile.
    #[arg(long)]
    files: bool,
}

/// Looks at everything that the configuration names.
pub async fn findings(config: Config, options: Options) -> Findings {
    match options.files {
        true => of_files(config),
        false => of_everything(config).await,
    }
}

fn of_files(mut config: Config) -> Findings {
    let mut findings = start::look_at_files(&mut config);
    findings.ok.insert(0, "configuration".into());
    findings
}

async fn of_everything(mut config: Config) -> Findings {
    let (mut prepared, mut findings) = start::prepare(&mut config).await;
    findings.ok.insert(0, "configuration".into());
    // A service may run under another limit than the shell of its operator.
    findings
        .ok
        .push("file descriptors: this was the limit of this shell; a service has its own".into());
    // At once: a gateway may be about to start.
    prepared.bound = Bound::default();
    let store = store::check::findings(&config.store, &prepared.definitions).await;
    findings.errors.extend(store.errors.into_iter().map(start::Error::from));
    findings.warnings.extend(store.warnings);
    findings.ok.extend(store.ok);
    let Some(client) = prepared.client else {
        return findings;
    };
    // Without kinds there are no topics to ask for.
    if prepared.definitions.is_empty() {
        return findings;
    }
    let topics = prepared.definitions.into_iter().map(|kind| kind.topic).collect();
    match client.inspect(&config.kafka, topics).await {
        Ok(found) => {
            let servers = &config.kafka.bootstrap_servers;
            findings.ok.push(match found.to_create {
                None => format!("kafka: every topic exists at {servers}"),
                Some(topics) => format!("kafka: at {servers} these topics will be created: {topics}"),
            });
            findings.warnings.extend(found.weaknesses);
        }
        Err(error) => findings.errors.push(start::Error::Cluster(error)),
    }
    findings
}
