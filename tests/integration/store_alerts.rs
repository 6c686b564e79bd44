//! `citygate store`: alerts on the city, from the table `city.alert` to an Alertmanager.
//!
//! The Alertmanager here is one that answers as told and keeps what it was sent; `tests/deploy/watching.sh` has a real one. Rows are
//! written as `deploy/postgres/50-alerts.sql` would, into its table.

use serde_json::{Value, json};

use crate::harness::postgres::{Database, Postgres};
use crate::harness::registry::{FakeRegistry, always, redirecting};
use crate::harness::store::City;
use crate::harness::{Broker, eventually, repository};

/// The table, as the file of the SQL makes it.
async fn make_table(database: &Database) {
    let file = std::fs::read_to_string(repository().join("deploy/postgres/50-alerts.sql")).unwrap();
    let (_, behind) = file.split_once("create table if not exists city.alert (").unwrap();
    let (columns, _) = behind.split_once("\n);").unwrap();
    let table = format!("create schema if not exists city; create table city.alert ({columns})");
    database.execute(&table).await;
}

async fn raise(database: &Database, subject: &str, raised_at: &str) {
    let row = format!(
        "insert into city.alert (id, alert, scope, subject, district, severity, raised_at, value, reason, readings, published) values \
         ('congestion|{subject}', 'congestion', 'segment', '{subject}', 'north', 'warning', {raised_at}, 12, 'segment {subject}: 12 km/h', '[]', true)"
    );
    database.execute(&row).await;
}

fn alertmanager() -> FakeRegistry {
    FakeRegistry::start(always(200, "application/json", ""))
}

/// Of all that was told: how often an alert of this subject lasted, and with which ends it ended.
fn told(alertmanager: &FakeRegistry, subject: &str) -> (usize, Vec<Value>) {
    let asked = alertmanager.asked();
    let alerts = asked.iter().flat_map(|asked| {
        assert_eq!(asked.path, "/am/api/v2/alerts");
        let alerts: Vec<Value> = serde_json::from_slice(&asked.body).unwrap();
        alerts
    });
    let alerts: Vec<Value> = alerts.filter(|alert| alert["labels"]["subject"] == subject).collect();
    let now = jiff::Timestamp::now();
    let is_over = |alert: &&Value| alert["endsAt"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap() <= now;
    let ends = alerts
        .iter()
        .filter(is_over)
        .map(|alert| alert["endsAt"].clone())
        .collect::<Vec<_>>();
    (alerts.len() - ends.len(), ends)
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_are_told_while_they_last_and_when_they_end() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    let city = City::new(&broker, &database, 1).await;
    let alertmanager = alertmanager();
    let name = alertmanager.address;
    let store = city.store(&format!("alertmanager_urls = [\"http://city:hunter2@{name}/am/\"]"));
    store.await_ready().await;
    let labels = [("alertmanager", &*name.to_string())];
    // Without a table there is nothing to tell; but that it would be accepted is known.
    eventually("it is accepted", async || {
        (store.metric("citygate_store_alertmanager_up", &labels).await == 1).then_some(())
    })
    .await;
    assert_eq!(alertmanager.asked()[0].body, b"[]");
    // city:hunter2
    assert_eq!(
        alertmanager.asked()[0].authorization.as_deref(),
        Some("Basic Y2l0eTpodW50ZXIy")
    );
    make_table(&database).await;
    raise(&database, "s1", "now() - interval '2 minutes'").await;
    eventually("it is told", async || (told(&alertmanager, "s1").0 > 0).then_some(())).await;
    let last = alertmanager.asked().pop().unwrap();
    let mut sent: Vec<Value> = serde_json::from_slice(&last.body).unwrap();
    let [starts, ends] = ["startsAt", "endsAt"].map(|name| {
        let time: jiff::Timestamp = sent[0][name].take().as_str().unwrap().parse().unwrap();
        time.duration_since(jiff::Timestamp::now()).as_secs()
    });
    assert!(
        (-190..=-119).contains(&starts) && (830..=900).contains(&ends),
        "{starts} {ends}"
    );
    let labels_told = json!({"alertname": "CityCongestion", "severity": "warning", "scope": "segment", "subject": "s1", "district": "north"});
    let annotations = json!({"summary": "congestion: segment s1", "description": "segment s1: 12 km/h"});
    assert_eq!(
        sent,
        [json!({"labels": labels_told, "annotations": annotations, "startsAt": null, "endsAt": null})]
    );
    raise(&database, "s2", "now()").await;
    eventually("the other one is told", async || {
        (told(&alertmanager, "s2").0 > 0).then_some(())
    })
    .await;
    assert_eq!(told(&alertmanager, "s1").1, [] as [Value; 0]);
    database
        .execute("update city.alert set cleared_at = date_trunc('second', now()) where subject = 's1'")
        .await;
    database
        .execute("update city.alert set withdrawn = true where subject = 's2'")
        .await;
    eventually("both have ended", async || {
        let ended = ["s1", "s2"].map(|subject| !told(&alertmanager, subject).1.is_empty());
        (ended == [true, true]).then_some(())
    })
    .await;
    let cleared: String = database
        .column("select to_char(cleared_at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') from city.alert where subject = 's1'")
        .await
        .remove(0);
    assert!(
        told(&alertmanager, "s1").1.iter().all(|end| *end == cleared),
        "{cleared}"
    );
    assert!(store.metric("citygate_store_alertmanager_alerts_total", &labels).await >= 4);
    database
        .execute("alter table city.alert rename column reason to why")
        .await;
    eventually("it says that it cannot read the table", async || {
        let (status, said) = store.get("/readyz").await?;
        let why = "ok; alertmanager: postgresql: city.alert: column \"reason\" does not exist\n";
        (status == 200 && said == why).then_some(())
    })
    .await;
    assert!(!store.said().contains("hunter2"), "{}", store.said());
    store.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alertmanager_that_is_unavailable_is_told_everything_later_and_the_other_one_at_once() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    make_table(&database).await;
    let city = City::new(&broker, &database, 1).await;
    let (first, second, gone) = (alertmanager(), alertmanager(), alertmanager());
    first.change(always(503, "text/plain", "not\nyet"));
    gone.stop();
    let urls = [&first, &second, &gone].map(|one| format!("http://city:hunter2@{}/am\n", one.address));
    let file = city.sql().join("alertmanagers");
    std::fs::write(&file, urls.concat()).unwrap();
    let store = city.store(&format!("alertmanager_urls_file = {file:?}"));
    store.await_ready().await;
    raise(&database, "s1", "now()").await;
    eventually("the second one is told", async || {
        (told(&second, "s1").0 > 0).then_some(())
    })
    .await;
    let refused = format!("alertmanager: {}: HTTP 503: not yet", first.address);
    let no_answer = format!("alertmanager: {}: Connection refused", gone.address);
    eventually("it says what is unavailable, and stores", async || {
        let (status, said) = store.get("/readyz").await?;
        (status == 200 && said.starts_with("ok; ") && said.contains(&refused) && said.contains(&no_answer))
            .then_some(())
    })
    .await;
    let up = async |one: &FakeRegistry| {
        let labels = [("alertmanager", &*one.address.to_string())];
        store.metric("citygate_store_alertmanager_up", &labels).await
    };
    assert_eq!([up(&first).await, up(&second).await, up(&gone).await], [0, 1, 0]);
    let failures = async |one: &FakeRegistry, reason| {
        let labels = [("alertmanager", &*one.address.to_string()), ("reason", reason)];
        store
            .metric("citygate_store_alertmanager_failures_total", &labels)
            .await
    };
    eventually("it is tried again", async || {
        (failures(&first, "refused").await >= 2 && failures(&gone, "connection").await >= 2).then_some(())
    })
    .await;
    let refusals = told(&first, "s1").0;
    first.change(always(200, "application/json", ""));
    eventually("the first one is told", async || {
        (told(&first, "s1").0 > refusals).then_some(())
    })
    .await;
    eventually("only what is gone is unavailable", async || {
        (up(&first).await == 1).then_some(())
    })
    .await;
    // Said once each, and without what was sent along.
    let said = store.said();
    assert_eq!(said.matches("HTTP 503").count(), 1, "{said}");
    assert_eq!(said.matches("Connection refused").count(), 1, "{said}");
    assert!(!said.contains("city:hunter2"), "{said}");
    store.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_instance_tells_and_when_it_is_killed_another() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    make_table(&database).await;
    raise(&database, "s1", "now()").await;
    let city = City::new(&broker, &database, 1).await;
    let (of_first, of_second) = (alertmanager(), alertmanager());
    let mut first = city.store(&format!("alertmanager_urls = [\"http://{}/am\"]", of_first.address));
    eventually("the first one tells", async || {
        (told(&of_first, "s1").0 > 0).then_some(())
    })
    .await;
    let second = city.store(&format!("alertmanager_urls = [\"http://{}/am\"]", of_second.address));
    second.await_ready().await;
    raise(&database, "s2", "now()").await;
    eventually("the first one tells on", async || {
        (told(&of_first, "s2").0 > 0).then_some(())
    })
    .await;
    assert_eq!(of_second.asked().len(), 0);
    first.kill();
    database
        .execute("update city.alert set cleared_at = now() where subject = 's1'")
        .await;
    eventually("the second one tells", async || {
        let (lasts, ends) = (told(&of_second, "s2").0, told(&of_second, "s1").1);
        (lasts > 0 && !ends.is_empty()).then_some(())
    })
    .await;
    second.finish().await;
}

/// Whoever follows a redirect with a GET, as it is usual, is answered by a page, and has told nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_refused_and_said() {
    let (Some(broker), Some(postgres)) = (Broker::shared(), Postgres::shared()) else {
        return;
    };
    let database = postgres.database().await;
    make_table(&database).await;
    raise(&database, "s1", "now()").await;
    let city = City::new(&broker, &database, 1).await;
    let page = alertmanager();
    let first = FakeRegistry::start(redirecting(&page.url()));
    let store = city.store(&format!(
        "alertmanager_urls = [\"http://city:hunter2@{}/am\"]",
        first.address
    ));
    store.await_ready().await;
    let words = format!("ok; alertmanager: {}: HTTP 302", first.address);
    eventually("it says so", async || {
        let (status, said) = store.get("/readyz").await?;
        (status == 200 && said.starts_with(&words)).then_some(())
    })
    .await;
    let address = first.address.to_string();
    let labels = [("alertmanager", &*address)];
    assert_eq!(store.metric("citygate_store_alertmanager_up", &labels).await, 0);
    assert_eq!(
        store.metric("citygate_store_alertmanager_alerts_total", &labels).await,
        0
    );
    let labels = [("alertmanager", &*address), ("reason", "refused")];
    eventually("it is tried again", async || {
        let failures = store
            .metric("citygate_store_alertmanager_failures_total", &labels)
            .await;
        (failures >= 2).then_some(())
    })
    .await;
    assert_eq!(page.asked().len(), 0);
    let said = store.said();
    assert!(said.contains("HTTP 302") && !said.contains("hunter2"), "{said}");
    store.finish().await;
}
