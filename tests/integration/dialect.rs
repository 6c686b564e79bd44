//! What a schema's attributes do, over every protocol: what is refused and in which words, what is stored instead of what was
//! sent, and how the gateway's nulls are noted and counted.
//!
//! One kind, with what no bundled one has; those are in `kinds`. `src/validate/tests/dialect.rs` has the full tables, of the
//! validator alone.

use serde_json::json;
use tempfile::TempDir;

use crate::harness::{Broker, TestGateway, Via};

const STATION: &str = r#"{
  "type": "record", "name": "Station", "namespace": "test.dialect", "any_of": ["depth_m", "code", "lanes"],
  "fields": [
    {"name": "device", "type": "string", "fill": "device"},
    {"name": "observed_at", "type": {"type": "long", "logicalType": "timestamp-millis"}, "clock": "observed",
     "accepts": ["epoch_s", "rfc3339", "local"], "utc_offset": "+01:00"},
    {"name": "depth_m", "type": ["null", "double"], "default": null, "exclusiveMinimum": 0, "maximum": 10,
     "sentinels": [5, -9999], "out_of_range": "null", "also": ["depth"]},
    {"name": "code", "type": ["null", "string"], "default": null, "maxLength": 4, "pattern": "^[A-Z]+$"},
    {"name": "lanes", "type": {"type": "array", "maxItems": 2, "unique": "lane", "items": {"type": "record", "name": "Lane", "fields": [
      {"name": "lane", "type": {"type": "enum", "name": "LaneName", "symbols": ["left", "right"], "also": {"left": ["L"]}}},
      {"name": "speed_kmh", "type": ["null", "int"], "default": null, "minimum": 0, "maximum": 250, "sentinels": [255]}
    ]}}, "default": []},
    {"name": "quality", "type": {"type": "array", "maxItems": 64, "items": {"type": "record", "name": "Quality", "fields": [
      {"name": "field", "type": "string", "maxLength": 160},
      {"name": "flag", "type": {"type": "enum", "name": "QualityFlag", "symbols": ["other", "sentinel", "out_of_range", "suspect"],
       "default": "other"}},
      {"name": "source", "type": {"type": "enum", "name": "QualitySource", "symbols": ["device", "gateway"], "default": "device"},
       "default": "device"}
    ]}}, "default": [], "fill": "quality"}
  ]
}"#;

/// A reading that is refused, and the words for it.
const REFUSED: [(&str, &str); 6] = [
    (
        r#"{"depth_m": null, "lanes": []}"#,
        "no value; send at least one of depth_m, code, lanes",
    ),
    (r#"{"code": "ab"}"#, "code: \"ab\" does not match \"^[A-Z]+$\""),
    (
        r#"{"lanes": [{"lane": "L"}, {"lane": "right"}, {"lane": "L"}]}"#,
        "lanes: more than 2 items",
    ),
    (
        r#"{"lanes": [{"lane": "R"}]}"#,
        "lanes[0].lane: \"R\" is not one of left, right",
    ),
    (
        r#"{"lanes": [{"lane": "L", "speed_kmh": 300}]}"#,
        "lanes[0].speed_kmh: 300 is above the maximum 250",
    ),
    (r#"{"depth": 1, "depth_m": 1}"#, "depth_m: came twice"),
];

/// Field, flag and source.
type Note = [&'static str; 3];

/// A reading that is accepted, the value of `depth_m`, and the flags.
const ACCEPTED: [(&str, Option<f64>, &[Note]); 5] = [
    (r#"{"depth": 2.5}"#, Some(2.5), &[]),
    (r#"{"depth_m": 0}"#, None, &[["depth_m", "out_of_range", "gateway"]]),
    (r#"{"depth_m": 5.0}"#, None, &[["depth_m", "sentinel", "gateway"]]),
    (
        r#"{"lanes": [{"lane": "right"}, {"speed_kmh": 255, "lane": "L"}]}"#,
        None,
        &[["lanes[1].speed_kmh", "sentinel", "gateway"]],
    ),
    (
        r#"{"quality": [{"field": "code", "flag": "suspect"}], "code": "AB", "depth_m": 11}"#,
        None,
        &[["code", "suspect", "device"], ["depth_m", "out_of_range", "gateway"]],
    ),
];

async fn gateway(folder: &TempDir) -> TestGateway {
    std::fs::write(folder.path().join("station.avsc"), STATION).unwrap();
    TestGateway::start(&Broker::any(), |config| {
        config.schemas = citygate::catalogue::Config::every(folder.path());
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_schema_forbids_is_refused_in_words_over_every_protocol() {
    let folder = TempDir::new().unwrap();
    let gateway = gateway(&folder).await;
    for via in Via::ALL {
        let mut client = gateway.client(via).await;
        for (body, words) in REFUSED {
            let answer = client.send("devices/d-1/station", "", body.as_bytes()).await;
            let expected = match via {
                Via::Mqtt311 => "PUBACK",
                Via::Mqtt5 => "0x99",
                Via::Coap => "4.22",
                Via::Http => "422",
            };
            assert_eq!(answer.code, expected, "{via:?} {body}: {answer:?}");
            // Within a problem document, quotation marks are escaped.
            let text = answer.text.replace(r#"\""#, "\"");
            assert!(
                via == Via::Mqtt311 || text.contains(words),
                "{via:?} {body}: {answer:?}"
            );
        }
    }
    let letters = gateway.dead_letters();
    assert_eq!(letters.len(), REFUSED.len() * Via::ALL.len());
    assert!(gateway.readings("station").is_empty());
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_gateway_nulls_is_noted_and_counted_over_every_protocol() {
    let folder = TempDir::new().unwrap();
    let gateway = gateway(&folder).await;
    for via in Via::ALL {
        let mut client = gateway.client(via).await;
        for (number, (body, ..)) in ACCEPTED.iter().enumerate() {
            let path = format!("devices/{via:?}-{number}/station");
            let answer = client.send(&path, "", body.as_bytes()).await;
            assert!(answer.is_yes(via), "{via:?} {body}: {answer:?}");
        }
    }
    let arrived = gateway.readings("station");
    assert_eq!(arrived.len(), ACCEPTED.len() * Via::ALL.len());
    for arrived in arrived {
        let (_, number) = arrived.device.split_once('-').unwrap();
        let (body, depth, flags) = ACCEPTED[number.parse::<usize>().unwrap()];
        let as_json = |[field, flag, source]: &Note| json!({"field": field, "flag": flag, "source": source});
        let flags: Vec<_> = flags.iter().map(as_json).collect();
        assert_eq!(arrived.reading["depth_m"], json!(depth), "{body}");
        let found = arrived.reading["quality"].as_array().cloned().unwrap_or_default();
        assert_eq!(found, flags, "{body}");
    }
    let nulled = |field, reason| {
        let labels = [("kind", "station"), ("field", field), ("reason", reason)];
        gateway.scrape().sum("citygate_readings_values_nulled_total", &labels)
    };
    let times = Via::ALL.len() as u64;
    assert_eq!(nulled("depth_m", "out_of_range"), 2 * times);
    assert_eq!(nulled("depth_m", "sentinel"), times);
    assert_eq!(nulled("lanes[].speed_kmh", "sentinel"), times);
    gateway.finish().await;
}
