//! What must be right before a gateway runs: `run` and `check` look at it with the same code, and say the same words.
//!
//! File descriptors, limits of the kernel, schemas and the names of their topics, registry, spool, Kafka's client, addresses: all of it is
//! looked at, whatever is wrong with one of them. Nothing is changed that outlives it: no file is made, no schema
//! registered, no topic created. What a start needs of it is kept ([`Prepared`]).

use std::sync::Arc;

use crate::catalogue::{Definition, Kind, kinds, registry, schemas};
use crate::deliver::{self, spool};
use crate::devices::{self, Register};
use crate::gateway::bound::Bound;
use crate::gateway::metrics::Metrics;
use crate::listen;
use crate::listen::tls::Tls;
use crate::operate::config::Config;
use crate::operate::descriptors::{self, Plan};
use crate::operate::kernel;
use crate::operate::mistake::Mistake;
use crate::operate::state;
use crate::{store, validate};

/// Networks of balancers that have fewer bits are likely to have others in them as well.
const BALANCERS_IPV4_BITS: u8 = 24;
const BALANCERS_IPV6_BITS: u8 = 56;

/// What keeps a gateway from starting: what one of the rooms says of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Descriptors(#[from] descriptors::TooFew),
    #[error(transparent)]
    Kinds(#[from] kinds::Error),
    /// The topic of a kind is the dead-letter topic.
    #[error("{0}")]
    Clash(String),
    #[error(transparent)]
    Registry(#[from] registry::Error),
    #[error(transparent)]
    State(#[from] state::Error),
    #[error(transparent)]
    Spool(#[from] spool::Error),
    #[error(transparent)]
    Client(#[from] deliver::kafka::Error),
    /// The cluster cannot be used; only `check` asks it.
    #[error(transparent)]
    Cluster(#[from] deliver::probe::Unusable),
    /// The store's database cannot be used; only `check` asks it.
    #[error("store: {0}")]
    Store(#[from] store::Error),
    #[error(transparent)]
    Listen(#[from] listen::Error),
    /// An identity file.
    #[error("devices: {0}")]
    Identities(Mistake),
}

/// What was found, one line each.
#[derive(Debug, Default)]
pub struct Findings {
    /// The gateway does not start.
    pub errors: Vec<Error>,
    /// It starts; something weakens the promise, or has no effect.
    pub warnings: Vec<String>,
    pub ok: Vec<String>,
}

/// What a start needs, as far as it is valid.
#[derive(Debug)]
pub struct Prepared {
    pub plan: Option<Plan>,
    pub bound: Bound,
    pub definitions: Vec<Definition>,
    pub kinds: Option<Vec<Kind>>,
    /// None: no identities are configured.
    pub identities: Option<Register>,
    pub registry: Option<registry::Asked>,
    pub metrics: Arc<Metrics>,
    pub client: Option<deliver::Client>,
}

// === impl Findings ===

impl Findings {
    fn fail(&mut self, errors: impl IntoIterator<Item: Into<Error>>) {
        self.errors.extend(errors.into_iter().map(Into::into));
    }
}

/// What files alone say.
struct Read {
    plan: Option<Plan>,
    metrics: Arc<Metrics>,
    definitions: Vec<Definition>,
    kinds: Option<Vec<Kind>>,
    identities: Option<Register>,
}

/// Looks at everything, and holds `config` to the file descriptors that there are.
pub async fn prepare(config: &mut Config) -> (Prepared, Findings) {
    let mut findings = Findings::default();
    let Read {
        plan,
        metrics,
        definitions,
        kinds,
        identities,
    } = read(config, &mut findings);
    let registry = ask_registry(config, &definitions, &mut findings).await;
    look_at_state(config, &mut findings);
    look_at_spool(config, &mut findings);
    let client = deliver::Client::new(&config.kafka, config.spool.enabled, &metrics.deliver.kafka);
    let client = client.map_err(|error| findings.errors.push(error.into())).ok();
    // Last: whoever only looks holds no address while a registry takes its time, and a gateway that starts finds them free.
    let mut errors = Vec::new();
    let bound = Bound::bind(config, &mut errors).await;
    findings.fail(errors);
    findings.warnings.extend(bound.warnings());
    let prepared = Prepared {
        plan,
        bound,
        definitions,
        kinds,
        identities,
        registry,
        metrics,
        client,
    };
    (prepared, findings)
}

/// Looks at what is in files alone: schemas, identities, certificates, and what their limits need. Nobody is asked, and neither an
/// address nor the spool is tried, so that a gateway may run meanwhile.
pub fn look_at_files(config: &mut Config) -> Findings {
    let mut findings = Findings::default();
    read(config, &mut findings);
    let listeners = [
        ("mqtt", config.mqtt.enabled, &config.mqtt.tls),
        ("http", config.http.enabled, &config.http.tls),
        ("admin", true, &config.admin.tls),
    ];
    for (listener, _, tls) in listeners
        .into_iter()
        .filter(|(_, enabled, tls)| *enabled && tls.listen.is_some())
    {
        match Tls::new(listener, tls, &[]) {
            Ok(tls) => findings.warnings.extend(tls.warnings()),
            Err(error) => findings.errors.push(error.into()),
        }
    }
    findings
}

fn read(config: &mut Config, findings: &mut Findings) -> Read {
    findings.warnings.extend(config.warnings.iter().map(Mistake::to_string));
    let plan = descriptors(config, findings);
    findings.warnings.extend(kernel::warnings(config));
    let metrics = Arc::new(Metrics::new());
    let definitions = read_schemas(config, findings);
    let kinds = kinds::compile(&definitions, &metrics.tallies);
    let kinds = kinds.map_err(|errors| findings.fail(errors)).ok();
    let names = definitions.iter().map(|kind| &*kind.name).collect();
    let identities = read_identities(config, names, findings);
    look_at_prefixes(config, plan.as_ref(), findings);
    Read {
        plan,
        metrics,
        definitions,
        kinds,
        identities,
    }
}

fn descriptors(config: &mut Config, findings: &mut Findings) -> Option<Plan> {
    match Plan::new(config, descriptors::raise()) {
        Err(error) => {
            findings.errors.push(error.into());
            None
        }
        Ok(plan) => {
            match plan.is_short() {
                true => findings.warnings.push(plan.to_string()),
                false => findings.ok.push(plan.to_string()),
            }
            plan.apply(config);
            Some(plan)
        }
    }
}

fn read_schemas(config: &Config, findings: &mut Findings) -> Vec<Definition> {
    let folder = &config.schemas.folder;
    let found = schemas::read(&config.schemas, &config.kafka.topic_prefix);
    let clashes = schemas::clashes(&found.definitions, folder, &config.kafka.dead_letter_topic);
    if found.errors.is_empty() && clashes.is_empty() {
        let names: Vec<_> = found.definitions.iter().map(|kind| kind.name.as_str()).collect();
        findings.ok.push(format!("schemas: {}", names.join(", ")));
    }
    findings.fail(found.errors.into_iter().map(kinds::Error::from));
    findings.errors.extend(clashes.into_iter().map(Error::Clash));
    for kind in &found.definitions {
        let foreign = validate::foreign_attributes(&kind.text).into_iter();
        let warning = |attribute| {
            format!(
                "schemas: {}: {attribute} is no attribute that citygate knows",
                kind.name
            )
        };
        findings.warnings.extend(foreign.map(warning));
    }
    if !found.unlisted.is_empty() {
        let unlisted = found.unlisted.join(", ");
        findings
            .ok
            .push(format!("schemas: ignored, as not in schemas.kinds: {unlisted}"));
    }
    if !found.ignored.is_empty() {
        let ignored = found.ignored.iter().map(|path| path.display().to_string());
        let ignored = ignored.collect::<Vec<_>>().join(", ");
        findings
            .ok
            .push(format!("schemas: ignored, as not called <kind>.avsc: {ignored}"));
    }
    found.definitions
}

fn read_identities(config: &Config, kinds: Vec<&str>, findings: &mut Findings) -> Option<Register> {
    let folder = config.devices.folder.as_deref()?;
    let register = match devices::files::read(folder, &Register::default()) {
        Ok(register) => register,
        Err(mistakes) => {
            findings.errors.extend(mistakes.0.into_iter().map(Error::Identities));
            return None;
        }
    };
    findings
        .ok
        .push(format!("devices: {} in {}", register.len(), state::absolute(folder)));
    // Without a schema that can be read, that is what is wrong.
    if !kinds.is_empty() && register.kinds().iter().any(|kind| !kinds.contains(kind)) {
        let unknown = devices::files::unknown_kinds(folder, &kinds).into_iter();
        findings
            .warnings
            .extend(unknown.map(|mistake| format!("devices: {mistake}")));
    }
    if config.coap.enabled && !config.coap.allow_anonymous && !config.coap.key_in_query {
        let text = "coap: with devices.folder every message is refused (4.01), since it has no credentials without DTLS; \
                    coap.key_in_query accepts keys in plain text, coap.allow_anonymous messages for devices without an identity, \
                    or disable it";
        findings.warnings.push(text.to_owned());
    }
    if config.coap.enabled && config.coap.key_in_query && config.is_coap_beyond_loopback() {
        let text =
            "coap.key_in_query: keys cross the network in plain text, and whoever reads one can send as its device";
        findings.warnings.push(text.to_owned());
    }
    Some(register)
}

/// Limits per address prefix that limit nothing, and balancers that may be anybody.
fn look_at_prefixes(config: &Config, plan: Option<&Plan>, findings: &mut Findings) {
    let listeners = [
        ("mqtt", config.mqtt.enabled, &config.mqtt.proxy_protocol),
        ("http", config.http.enabled, &config.http.proxy_protocol),
    ];
    for (table, _, balancers) in listeners.into_iter().filter(|(_, enabled, _)| *enabled) {
        let wide = balancers.wider_than(BALANCERS_IPV4_BITS, BALANCERS_IPV6_BITS);
        findings.warnings.extend(wide.map(|network| {
            format!(
                "{table}.proxy_protocol: whoever is in {network} may claim to be any address; list the balancers themselves, or a \
                 network that has nobody else"
            )
        }));
    }
    let limits = &config.limits.prefix;
    let Some(plan) = plan.filter(|_| config.is_beyond_loopback()) else {
        return;
    };
    for (setting, most) in [
        ("connections_max", limits.connections_max),
        ("connecting_max", limits.connecting_max),
    ] {
        if most as usize > plan.connections {
            findings.warnings.push(format!(
                "limits.prefix.{setting}: {most} is more than all connections that there can be ({}), so one network can use them \
                 up; lower it, or raise the hard limit of file descriptors (ulimit -n, LimitNOFILE)",
                plan.connections
            ));
        }
    }
}

async fn ask_registry(config: &Config, definitions: &[Definition], findings: &mut Findings) -> Option<registry::Asked> {
    let asked = registry::ask(&config.registry, definitions).await;
    let asked = asked.map_err(|error| findings.errors.push(error.into())).ok()??;
    let (wrong, kept) = (asked.wrong(), asked.kept(definitions));
    if wrong.is_empty() && kept.is_empty() {
        findings.ok.push("registry: it accepts every schema".into());
    }
    findings.fail(wrong);
    findings.warnings.extend(kept);
    Some(asked)
}

fn look_at_state(config: &Config, findings: &mut Findings) {
    match state::to_create(config) {
        Err(error) => findings.errors.push(error.into()),
        Ok(Some(folder)) => findings
            .ok
            .push(format!("state_dir: {} will be created", state::absolute(folder))),
        Ok(None) if state::is_used(config) => findings
            .ok
            .push(format!("state_dir: {}", state::absolute(&config.state_dir))),
        Ok(None) => {}
    }
}

fn look_at_spool(all: &Config, findings: &mut Findings) {
    let config = &all.spool;
    if !config.enabled {
        let text = "spool: it is off, so readings are answered busy while kafka is unavailable";
        return findings.warnings.push(text.into());
    }
    let (folder, disk) = (state::absolute(&config.folder), spool::RealDisk::default());
    findings.warnings.extend(spool::left_beside(&config.folder, &disk).iter().map(|left| {
        let left = left.display().to_string();
        format!(
            "spool: {left} holds readings that were saved when the files of {folder} were taken away, and this gateway does \
             not send them: start once with spool.folder = {left:?} until they are in kafka, then remove it"
        )
    }));
    let is_inside = config.folder.starts_with(&all.state_dir);
    let first = match state::to_create(all) {
        // Said already.
        Err(_) if is_inside => return,
        // Where the directory above it is created first, that is what may fail.
        Ok(first) if is_inside => first,
        _ => None,
    };
    let created_first = first.map(|folder| spool::Config {
        folder: folder.to_owned(),
        ..config.clone()
    });
    match spool::inspect::inspect(created_first.as_ref().unwrap_or(config), &disk) {
        Err(error) => findings.errors.push(error.into()),
        Ok(found) => {
            findings.ok.push(match found.segments {
                None => format!("spool: {folder} will be created"),
                Some(segments) => format!("spool: {folder} has {segments} segment files"),
            });
            findings.warnings.extend(found.no_room.map(|free| {
                format!(
                    "spool: the file system of {folder} has {free} left, less than spool.free_bytes_min ({}) and a segment \
                     ({}): new readings are answered busy while kafka is unavailable; make room",
                    config.free_bytes_min, config.segment_bytes
                )
            }));
        }
    }
}
