//! Results on their way to topics: what SQL puts into `city.outbox` is published, and deleted once Kafka has confirmed it.
//!
//! In the order of `id`, each at least once: what Kafka does not confirm is published again, with all that follows it, so that of each
//! key what was computed last is last. Of all instances one publishes, the [`leader`](super::leader). One that loses its connection
//! while Kafka does not answer can send what it has begun for as long as `kafka.delivery_timeout`, beside the one that took over: only
//! then may an older result come last. A value is JSON, or Avro where the folder of the SQL has a schema of the topic's name. One that
//! does not fit its schema, or that Kafka does not accept as it is, even alone, is kept in `city.undecodable`; those behind it go on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tokio_postgres::{Client, Row, Transaction};
use tracing::warn;

use super::database::Database;
use super::day;
use super::leader::{Lock, Turn, Work};
use super::metrics::StoreMetrics;
use super::status::Part;
use crate::catalogue::kinds::confluent_header;
use crate::catalogue::registry;
use crate::catalogue::schemas::{self, Definition};
use crate::deliver;
use crate::deliver::publisher::{Outgoing, Publisher, Unconfirmed};
use crate::validate::{self, Program, Scratch, Validator};

/// The prefix of topics that is written in SQL; `kafka.topic_prefix` takes its place.
const PREFIX: &str = "city.";

/// How many results are published at a time, and how often it is looked for some.
const RESULTS_MAX: i64 = 1000;
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Publishes.
pub struct Outbox {
    pub database: Database,
    pub kafka: deliver::Config,
    pub registry: registry::Config,
    /// Where schemas of topics are.
    pub folder: PathBuf,
    pub metrics: StoreMetrics,
    /// While this instance publishes.
    pub publisher: Option<Publisher>,
    /// By topic as it is written in SQL; none: values are JSON.
    pub programs: BTreeMap<String, Option<Program>>,
    /// Topics and reasons of results that could not be published: said once each.
    pub told: BTreeSet<(String, &'static str)>,
}

/// A result that cannot be published.
struct Misfit {
    id: i64,
    topic: String,
    key: Option<String>,
    value: Option<String>,
    /// The `reason` label of metrics.
    reason: &'static str,
    why: String,
}

/// Results of a topic, as they are sent.
#[derive(Default)]
struct Prepared {
    /// Of each record, its number and value in the outbox.
    rows: Vec<(i64, Option<String>)>,
    records: Vec<Outgoing>,
    misfits: Vec<Misfit>,
}

// === impl Outbox ===

impl Outbox {
    /// Publishes what there is, up to a limit of each topic; how many results that were. One topic that is missing keeps no other
    /// waiting for longer than it takes to find that out.
    async fn publish(&mut self, client: &mut Client) -> Result<usize, String> {
        let error = |error| self.database.error("city.outbox", error).to_string();
        let ask = "select topic, count(*), extract(epoch from now() - min(created_at))::double precision \
                   from city.outbox group by topic order by topic";
        let topics = client.query(ask, &[]).await.map_err(error)?;
        let waiting = topics.iter().map(|row| row.get::<_, i64>(1)).sum();
        self.metrics.store_outbox_rows.set(waiting);
        let age = topics.iter().map(|row| row.get::<_, f64>(2)).fold(0.0, f64::max);
        self.metrics.store_outbox_age_seconds.set(age);
        let (mut published, mut failed) = (0, None);
        for row in &topics {
            match self.publish_topic(client, row.get(0)).await {
                Ok(count) => published += count,
                Err(why) => failed = failed.or(Some(why)),
            }
        }
        failed.map_or(Ok(published), Err)
    }

    /// The same of one topic.
    async fn publish_topic(&mut self, client: &mut Client, topic: &str) -> Result<usize, String> {
        let error = |error| self.database.error("city.outbox", error).to_string();
        let ask = "select id, topic, key, value::text from city.outbox where topic = $1 order by id limit $2";
        let rows = client.query(ask, &[&topic, &RESULTS_MAX]).await.map_err(error)?;
        let mut prepared = Prepared::default();
        for row in &rows {
            match self.outgoing(row).await? {
                Ok(record) => {
                    prepared.rows.push((row.get(0), row.get(3)));
                    prepared.records.push(record);
                }
                Err(misfit) => prepared.misfits.push(misfit),
            }
        }
        let (confirmed, why) = tokio::task::block_in_place(|| self.send(&mut prepared));
        let error = |error| self.database.error("city.outbox", error).to_string();
        finish(client, &prepared, confirmed).await.map_err(error)?;
        self.count(&prepared, confirmed);
        match why {
            Some(why) => Err(why.to_string()),
            None => Ok(confirmed + prepared.misfits.len()),
        }
    }

    /// How many are confirmed, and why the next one is not. One that is not accepted even alone is a misfit, and ends the list.
    fn send(&self, prepared: &mut Prepared) -> (usize, Option<Unconfirmed>) {
        let Some(publisher) = self.publisher.as_ref().filter(|_| !prepared.records.is_empty()) else {
            return (0, None);
        };
        let (confirmed, why) = publisher.publish(&prepared.records);
        let Some(Unconfirmed::Unacceptable { .. }) = why else {
            return (confirmed, why);
        };
        let Outgoing { topic, key, .. } = &prepared.records[confirmed];
        match publisher.publish(&prepared.records[confirmed..=confirmed]).1 {
            None => (confirmed + 1, None),
            Some(Unconfirmed::Unacceptable { reason, error }) => {
                let (id, value) = prepared.rows[confirmed].clone();
                prepared.misfits.push(Misfit {
                    id,
                    topic: topic.clone(),
                    key: key.clone(),
                    value,
                    reason,
                    why: error.to_string(),
                });
                (confirmed, None)
            }
            failed => (confirmed, failed),
        }
    }

    fn count(&mut self, prepared: &Prepared, confirmed: usize) {
        for record in &prepared.records[..confirmed] {
            let published = self.metrics.store_published_total.with_label_values(&[&record.topic]);
            published.inc();
        }
        for Misfit {
            topic, reason, id, why, ..
        } in &prepared.misfits
        {
            self.metrics.store_undecodable_total.with_label_values(&[reason]).inc();
            if self.told.insert((topic.clone(), reason)) {
                warn!(
                    topic,
                    id,
                    why,
                    "a result cannot be published and is kept in city.undecodable; further ones are counted, not logged"
                );
            }
        }
    }

    /// # Errors
    /// It cannot be known how its topic is written; the inner one: the result does not fit.
    async fn outgoing(&mut self, row: &Row) -> Result<Result<Outgoing, Misfit>, String> {
        let (written, key, value): (String, Option<String>, Option<String>) = (row.get(1), row.get(2), row.get(3));
        let topic = self.topic(&written);
        if !self.programs.contains_key(&written) {
            let program = self.program(&written, &topic).await?;
            self.programs.insert(written.clone(), program);
        }
        let program = self.programs.get(&written).and_then(Option::as_ref);
        let value = match (value, program) {
            (None, _) => None,
            (Some(json), None) => Some(json.into_bytes()),
            (Some(json), Some(program)) => match encoded(program, key.as_deref().unwrap_or_default(), &json) {
                Ok(avro) => Some(avro),
                Err(why) => {
                    return Ok(Err(Misfit {
                        id: row.get(0),
                        topic,
                        key,
                        value: Some(json),
                        reason: "result",
                        why,
                    }));
                }
            },
        };
        Ok(Ok(Outgoing { topic, key, value }))
    }

    fn topic(&self, written: &str) -> String {
        match written.strip_prefix(PREFIX) {
            Some(name) => format!("{}{name}", self.kafka.topic_prefix),
            None => written.to_owned(),
        }
    }

    /// How values of a topic become Avro, if the folder has a schema of it; registered, if there is a registry.
    async fn program(&self, written: &str, topic: &str) -> Result<Option<Program>, String> {
        let path = self.folder.join(format!("{written}.avsc"));
        if !path.exists() {
            return Ok(None);
        }
        let definition = Definition::of_topic(&path, topic).map_err(|error: schemas::Error| error.to_string())?;
        let compiled = validate::compile(&definition.schema, &definition.text);
        let mut program = compiled.map_err(|mistakes| format!("{}: {}", path.display(), mistakes.join("; ")))?;
        program.prefix = match self.id(&definition).await? {
            Some(id) => confluent_header(id),
            None => definition.prefix,
        };
        Ok(Some(program))
    }

    async fn id(&self, definition: &Definition) -> Result<Option<u32>, String> {
        let definitions = std::slice::from_ref(definition);
        let asked = registry::ask(&self.registry, definitions)
            .await
            .map_err(|error| error.to_string())?;
        let Some(asked) = asked else {
            return Ok(None);
        };
        let ids = asked
            .register(definitions)
            .await
            .map_err(|errors| super::error::lines(&errors))?;
        Ok(ids.ids.values().next().copied())
    }
}

impl Work for Outbox {
    const LOCK: Lock = Lock::Outbox;
    const PART: Part = Part::Publish;

    async fn begin(&mut self, _: &mut Client) -> Result<(), String> {
        let publisher = Publisher::new(&self.kafka).map_err(|error| error.to_string())?;
        self.publisher = Some(publisher);
        Ok(())
    }

    async fn turn(&mut self, client: &mut Client) -> Result<Turn, String> {
        // Before the tables are made there is nothing to publish.
        let ask = "select to_regclass('city.outbox') is not null";
        let asked = client.query_one(ask, &[]).await;
        let is_made: bool = asked
            .map_err(|error| self.database.error("city.outbox", error).to_string())?
            .get(0);
        if !is_made {
            return Ok(Turn::well(LOOK_INTERVAL));
        }
        match self.publish(client).await {
            Ok(0) => Ok(Turn::well(LOOK_INTERVAL)),
            Ok(_) => Ok(Turn::well(Duration::ZERO)),
            Err(why) => {
                self.metrics.store_publish_failures_total.inc();
                Err(why)
            }
        }
    }

    fn end(&mut self) {
        // What it still has to send would come behind what another instance sends.
        tokio::task::block_in_place(|| drop(self.publisher.take()));
    }

    fn is_elsewhere(&mut self) {
        self.metrics.store_outbox_rows.set(0);
        self.metrics.store_outbox_age_seconds.set(0.0);
    }
}

fn encoded(program: &Program, key: &str, json: &str) -> Result<Vec<u8>, String> {
    let validator = Validator::new(&validate::Config::default());
    let mut scratch = Scratch::default();
    let now_ms = day::micros(SystemTime::now()) / 1000;
    match validator.reading(program, key, now_ms, json.as_bytes(), &mut scratch) {
        Ok(()) => Ok(scratch.value().to_vec()),
        Err(rejection) => Err(rejection.detail.to_string()),
    }
}

/// Deletes what is published, and keeps elsewhere what cannot be, in one transaction.
async fn finish(client: &mut Client, prepared: &Prepared, confirmed: usize) -> Result<(), tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    for misfit in &prepared.misfits {
        keep(&transaction, misfit).await?;
    }
    let published = prepared.rows[..confirmed].iter().map(|(id, _)| *id);
    let done: Vec<i64> = published
        .chain(prepared.misfits.iter().map(|misfit| misfit.id))
        .collect();
    let delete = "delete from city.outbox where id = any($1)";
    transaction.execute(delete, &[&done]).await?;
    transaction.commit().await
}

async fn keep(transaction: &Transaction<'_>, misfit: &Misfit) -> Result<(), tokio_postgres::Error> {
    let keep = "insert into city.undecodable (topic, partition, \"offset\", reason, detail, key, value) \
                values ($1, -1, $2, $3, $4, $5, $6) on conflict do nothing";
    let key = misfit.key.as_ref().map(String::as_bytes);
    let value = misfit.value.as_ref().map(String::as_bytes);
    transaction
        .execute(
            keep,
            &[&misfit.topic, &misfit.id, &misfit.reason, &misfit.why, &key, &value],
        )
        .await?;
    Ok(())
}
