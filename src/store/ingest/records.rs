//! What a record becomes in a batch: a row of its kind, a device, or a record that is kept as it is, and why.
//!
//! Schemas come from the folder, from what other instances have noted in the database, and from the registry. While that does not
//! answer nothing is known of a new record, which is an error; of one that is kept already, it goes on being kept.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio_postgres::Client;
use tracing::{info, warn};

use super::again::Again;
use super::assignment::{First, note_missed};
use super::{Ingest, in_time, kind_of};
use crate::catalogue::decoder::{self, Undecodable};
use crate::deliver::consumer::Consumed;
use crate::message::is_device_id;
use crate::store::batch::{Batch, Limits, Place};
use crate::store::error::Error;
use crate::store::json;
use crate::store::status::Part;

impl Ingest {
    /// Schemas that the folder had before, and other instances' folders have.
    pub(super) async fn learn_schemas(&mut self, client: &Client) -> Result<(), Error> {
        let ask = "select kind, header, schema from city.avro_schema order by since";
        let known = client.query(ask, &[]).await;
        let known = known.map_err(|error| self.database.error("city.avro_schema", error))?;
        for row in known {
            let (kind, header, text): (String, Vec<u8>, String) = (row.get(0), row.get(1), row.get(2));
            let parsed = apache_avro::Schema::parse_str(&text).map_err(Box::new);
            if let Err(wrong) = parsed.and_then(|schema| self.decoder.add(&kind, header, schema)) {
                warn!(kind, %wrong, "a schema in city.avro_schema cannot be used");
            }
        }
        Ok(())
    }

    pub(super) async fn add(
        &mut self,
        client: &mut Client,
        batch: &mut Batch,
        record: Consumed,
        limits: Limits,
    ) -> Result<(), Error> {
        if self.memory.is_kafka_whole {
            self.status.well(Part::Kafka);
        }
        let Some((place, &stored)) = self.memory.assignment.place(&record) else {
            return Ok(()); // of a partition that was taken away
        };
        let place = place.clone();
        match self.memory.assignment.first(&place, stored, &record) {
            First::Next => {}
            First::Known => return Ok(()),
            First::OfAnother => return Err(self.made_anew(client, &place, stored).await),
            // Of devices Kafka keeps the last record of each: that earlier ones are deleted is as it must be.
            First::Behind(_) if place.0 == self.devices => {}
            First::Behind(missed) => note_missed(&place, missed, &self.metrics),
        }
        if place.0 == self.devices {
            return self.add_device(batch, &place, stored, record).await;
        }
        self.look_for_schema(client, &record.value).await?;
        self.add_reading(client, batch, &place, stored, record, limits).await
    }

    /// Adds a record of a kind's topic.
    async fn add_reading(
        &mut self,
        client: &mut Client,
        batch: &mut Batch,
        place: &Place,
        stored: i64,
        record: Consumed,
        limits: Limits,
    ) -> Result<(), Error> {
        let Some(kind) = kind_of(&self.kinds, &place.0) else {
            return Ok(());
        };
        let decoded = self.decoder.reading(kind, &record.key, &record.value).await;
        let (writer, reading) = match decoded {
            Ok(decoded) => (decoded.writer, decoded.reading),
            Err(why) if why.may_pass() => return Err(Error::Registry(why.to_string())),
            Err(why) => {
                poisoned(batch, place, stored, record, &why);
                return Ok(());
            }
        };
        self.status.well(Part::Registry);
        let layout = in_time(self.memory.tables.layout(&self.database, client, &kind.name, &writer)).await?;
        let at = batch.add(place, stored, record);
        match layout {
            Err(wrong) => batch.poison(at, wrong.reason(), wrong.to_string()),
            Ok(layout) => {
                if let Err(fault) = batch.reading(place, at, &layout, &reading, limits) {
                    batch.poison(at, fault.reason(), fault.to_string());
                }
            }
        }
        Ok(())
    }

    /// Where a record's schema is not known: another instance may have noted it since, from a newer folder.
    async fn look_for_schema(&mut self, client: &Client, value: &[u8]) -> Result<(), Error> {
        let Some(header) = decoder::header(value) else {
            return Ok(());
        };
        let header = header.to_vec();
        if self.decoder.writer(&header).is_some() || self.memory.missing.recent(&header, Instant::now()).is_some() {
            return Ok(());
        }
        in_time(self.learn_schemas(client)).await?;
        if self.decoder.writer(&header).is_some() {
            self.memory.again = Again::default();
        } else {
            self.memory.missing.note(header, (), Instant::now());
        }
        Ok(())
    }

    /// Stores the next of the records that were kept for want of something, as far as it is there now.
    pub(super) async fn try_again(&mut self, client: &mut Client) -> Result<(), Error> {
        if self.decoder.has_found() {
            self.memory.again = Again::default();
        }
        let Some(cursor) = self.memory.again.due(Instant::now()) else {
            return Ok(());
        };
        let read = async {
            let read = cursor.read(client).await;
            read.map_err(|error| self.database.error("city.undecodable", error).into())
        };
        let records = in_time(read).await?;
        if records.is_empty() {
            self.memory.again.end();
            return Ok(());
        }
        let mut batch = Batch::again();
        let limits = Limits::new(&self.config, SystemTime::now());
        for (record, reason) in records {
            self.memory.again.pass(&record);
            let place = (Arc::from(record.topic.as_str()), record.partition);
            let Some(kind) = kind_of(&self.kinds, &place.0) else {
                continue;
            };
            if self.memory.again.has_no_answer(&record.value) {
                continue;
            }
            match self.decoder.reading(kind, &record.key, &record.value).await {
                Err(why) if why.may_pass() => {
                    // What has to be stored now is not kept waiting by more than one request.
                    self.memory.again.note_no_answer(&record.value, &why, Instant::now());
                    break;
                }
                // What wants its schema still stays where it is.
                Err(why) if why.wants_schema() => {}
                _ => {
                    self.add_reading(client, &mut batch, &place, 0, record, limits).await?;
                    batch.leave_as_it_was(&reason);
                }
            }
        }
        if !batch.records.is_empty() {
            let records = batch.records.len();
            self.store(client, batch).await?;
            info!(records, "records that were kept are stored, or kept for another reason");
        }
        Ok(())
    }

    /// Devices in Avro become JSON first.
    async fn add_device(
        &mut self,
        batch: &mut Batch,
        place: &Place,
        stored: i64,
        mut record: Consumed,
    ) -> Result<(), Error> {
        let is_device = str::from_utf8(&record.key).is_ok_and(is_device_id);
        if !is_device {
            let at = batch.add(place, stored, record);
            batch.poison(at, "device", "its key is no device id".to_owned());
            return Ok(());
        }
        if let [0, a, b, c, d, datum @ ..] = &*record.value {
            let writer = self.decoder.by_id(u32::from_be_bytes([*a, *b, *c, *d])).await;
            match writer.and_then(|writer| writer.decoded(datum)) {
                Ok(value) => {
                    let mut text = Vec::new();
                    json::write(&mut text, &value);
                    record.value = text;
                }
                Err(why) if why.may_pass() => return Err(Error::Registry(why.to_string())),
                Err(why) => {
                    poisoned(batch, place, stored, record, &why);
                    return Ok(());
                }
            }
        }
        let at = batch.add(place, stored, record);
        batch.device(at);
        Ok(())
    }
}

fn poisoned(batch: &mut Batch, place: &Place, stored: i64, record: Consumed, why: &Undecodable) {
    let at = batch.add(place, stored, record);
    batch.poison(at, why.reason(), why.to_string());
}
