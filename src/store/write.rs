//! A batch into the database, in one transaction: rows, records kept as they are, and offsets. All of it, or nothing.
//!
//! 1. The offsets first: each partition's is raised from where this instance believes it to be. If it is elsewhere, another
//!    instance has the partition ([`Error::Fenced`](super::error::Error::Fenced)), and nothing is written.
//! 2. `closed_until` of the kinds, `for share`: no window is closed until this transaction ends.
//! 3. Rows by COPY, straight into the table. Where a row exists already, or has a value that the database refuses, its batch is
//!    written again by way of a temporary table, halved until the rows that are refused stand alone: those are kept as records.
//! 4. What else the records say: windows to compute again, devices, how far each kind is stored.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::SinkExt as _;
use tokio_postgres::{Client, GenericClient, Transaction};

use super::batch::{Batch, Poison, Row, Rows};
use super::database::{self, Database};
use super::devices;
use super::error::Error;
use super::layout;
use super::tables;

const MINUTE_US: i64 = 60_000_000;

/// What became rows.
#[derive(Debug, Default)]
pub struct Stored {
    /// By kind.
    pub kinds: BTreeMap<Arc<str>, Counts>,
    /// Records kept as they are, by reason.
    pub undecodable: BTreeMap<&'static str, u64>,
    pub devices: u64,
    pub expired: u64,
}

/// Of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub rows: u64,
    pub late: u64,
    pub duplicates: u64,
}

/// Rows of one layout, once they are in the transaction.
struct Copied {
    rows: u64,
    duplicates: u64,
    refused: Vec<Poison>,
}

/// Writes a batch. `kind_of`: the kind of a topic's readings.
///
/// # Errors
/// Another instance has one of the partitions; the database is unavailable, or refuses. Nothing is written then, unless the
/// connection was lost while the database committed.
pub async fn write(
    database: &Database,
    client: &mut Client,
    batch: &Batch,
    kind_of: impl Fn(&str) -> Option<Arc<str>>,
) -> Result<Stored, Error> {
    let error = |error| database.error("a batch of readings", error);
    let transaction = client.transaction().await.map_err(error)?;
    if raise_offsets(&transaction, batch).await.map_err(error)? < batch.spans.len() as u64 {
        return Err(Error::Fenced);
    }
    if batch.is_again {
        leave_kept(&transaction, batch).await.map_err(error)?;
    }
    let mut stored = Stored {
        expired: batch.expired,
        ..Stored::default()
    };
    let closed = closed_until(&transaction, batch).await.map_err(error)?;
    let mut refused = Vec::new();
    for rows in &batch.tables {
        let kind = &rows.layout.kind;
        let copied = copy(&transaction, rows)
            .await
            .map_err(|error| in_table(database, kind, error))?;
        let counts = stored.kinds.entry(kind.clone()).or_default();
        counts.rows += copied.rows;
        counts.duplicates += copied.duplicates;
        counts.late += rows.rows.iter().filter(|row| row.is_late).count() as u64;
        refused.extend(copied.refused);
        if let Some(closed) = closed.get(kind) {
            note_due(&transaction, batch, rows, *closed).await.map_err(error)?;
        }
    }
    for (kind, duplicates) in &batch.duplicates {
        stored.kinds.entry(kind.clone()).or_default().duplicates += duplicates;
    }
    let (devices, wrong) = devices::write(&transaction, batch).await.map_err(error)?;
    stored.devices = devices;
    refused.extend(wrong);
    let poison: Vec<_> = batch.poison.iter().chain(&refused).collect();
    keep_records(&transaction, batch, &poison).await.map_err(error)?;
    poison
        .iter()
        .for_each(|one| *stored.undecodable.entry(one.reason).or_default() += 1);
    note_progress(&transaction, batch, kind_of).await.map_err(error)?;
    transaction.commit().await.map_err(error)?;
    Ok(stored)
}

fn in_table(database: &Database, kind: &str, error: tokio_postgres::Error) -> Error {
    match database::is_without_partition(&error) {
        true => Error::NoPartition,
        false => database.error(layout::table(kind), error).into(),
    }
}

/// How many of the batch's partitions were where they were believed to be.
async fn raise_offsets(transaction: &Transaction<'_>, batch: &Batch) -> Result<u64, tokio_postgres::Error> {
    let raise = "update city.kafka_offset o set next_offset = span.next, written_ms = span.written_ms, written_next = span.next \
                 from unnest($1::text[], $2::int[], $3::bigint[], $4::bigint[], $5::bigint[]) \
                   as span(topic, partition, expected, next, written_ms) \
                 where o.topic = span.topic and o.partition = span.partition and o.next_offset = span.expected";
    let (mut topics, mut partitions) = (Vec::new(), Vec::new());
    let (mut expected, mut next, mut written) = (Vec::new(), Vec::new(), Vec::new());
    for ((topic, partition), span) in &batch.spans {
        topics.push(&**topic);
        partitions.push(*partition);
        expected.push(span.expected);
        next.push(span.next);
        written.push(span.written_ms);
    }
    transaction
        .execute(raise, &[&topics, &partitions, &expected, &next, &written])
        .await
}

/// The records are not kept any more, but as rows, or once more with a new reason.
async fn leave_kept(transaction: &Transaction<'_>, batch: &Batch) -> Result<(), tokio_postgres::Error> {
    let leave = "delete from city.undecodable u using unnest($1::text[], $2::int[], $3::bigint[]) as k(topic, partition, at) \
                 where (u.topic, u.partition, u.\"offset\") = (k.topic, k.partition, k.at)";
    let topics: Vec<&str> = batch.records.iter().map(|record| record.topic.as_str()).collect();
    let partitions: Vec<i32> = batch.records.iter().map(|record| record.partition).collect();
    let offsets: Vec<i64> = batch.records.iter().map(|record| record.offset).collect();
    transaction.execute(leave, &[&topics, &partitions, &offsets]).await?;
    Ok(())
}

/// Until when the windows of the batch's kinds are closed, in microseconds since 1970; of those that ever were.
async fn closed_until(
    transaction: &Transaction<'_>,
    batch: &Batch,
) -> Result<BTreeMap<Arc<str>, i64>, tokio_postgres::Error> {
    let kinds: BTreeSet<&Arc<str>> = batch.tables.iter().map(|rows| &rows.layout.kind).collect();
    let names: Vec<&str> = kinds.iter().map(|kind| &***kind).collect();
    let ask =
        "select kind, closed_until from city.window_progress where kind = any($1::text[]) order by kind for share";
    let rows = transaction.query(ask, &[&names]).await?;
    let closed = rows.iter().filter_map(|row| {
        let name: &str = row.get(0);
        let kind = kinds.iter().find(|kind| ****kind == *name)?;
        let until = row.get::<_, Option<SystemTime>>(1)?;
        Some((Arc::clone(kind), super::day::micros(until)))
    });
    Ok(closed.collect())
}

async fn copy(transaction: &Transaction<'_>, rows: &Rows) -> Result<Copied, tokio_postgres::Error> {
    let all = 0..rows.rows.len();
    transaction.batch_execute("savepoint straight").await?;
    let copied = copy_into(transaction, &layout::table(&rows.layout.kind), rows, all.clone()).await;
    match copied {
        Ok(count) => {
            transaction.batch_execute("release savepoint straight").await?;
            Ok(Copied {
                rows: count,
                duplicates: 0,
                refused: Vec::new(),
            })
        }
        Err(error) if is_of_the_rows(&error, rows) => {
            transaction.batch_execute("rollback to savepoint straight").await?;
            copy_by_parts(transaction, rows).await
        }
        Err(error) => Err(error),
    }
}

/// What cannot be written at once: rows that exist are left out, rows that are refused found by halving.
async fn copy_by_parts(transaction: &Transaction<'_>, rows: &Rows) -> Result<Copied, tokio_postgres::Error> {
    let kind = &rows.layout.kind;
    let (stage, create) = tables::stage(kind);
    transaction
        .batch_execute(&format!("drop table if exists {stage}; {create}"))
        .await?;
    let insert = format!(
        "insert into {} ({names}) select {names} from {stage} on conflict do nothing",
        layout::table(kind),
        names = rows.layout.names
    );
    let mut copied = Copied {
        rows: 0,
        duplicates: 0,
        refused: Vec::new(),
    };
    let whole = 0..rows.rows.len();
    let mut parts = vec![whole];
    while let Some(part) = parts.pop() {
        transaction.batch_execute("savepoint part").await?;
        let inserted = match copy_into(transaction, &stage, rows, part.clone()).await {
            Ok(_) => transaction.execute(&insert, &[]).await,
            Err(error) => Err(error),
        };
        match inserted {
            Ok(count) => {
                copied.rows += count;
                copied.duplicates += part.len() as u64 - count;
                transaction
                    .batch_execute(&format!("truncate {stage}; release savepoint part"))
                    .await?;
                continue;
            }
            Err(error) if !is_of_the_rows(&error, rows) => return Err(error),
            Err(error) => {
                transaction.batch_execute("rollback to savepoint part").await?;
                match part.len() {
                    1 => copied.refused.push(Poison {
                        record: rows.rows[part.start].record,
                        reason: match database::is_without_partition(&error) {
                            true => "detached",
                            false => "refused",
                        },
                        detail: database::words(&error),
                    }),
                    length => parts.extend([part.start + length / 2..part.end, part.start..part.start + length / 2]),
                }
            }
        }
    }
    Ok(copied)
}

/// Whether one of the rows is the cause. Without a partition they are where that is known before; else it was dropped meanwhile.
fn is_of_the_rows(error: &tokio_postgres::Error, rows: &Rows) -> bool {
    database::is_of_the_data(error) && (rows.has_detached || !database::is_without_partition(error))
}

async fn copy_into(
    transaction: &Transaction<'_>,
    table: &str,
    rows: &Rows,
    part: Range<usize>,
) -> Result<u64, tokio_postgres::Error> {
    let statement = format!("copy {table} ({}) from stdin (format binary)", rows.layout.names);
    let sink = transaction.copy_in(&statement).await?;
    let mut sink = std::pin::pin!(sink);
    sink.send(Bytes::from(rows.copy(part))).await?;
    sink.finish().await
}

/// Notes the windows that were closed before these rows came; late rows are in none.
async fn note_due(
    transaction: &Transaction<'_>,
    batch: &Batch,
    rows: &Rows,
    closed_us: i64,
) -> Result<(), tokio_postgres::Error> {
    let came_after = |row: &&Row| !row.is_late && row.key.observed_us < closed_us;
    let windows: BTreeSet<(&[u8], i64)> = rows
        .rows
        .iter()
        .filter(came_after)
        .map(|row| {
            let device = &*batch.records[row.record].key;
            (device, row.key.observed_us.div_euclid(MINUTE_US) * MINUTE_US)
        })
        .collect();
    if windows.is_empty() {
        return Ok(());
    }
    let devices: Vec<&str> = windows
        .iter()
        .filter_map(|(device, _)| str::from_utf8(device).ok())
        .collect();
    let starts: Vec<SystemTime> = windows.iter().map(|(_, start)| time(*start)).collect();
    let note = "insert into city.window_due (kind, device, window_start) \
                select $1, device, start from unnest($2::text[], $3::timestamptz[]) as due(device, start)";
    transaction
        .execute(note, &[&&*rows.layout.kind, &devices, &starts])
        .await?;
    Ok(())
}

/// Keeps records as they are; those that were kept before, since then.
async fn keep_records(
    transaction: &Transaction<'_>,
    batch: &Batch,
    poison: &[&Poison],
) -> Result<(), tokio_postgres::Error> {
    let keep = "insert into city.undecodable (topic, partition, \"offset\", reason, detail, key, value, stored_at) \
                values ($1, $2, $3, $4, $5, $6, $7, coalesce($8, now())) on conflict do nothing";
    for one in poison {
        let record = &batch.records[one.record];
        let since = batch.is_again.then(|| time(record.timestamp_ms.saturating_mul(1000)));
        let detail = one.detail.replace('\0', "\u{fffd}");
        transaction
            .execute(
                keep,
                &[
                    &record.topic,
                    &record.partition,
                    &record.offset,
                    &one.reason,
                    &detail,
                    &record.key,
                    &record.value,
                    &since,
                ],
            )
            .await?;
    }
    Ok(())
}

async fn note_progress(
    transaction: &Transaction<'_>,
    batch: &Batch,
    kind_of: impl Fn(&str) -> Option<Arc<str>>,
) -> Result<(), tokio_postgres::Error> {
    let received = batch.spans.iter().filter_map(|((topic, partition), span)| {
        let received = time(span.received_us?);
        Some((kind_of(topic)?, *partition, received))
    });
    let progress: Vec<_> = received.collect();
    note_stored(transaction, &progress).await
}

/// How far each kind's partitions are stored, as the database knows: see `city.stored`.
///
/// # Errors
/// The database is unavailable or refuses.
pub async fn stored(client: &impl GenericClient) -> Result<BTreeMap<(String, i32), SystemTime>, tokio_postgres::Error> {
    let rows = client
        .query("select kind, partition, received_at from city.stored", &[])
        .await?;
    Ok(rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect())
}

/// Notes when the last reading was received that is stored of each partition. It never goes back, and is never ahead of the database's
/// clock: windows would close before what a gateway with a right clock received is stored.
///
/// # Errors
/// The database is unavailable, or refuses.
pub async fn note_stored(
    client: &impl GenericClient,
    progress: &[(Arc<str>, i32, SystemTime)],
) -> Result<(), tokio_postgres::Error> {
    let note = "insert into city.stored as s (kind, partition, received_at) \
                select kind, partition, least(received_at, now()) \
                from unnest($1::text[], $2::int[], $3::timestamptz[]) as n(kind, partition, received_at) \
                on conflict (kind, partition) do update set received_at = least(greatest(s.received_at, excluded.received_at), now())";
    let kinds: Vec<&str> = progress.iter().map(|(kind, _, _)| &**kind).collect();
    let partitions: Vec<i32> = progress.iter().map(|(_, partition, _)| *partition).collect();
    let times: Vec<SystemTime> = progress.iter().map(|(_, _, time)| *time).collect();
    client.execute(note, &[&kinds, &partitions, &times]).await?;
    Ok(())
}

fn time(us: i64) -> SystemTime {
    let distance = Duration::from_micros(us.unsigned_abs());
    let time = if us < 0 {
        UNIX_EPOCH.checked_sub(distance)
    } else {
        UNIX_EPOCH.checked_add(distance)
    };
    time.unwrap_or(UNIX_EPOCH)
}
