//! Where devices are, and what they belong to: from the compacted topic of devices into `city.device`.
//!
//! A record's key is the device, its value a JSON object whose fields are the table's columns, in this or in Avro (with a
//! schema of the registry); others are ignored. One without a value says that there is no such device any more. Of several
//! records of a device in a batch the last counts.

use tokio_postgres::Transaction;
use tokio_postgres::types::Type;

use super::batch::{Batch, Poison};
use super::database;

/// What is written of a device, for all its columns but its name.
const COLUMNS: [&str; 16] = [
    "kind",
    "latitude",
    "longitude",
    "segment",
    "position_m",
    "upstream",
    "downstream",
    "lane_count",
    "district",
    "feeder",
    "cell",
    "operator",
    "interval_s",
    "cabinet",
    "capacity_w",
    "valid_from",
];

/// Writes what a batch says of devices; how many, and which records cannot be written.
///
/// # Errors
/// The database is unavailable, or refuses.
pub async fn write(transaction: &Transaction<'_>, batch: &Batch) -> Result<(u64, Vec<Poison>), tokio_postgres::Error> {
    let mut wrong = Vec::new();
    if batch.devices.is_empty() {
        return Ok((0, wrong));
    }
    let (mut gone, mut known): (Vec<&str>, Vec<(&str, &str, usize)>) = Default::default();
    for (key, &record) in &batch.devices {
        let texts = (str::from_utf8(key), str::from_utf8(&batch.records[record].value));
        match texts {
            (Ok(device), Ok("")) => gone.push(device),
            (Ok(device), Ok(value)) => known.push((device, value, record)),
            _ => wrong.push(poison(record, "its key or value is no UTF-8".to_owned())),
        }
    }
    transaction
        .execute("delete from city.device where device = any($1::text[])", &[&gone])
        .await?;
    let all: Vec<usize> = (0..known.len()).collect();
    let mut parts = vec![&all[..]];
    while let Some(part) = parts.pop() {
        if part.is_empty() {
            continue;
        }
        transaction.batch_execute("savepoint devices").await?;
        let (devices, values): (Vec<&str>, Vec<&str>) = part.iter().map(|at| (known[*at].0, known[*at].1)).unzip();
        match transaction
            .execute_typed(&upsert(), &[(&devices, Type::TEXT_ARRAY), (&values, Type::TEXT_ARRAY)])
            .await
        {
            Ok(_) => transaction.batch_execute("release savepoint devices").await?,
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

fn poison(record: usize, detail: String) -> Poison {
    Poison {
        record,
        reason: "device",
        detail,
    }
}

fn upsert() -> String {
    let columns = COLUMNS.join(", ");
    let of_record = COLUMNS.map(|column| format!("r.{column}")).join(", ");
    let set = COLUMNS.map(|column| format!("{column} = excluded.{column}")).join(", ");
    format!(
        "insert into city.device (device, {columns}) select said.device, {of_record} \
         from unnest($1::text[], $2::text[]) as said(device, value), \
         lateral jsonb_populate_record(null::city.device, said.value::jsonb) r \
         on conflict (device) do update set {set}"
    )
}
