//! The tables in the database: made, changed and partitioned as readings need them, and emptied of what is too old.
//!
//! What a kind's table must be is `layout`'s business; here it is done, each change under a lock that all instances share, in a
//! transaction of its own, before readings that need it are stored. A partition is attached without stopping whoever
//! reads or writes the table. What waits for a lock for long gives up, and is done later.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, GenericClient};
use tracing::{info, warn};

use super::database::{self, Database, LOCKS, SCHEMA, quoted};
use super::day::{self, Day};
use super::layout::{self, Existing, Plan};
use super::row::Layout;
use crate::catalogue::Definition;
use crate::catalogue::decoder::Writer;

/// The tables that are none of a kind.
const OWN_TABLES: &str = include_str!("tables.sql");

const LOCK_TABLES: i32 = 1;

/// How long a change waits for those who use the table.
const LOCK_TIMEOUT: &str = "10s";
/// The same of dropping a partition: whoever comes meanwhile, to store or to read, waits behind it.
const DROP_TIMEOUT: &str = "1s";

/// How long before midnight the partitions of the next day are made.
const AHEAD: Duration = Duration::from_secs(6 * 60 * 60);

/// What is known of the tables.
#[derive(Debug, Default)]
pub struct Tables {
    /// By kind and by the address of the schema that readings were written with.
    layouts: HashMap<(String, usize), Result<Arc<Layout>, layout::Error>>,
    days: BTreeSet<(Arc<str>, Day)>,
    /// Of these somebody has taken the partition out of the table: it holds no row of them.
    detached: BTreeSet<(Arc<str>, Day)>,
}

// === impl Tables ===

impl Tables {
    /// Makes what is missing: the store's own tables, and those of the kinds for the schemas of the folder.
    ///
    /// # Errors
    /// The database is unavailable or refuses, or a table cannot hold a kind's readings: all that is wrong with any.
    pub async fn prepare(
        &mut self,
        database: &Database,
        client: &mut Client,
        kinds: &[Definition],
    ) -> Result<(), super::error::Error> {
        let error = |error| database.error("the store's own tables", error);
        if !own_are_made(client).await.map_err(error)? {
            let transaction = client.transaction().await.map_err(error)?;
            lock(&transaction, LOCK_TIMEOUT).await.map_err(error)?;
            transaction.batch_execute(OWN_TABLES).await.map_err(error)?;
            let made = format!("comment on table {SCHEMA}.kafka_offset is '{}'", own_tables());
            transaction.batch_execute(&made).await.map_err(error)?;
            transaction.commit().await.map_err(error)?;
        }
        let mut wrong = Vec::new();
        for kind in kinds {
            let planned = self.adapt(database, client, &kind.name, &kind.schema).await?;
            wrong.extend(planned.err().unwrap_or_default());
            self.remember(database, client, kind).await?;
        }
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(super::error::Error::Tables(wrong)),
        }
    }

    /// Keeps a schema, so that what was written with it can be read when the folder has a later one.
    async fn remember(
        &self,
        database: &Database,
        client: &Client,
        kind: &Definition,
    ) -> Result<(), super::error::Error> {
        let insert = "insert into city.avro_schema (header, kind, schema) values ($1, $2, $3) on conflict do nothing";
        let (header, name, text) = (&kind.prefix, &kind.name, &*kind.text);
        let inserted = client.execute(insert, &[header, name, &text]).await;
        inserted.map_err(|error| database.error("city.avro_schema", error))?;
        let first = "insert into city.window_progress (kind) values ($1) on conflict do nothing";
        let inserted = client.execute(first, &[name]).await;
        inserted.map_err(|error| database.error("city.window_progress", error))?;
        Ok(())
    }

    /// How readings of a schema become rows of the kind's table, which is changed if they do not fit yet.
    ///
    /// # Errors
    /// The database is unavailable or refuses. The inner one: no change would make them fit.
    pub async fn layout(
        &mut self,
        database: &Database,
        client: &mut Client,
        kind: &str,
        writer: &Arc<Writer>,
    ) -> Result<Result<Arc<Layout>, layout::Error>, super::error::Error> {
        let key = (kind.to_owned(), Arc::as_ptr(writer) as usize);
        if let Some(layout) = self.layouts.get(&key) {
            return Ok(layout.clone());
        }
        let adapted = self.adapt(database, client, kind, writer.schema()).await?;
        let layout = adapted.map(|plan| Arc::new(Layout::new(kind, writer.schema(), &plan.columns)));
        let layout = layout.map_err(|errors| {
            errors
                .iter()
                .for_each(|error| warn!(kind, %error, "readings of a schema cannot be stored"));
            errors[0].clone()
        });
        self.layouts.insert(key, layout.clone());
        Ok(layout)
    }

    async fn adapt(
        &self,
        database: &Database,
        client: &mut Client,
        kind: &str,
        schema: &apache_avro::Schema,
    ) -> Result<Result<Plan, Vec<layout::Error>>, super::error::Error> {
        let wanted = match layout::columns(kind, schema) {
            Ok(wanted) => wanted,
            Err(errors) => return Ok(Err(errors)),
        };
        let table = layout::table(kind);
        let error = |error| database.error(table.clone(), error);
        let transaction = client.transaction().await.map_err(error)?;
        lock(&transaction, LOCK_TIMEOUT).await.map_err(error)?;
        let existing = existing(&transaction, kind).await.map_err(error)?;
        let plan = layout::plan(kind, &wanted, existing.as_deref());
        for statement in plan.iter().flat_map(|plan| &plan.statements) {
            transaction.batch_execute(statement).await.map_err(error)?;
            info!(table, statement, "the table is made as the schema needs it");
        }
        transaction.commit().await.map_err(error)?;
        Ok(plan)
    }

    /// Makes the partitions of these days; whether each of them is in its table now: one that was detached stays so.
    ///
    /// # Errors
    /// The database is unavailable or refuses.
    pub async fn make_days(
        &mut self,
        database: &Database,
        client: &mut Client,
        kind: &Arc<str>,
        days: impl IntoIterator<Item = Day>,
    ) -> Result<bool, super::error::Error> {
        let mut all_attached = true;
        for day in days {
            let day = (kind.clone(), day);
            if self.days.contains(&day) {
                continue;
            }
            if !self.detached.contains(&day) {
                let made = make_day(client, kind, day.1).await;
                let is_attached =
                    made.map_err(|error| database.error(format!("a partition of {}", layout::table(kind)), error))?;
                let known = if is_attached {
                    &mut self.days
                } else {
                    &mut self.detached
                };
                known.insert(day.clone());
            }
            all_attached &= !self.detached.contains(&day);
        }
        Ok(all_attached)
    }

    /// Makes the partitions that will be needed soon, and drops those before `first`. What was found to be wrong is looked at again.
    ///
    /// # Errors
    /// The database is unavailable or refuses.
    pub async fn keep(
        &mut self,
        database: &Database,
        client: &mut Client,
        kinds: &[Definition],
        first: Day,
    ) -> Result<(), super::error::Error> {
        self.layouts.retain(|_, layout| layout.is_ok());
        self.detached.clear();
        let now = SystemTime::now();
        let soon = [now, now + AHEAD].map(|time| Day::of(day::micros(time)));
        for kind in kinds {
            let name = Arc::from(kind.name.as_str());
            self.make_days(database, client, &name, soon).await?;
        }
        self.days.retain(|(_, day)| *day >= first);
        for kind in kinds {
            let dropped = drop_before(client, &kind.name, first).await;
            let dropped = dropped
                .map_err(|error| database.error(format!("an old partition of {}", layout::table(&kind.name)), error))?;
            if !dropped {
                break; // one who reads for long, such as a dump, reads all of them
            }
        }
        Ok(())
    }

    /// Another instance has dropped a partition, or somebody has detached one.
    pub fn forget_days(&mut self) {
        self.days.clear();
        self.detached.clear();
    }
}

/// What `citygate check` tells: what would be made or changed, one line for each table; and what cannot be.
///
/// # Errors
/// The database refuses.
pub async fn outlook(
    client: &Client,
    kinds: &[Definition],
) -> Result<(Vec<String>, Vec<layout::Error>), tokio_postgres::Error> {
    let (mut lines, mut errors) = (Vec::new(), Vec::new());
    let mut by_outcome: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for kind in kinds {
        let wanted = match layout::columns(&kind.name, &kind.schema) {
            Ok(wanted) => wanted,
            Err(wrong) => {
                errors.extend(wrong);
                continue;
            }
        };
        let existing = existing(client, &kind.name).await?;
        match layout::plan(&kind.name, &wanted, existing.as_deref()) {
            Err(wrong) => errors.extend(wrong),
            Ok(plan) if plan.statements.is_empty() => by_outcome
                .entry("are as the schemas need them")
                .or_default()
                .push(&kind.name),
            Ok(_) if existing.is_none() => by_outcome.entry("will be created").or_default().push(&kind.name),
            Ok(plan) => lines.push(
                plan.statements
                    .join("; ")
                    .split_whitespace()
                    .collect::<Vec<_>>()
                    .join(" "),
            ),
        }
    }
    let tables = by_outcome.into_iter().map(|(outcome, kinds)| {
        let tables: Vec<_> = kinds.into_iter().map(|kind| format!("{SCHEMA}.{kind}")).collect();
        format!("these tables {outcome}: {}", tables.join(", "))
    });
    Ok((tables.chain(lines).collect(), errors))
}

/// What the comment on the first of the store's tables says once the tables are as this version wants them: the beginning of a SHA-256.
fn own_tables() -> String {
    let digest = Sha256::digest(OWN_TABLES);
    let digits: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("citygate store, tables {digits}")
}

/// Whether nothing is to be made. To make it once more would wait for a job that uses the tables, for as long as that takes.
async fn own_are_made(client: &Client) -> Result<bool, tokio_postgres::Error> {
    let made = "create table if not exists city.";
    let tables = OWN_TABLES
        .lines()
        .filter_map(|line| line.strip_prefix(made)?.strip_suffix(" ("));
    let tables: Vec<String> = tables.map(|table| format!("{SCHEMA}.{table}")).collect();
    let ask = "select coalesce(obj_description(to_regclass($2), 'pg_class') = $1, false) \
               and not exists (select from unnest($3::text[]) t where to_regclass(t) is null)";
    let first = format!("{SCHEMA}.kafka_offset");
    let parameters = [
        (&own_tables() as &(dyn ToSql + Sync), Type::TEXT),
        (&first, Type::TEXT),
        (&tables, Type::TEXT_ARRAY),
    ];
    let row = client.query_typed(ask, &parameters).await?;
    Ok(row.first().is_some_and(|row| row.get(0)))
}

/// Others who change tables wait until this transaction has ended.
async fn lock(transaction: &impl GenericClient, within: &str) -> Result<(), tokio_postgres::Error> {
    let wait = format!("set local lock_timeout = '{within}'; select pg_advisory_xact_lock({LOCKS}, {LOCK_TABLES})");
    transaction.batch_execute(&wait).await
}

/// The columns of a kind's table; none: there is no table.
async fn existing(client: &impl GenericClient, kind: &str) -> Result<Option<Vec<Existing>>, tokio_postgres::Error> {
    let columns = "select a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull \
                   from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace \
                   left join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped \
                   where n.nspname = $1 and c.relname = $2 order by a.attnum";
    let rows = client
        .query_typed(columns, &[(&SCHEMA, Type::TEXT), (&kind, Type::TEXT)])
        .await?;
    let existing = rows.iter().filter_map(|row| {
        Some(Existing {
            name: row.get::<_, Option<String>>(0)?,
            sql_type: row.get(1),
            not_null: row.get(2),
        })
    });
    Ok((!rows.is_empty()).then(|| existing.collect()))
}

/// Makes the partition of a day; whether it is in the table: of a table of its name that is not, it is somebody else who decides.
async fn make_day(client: &mut Client, kind: &str, day: Day) -> Result<bool, tokio_postgres::Error> {
    let (Some(suffix), Some(from), Some(to)) = (day.suffix(), day.date(), day.next().date()) else {
        return Ok(true); // no such day can be in a row
    };
    let name = format!("{kind}{suffix}");
    let partition = layout::table(&name);
    let transaction = client.transaction().await?;
    lock(&transaction, LOCK_TIMEOUT).await?;
    let known = "select i.inhparent is not null from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace \
                 left join pg_catalog.pg_inherits i on i.inhrelid = c.oid and not i.inhdetachpending \
                 where n.nspname = $1 and c.relname = $2";
    let found = transaction
        .query_typed(known, &[(&SCHEMA, Type::TEXT), (&name, Type::TEXT)])
        .await?;
    let is_attached = found.first().map(|row| row.get(0));
    if is_attached == Some(false) {
        warn!(
            partition = name,
            "a day's partition is detached: its readings are kept in city.undecodable until it is attached, or has another name"
        );
    }
    if is_attached.is_none() {
        let table = layout::table(kind);
        let statements = format!(
            "create table {partition} (like {table} including defaults including constraints including indexes);\
             alter table {table} attach partition {partition} for values from ('{from} 00:00:00+00') to ('{to} 00:00:00+00')"
        );
        transaction.batch_execute(&statements).await?;
        info!(partition = name, "a partition is made");
    }
    transaction.commit().await?;
    Ok(is_attached.unwrap_or(true))
}

/// Drops the partitions of earlier days; false if somebody uses the table for so long that not all could be.
async fn drop_before(client: &mut Client, kind: &str, first: Day) -> Result<bool, tokio_postgres::Error> {
    let partitions = "select c.relname from pg_catalog.pg_inherits i join pg_catalog.pg_class c on c.oid = i.inhrelid \
                      join pg_catalog.pg_class p on p.oid = i.inhparent \
                      join pg_catalog.pg_namespace n on n.oid = p.relnamespace \
                      where n.nspname = $1 and p.relname = $2 order by 1";
    let found = client
        .query_typed(partitions, &[(&SCHEMA, Type::TEXT), (&kind, Type::TEXT)])
        .await?;
    for row in found {
        let name: String = row.get(0);
        if Day::of_partition(&name, kind).is_none_or(|day| day >= first) {
            continue;
        }
        let transaction = client.transaction().await?;
        lock(&transaction, DROP_TIMEOUT).await?;
        let drop = format!("drop table if exists {}", layout::table(&name));
        match transaction.batch_execute(&drop).await {
            Ok(()) => {
                transaction.commit().await?;
                info!(
                    partition = name,
                    "a partition is older than store.retention, and dropped"
                );
            }
            // Somebody reads the table all the time: next time, then.
            Err(error) if error.code() == Some(&tokio_postgres::error::SqlState::LOCK_NOT_AVAILABLE) => {
                warn!(
                    partition = name,
                    why = database::words(&error),
                    "an old partition is not dropped yet"
                );
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// A temporary table of a transaction, like a kind's.
pub fn stage(kind: &str) -> (String, String) {
    let name = format!("pg_temp.{}", quoted(&format!("stage_{kind}")));
    let create = format!(
        "create temp table {} (like {}) on commit drop",
        quoted(&format!("stage_{kind}")),
        layout::table(kind)
    );
    (name, create)
}
