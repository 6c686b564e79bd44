//! Where devices are, and what they belong to: from the compacted topic of devices into `city.device`.
//!
//! A record's key is the device, its value a JSON object whose fields are [`place`]'s, in this or in Avro (with a schema of the
//! registry); others are ignored. One without a value says that there is no such device any more. Of several records of a
//! device in one partition the last counts, as for Kafka's compaction; of those in different ones, which there are once the topic was
//! given more partitions, the one that was written last.

use tokio_postgres::Transaction;
use tokio_postgres::types::Type;

use super::batch::{Batch, Poison};
use super::database;
use crate::devices::place::{self, FIELDS};

/// Writes what a batch says of devices; how many, and which records cannot be written.
///
/// # Errors
/// The database is unavailable, or refuses.
pub async fn write(transaction: &Transaction<'_>, batch: &Batch) -> Result<(u64, Vec<Poison>), tokio_postgres::Error> {
    let mut wrong = Vec::new();
    if batch.devices.is_empty() {
        return Ok((0, wrong));
    }
    let (mut gone, mut known): (Vec<Said<'_>>, Vec<Said<'_>>) = Default::default();
    for (key, &record) in &batch.devices {
        let texts = (str::from_utf8(key), str::from_utf8(&batch.records[record].value));
        match texts {
            (Ok(device), Ok("")) => gone.push((device, "", record)),
            (Ok(device), Ok(value)) => match mistake(value) {
                Some(mistake) => wrong.push(poison(record, mistake)),
                None => known.push((device, value, record)),
            },
            _ => wrong.push(poison(record, "its key or value is no UTF-8".to_owned())),
        }
    }
    let all: Vec<usize> = (0..gone.len()).collect();
    execute(transaction, batch, FORGET, &gone, &all).await?;
    let all: Vec<usize> = (0..known.len()).collect();
    let mut parts = vec![&all[..]];
    while let Some(part) = parts.pop() {
        if part.is_empty() {
            continue;
        }
        transaction.batch_execute("savepoint devices").await?;
        match execute(transaction, batch, &upsert(), &known, part).await {
            Ok(()) => transaction.batch_execute("release savepoint devices").await?,
            Err(error) if database::is_of_the_data(&error) => {
                transaction.batch_execute("rollback to savepoint devices").await?;
                match part {
                    [one] => wrong.push(poison(known[*one].2, database::words(&error))),
                    several => {
                        let (left, right) = several.split_at(several.len() / 2);
                        parts.extend([right, left]);
                    }
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok((batch.devices.len() as u64 - wrong.len() as u64, wrong))
}

/// Runs a statement with some of what is said of devices, as the table `said` of [`SAID`].
async fn execute(
    transaction: &Transaction<'_>,
    batch: &Batch,
    statement: &str,
    said: &[Said<'_>],
    part: &[usize],
) -> Result<(), tokio_postgres::Error> {
    let (devices, values): (Vec<&str>, Vec<&str>) = part.iter().map(|at| (said[*at].0, said[*at].1)).unzip();
    let records = || part.iter().map(|at| &batch.records[said[*at].2]);
    let partitions: Vec<i32> = records().map(|record| record.partition).collect();
    let times: Vec<i64> = records().map(|record| record.timestamp_ms).collect();
    let statement = format!("with said as ({SAID}) {statement}");
    transaction
        .execute_typed(
            &statement,
            &[
                (&devices, Type::TEXT_ARRAY),
                (&values, Type::TEXT_ARRAY),
                (&partitions, Type::INT4_ARRAY),
                (&times, Type::INT8_ARRAY),
            ],
        )
        .await?;
    Ok(())
}

/// Why an object is of no device: not as the topic's own writer would have it.
fn mistake(value: &str) -> Option<String> {
    let object = serde_json::from_str(value);
    object.map_or_else(
        |error| Some(error.to_string()),
        |object| Some(place::mistake_of(&object)?.to_string()),
    )
}

fn poison(record: usize, detail: String) -> Poison {
    Poison {
        record,
        reason: "device",
        detail,
    }
}

/// Device, value and the record's number in the batch.
type Said<'a> = (&'a str, &'a str, usize);

/// What records say, and where and when they were written; `$4` in milliseconds since 1970.
const SAID: &str = "select device, value, partition, to_timestamp(written_ms / 1000.0) as written_at \
                    from unnest($1::text[], $2::text[], $3::int[], $4::bigint[]) as said(device, value, partition, written_ms)";

/// What was said in another partition later stays; that a device is gone is kept, so that no earlier record brings it back.
const FORGET: &str = ", gone as ( \
       delete from city.device d using said \
       where d.device = said.device and (d.kafka_partition = said.partition or coalesce(d.written_at <= said.written_at, true))) \
     insert into city.device_gone as g (device, kafka_partition, written_at) select device, partition, written_at from said \
     on conflict (device) do update set kafka_partition = excluded.kafka_partition, written_at = excluded.written_at \
       where g.kafka_partition = excluded.kafka_partition or g.written_at <= excluded.written_at";

fn upsert() -> String {
    let columns = FIELDS.join(", ");
    let of_record = FIELDS.map(|column| format!("r.{column}")).join(", ");
    let set = FIELDS.map(|column| format!("{column} = excluded.{column}")).join(", ");
    format!(
        "insert into city.device as d (device, {columns}, kafka_partition, written_at) \
         select said.device, {of_record}, said.partition, said.written_at \
         from said, lateral jsonb_populate_record(null::city.device, said.value::jsonb) r \
         where not exists (select from city.device_gone g where g.device = said.device \
           and g.kafka_partition <> said.partition and g.written_at > said.written_at) \
         on conflict (device) do update set {set}, kafka_partition = excluded.kafka_partition, written_at = excluded.written_at \
           where d.kafka_partition = excluded.kafka_partition or coalesce(d.written_at <= excluded.written_at, true)"
    )
}
