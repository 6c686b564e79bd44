//! Schema ids from a Confluent-compatible registry (Confluent, Apicurio's `ccompat`, Karapace), asked at start.
//!
//! For each kind: is its schema compatible with the latest under `<topic>-value`, then register it and keep the id
//! (registering the same text again returns the same id). The ids are kept in a file ([`cache`]): only what the registry
//! says of a schema itself keeps a gateway from starting; while the registry is unavailable or does not let it in, kept
//! ids serve, and the registry is asked again and again. The base URL may have a path. Answers are parsed defensively:
//! registries label plain text as JSON, and what answers may not be one ([`client`]).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tracing::{error, info, warn};

use super::schemas::Definition;
use cache::Cache;
use client::{Registry, subject};
use error::Refusal;

mod cache;

mod client;

mod config;

mod error;

pub mod lookup;

pub use config::Config;
pub use error::{Error, LookupError};

/// How soon a registry that did not confirm the kept ids is asked again: first, and at the latest.
const ASK_AGAIN: Duration = Duration::from_secs(5);
const ASK_AGAIN_MAX: Duration = Duration::from_secs(5 * 60);

/// Why a kept id serves, continued.
const OF_UNKNOWN_REGISTRY: &str = "; its ids were kept by an earlier version, which did not note the registry's URL";

/// What the registry says of every kind's schema; nothing is registered yet.
#[derive(Debug)]
pub struct Asked {
    registry: Registry,
    cache: Cache,
    cache_file: Option<PathBuf>,
    /// By kind: an id that was kept, and why it has to serve.
    kept: BTreeMap<String, (u32, String)>,
    wrong: Vec<(String, String)>,
}

/// The ids of all kinds, by name; some may still have to be confirmed.
#[derive(Debug)]
pub struct Ids {
    pub ids: BTreeMap<String, u32>,
    pub unconfirmed: Option<Unconfirmed>,
}

/// Kept ids are in use: the registry is asked until it has confirmed them.
#[derive(Debug)]
pub struct Unconfirmed {
    asked: Asked,
}

/// Asks the registry about every kind's schema; registers nothing. `None`: there is no registry.
///
/// # Errors
/// There is no HTTP client to ask with.
pub async fn ask(config: &Config, definitions: &[Definition]) -> Result<Option<Asked>, Error> {
    let Some(registry) = Registry::new(config)? else {
        return Ok(None);
    };
    let mut asked = Asked {
        registry,
        cache: config.cache_file.as_deref().map_or_else(Cache::default, Cache::read),
        cache_file: config.cache_file.clone(),
        kept: BTreeMap::new(),
        wrong: Vec::new(),
    };
    let mut silent = None;
    for kind in definitions {
        let answer = match &silent {
            // One that does not answer at all is not waited for again and again.
            Some(refusal) => Err(Refusal::clone(refusal)),
            None => asked.registry.compatible(kind).await,
        };
        if let Err(refusal) = answer {
            if matches!(refusal, Refusal::NoAnswer { .. }) {
                silent = Some(refusal.clone());
            }
            asked.note(kind, refusal);
        }
    }
    Ok(Some(asked))
}

// === impl Asked ===

impl Asked {
    /// A kind that the registry gives no id for: a kept one serves, or it is noted as wrong.
    fn note(&mut self, kind: &Definition, refusal: Refusal) {
        let subject = subject(kind);
        let why = match refusal {
            Refusal::Refused(why) => why,
            why => match self.cache.id(&self.registry.url, &subject, &kind.text) {
                Some(id) => {
                    let of_unknown = self.cache.is_of_unknown_registry(&self.registry.url, &subject);
                    let whose = if of_unknown { OF_UNKNOWN_REGISTRY } else { "" };
                    self.kept.insert(kind.name.clone(), (id, format!("{why}{whose}")));
                    return;
                }
                None => format!("{why}; and no id is kept from before"),
            },
        };
        self.wrong.push((subject, why));
    }

    /// Why there can be no id for some kinds, one error for each reason.
    pub fn wrong(&self) -> Vec<Error> {
        let wrong = self.wrong.iter().map(|(subject, why)| (subject.clone(), why.as_str()));
        grouped(wrong)
            .into_iter()
            .map(|(subjects, why)| Error::Refused {
                subjects,
                why: why.to_owned(),
            })
            .collect()
    }

    /// Which ids were kept and have to serve, one line for each reason.
    pub fn kept(&self, definitions: &[Definition]) -> Vec<String> {
        let kept = definitions.iter().filter_map(|kind| {
            let (id, why) = self.kept.get(&kind.name)?;
            Some((format!("{} ({id})", subject(kind)), why.as_str()))
        });
        grouped(kept)
            .into_iter()
            .map(|(subjects, why)| {
                format!("registry: {why}; the schema ids kept from before serve, and it is asked again: {subjects}")
            })
            .collect()
    }

    /// Registers every schema that has no kept id; all mistakes at once.
    ///
    /// # Errors
    /// The registry does not accept a schema, or nothing is known of one.
    pub async fn register(mut self, definitions: &[Definition]) -> Result<Ids, Vec<Error>> {
        let mut ids = BTreeMap::new();
        for kind in definitions {
            if self.kept.contains_key(&kind.name) {
                continue;
            }
            match self.registry.register(kind).await {
                Ok(id) => {
                    self.cache.keep(&self.registry.url, subject(kind), &kind.text, id);
                    ids.insert(kind.name.clone(), id);
                }
                Err(refusal) => self.note(kind, refusal),
            }
        }
        self.write();
        if !self.wrong.is_empty() {
            return Err(self.wrong());
        }
        ids.extend(self.kept.iter().map(|(kind, (id, _))| (kind.clone(), *id)));
        let unconfirmed = match self.kept.is_empty() {
            false => {
                self.kept(definitions).iter().for_each(|line| warn!("{line}"));
                Some(Unconfirmed { asked: self })
            }
            true => {
                info!(?ids, "schemas are registered");
                None
            }
        };
        Ok(Ids { ids, unconfirmed })
    }

    fn write(&mut self) {
        if let Some(path) = &self.cache_file {
            self.cache.write(path);
        }
    }
}

/// Subjects that have the same reason, together.
fn grouped<'a>(subjects: impl Iterator<Item = (String, &'a str)>) -> Vec<(String, &'a str)> {
    let mut groups: Vec<(String, &str)> = Vec::new();
    for (subject, why) in subjects {
        match groups.iter_mut().find(|(_, other)| *other == why) {
            Some((subjects, _)) => *subjects = format!("{subjects}, {subject}"),
            None => groups.push((subject, why)),
        }
    }
    groups
}

// === impl Unconfirmed ===

impl Unconfirmed {
    /// Asks the registry until it has confirmed every kept id, or said something that another try will not change.
    pub async fn confirm(self, definitions: Vec<Definition>) {
        let mut asked = self.asked;
        let mut pause = ASK_AGAIN;
        let mut said = None;
        while !asked.kept.is_empty() {
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(ASK_AGAIN_MAX);
            let before = asked.kept.len();
            let answered = asked.confirm_once(&definitions).await;
            if asked.kept.len() < before {
                asked.write();
            }
            if let Err(why) = answered
                && said.as_ref() != Some(&why)
            {
                warn!("registry: {why}; the schema ids kept from before still serve, and it is asked again");
                said = Some(why);
            }
        }
        info!("registry: it was asked about every schema id that was kept from before");
    }
}

impl Asked {
    async fn confirm_once(&mut self, definitions: &[Definition]) -> Result<(), Refusal> {
        for kind in definitions {
            let Some(&(kept, _)) = self.kept.get(&kind.name) else {
                continue;
            };
            let subject = subject(kind);
            match self.registry.register(kind).await {
                Ok(id) if id == kept => self.cache.keep(&self.registry.url, subject, &kind.text, id),
                Ok(id) => {
                    error!(
                        subject,
                        kept,
                        id,
                        "the registry has another id for this schema than the one in use: restart the gateway"
                    );
                    self.cache.keep(&self.registry.url, subject, &kind.text, id);
                }
                Err(Refusal::Refused(why)) => error!(
                    subject,
                    %why,
                    "the registry does not accept the schema whose kept id is in use: the next start would fail"
                ),
                Err(refusal) => return Err(refusal),
            }
            self.kept.remove(&kind.name);
        }
        Ok(())
    }
}
