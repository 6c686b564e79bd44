//! Schemas and existing tables as data: which statements they make, and which are refused.
//!
//! The bundled kinds are among them. What PostgreSQL itself makes of the statements, the integration tests ask.

use super::*;
use crate::catalogue::schemas;

fn schema(fields: &str) -> Schema {
    Schema::parse_str(&format!(r#"{{"type":"record","name":"R","fields":[{fields}]}}"#)).unwrap()
}

fn field(name: &str, of: &str) -> String {
    format!(r#"{{"name":"{name}","type":{of}}}"#)
}

/// The columns of a table as PostgreSQL would show them.
fn existing(wanted: &[Column]) -> Vec<Existing> {
    let all = own_columns().into_iter().chain(wanted.iter().cloned());
    all.map(|column| Existing {
        name: column.name,
        sql_type: column.sql_type.to_string(),
        not_null: column.not_null,
    })
    .collect()
}

fn words(errors: Vec<Error>) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn a_field_is_a_column_of_its_type() {
    let check = |avro: &str, expected: &str, not_null: bool| {
        let columns = columns("k", &schema(&field("x", avro))).unwrap();
        let is = columns
            .iter()
            .map(|column| (column.sql_type.to_string(), column.not_null));
        assert_eq!(is.collect::<Vec<_>>(), [(expected.to_owned(), not_null)], "{avro}");
    };
    check("\"int\"", "integer", true);
    check("\"long\"", "bigint", true);
    check("\"float\"", "real", true);
    check("\"double\"", "double precision", true);
    check("\"boolean\"", "boolean", true);
    check("\"string\"", "text", true);
    check("\"bytes\"", "bytea", true);
    check("[\"null\",\"double\"]", "double precision", false);
    check("[\"double\",\"null\"]", "double precision", false);
    check("[\"double\"]", "double precision", true);
    check("[\"null\",\"int\",\"string\"]", "jsonb", false);
    check(r#"{"type":"enum","name":"E","symbols":["a"]}"#, "text", true);
    check(r#"{"type":"fixed","name":"F","size":4}"#, "bytea", true);
    check(r#"{"type":"array","items":"int"}"#, "jsonb", true);
    check(r#"{"type":"map","values":"int"}"#, "jsonb", true);
    check(r#"["null",{"type":"record","name":"S","fields":[]}]"#, "jsonb", false);
    check(r#"{"type":"string","logicalType":"uuid"}"#, "text", true);
    check(r#"{"type":"int","logicalType":"date"}"#, "date", true);
    check(
        r#"{"type":"int","logicalType":"time-millis"}"#,
        "time without time zone",
        true,
    );
    check(
        r#"{"type":"long","logicalType":"time-micros"}"#,
        "time without time zone",
        true,
    );
    check(
        r#"{"type":"long","logicalType":"timestamp-millis"}"#,
        "timestamp with time zone",
        true,
    );
    check(
        r#"{"type":"long","logicalType":"timestamp-micros"}"#,
        "timestamp with time zone",
        true,
    );
    check(
        r#"{"type":"long","logicalType":"local-timestamp-millis"}"#,
        "timestamp without time zone",
        true,
    );
    check(
        r#"{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}"#,
        "numeric(10,2)",
        true,
    );
    let with_default = schema(r#"{"name":"x","type":"int","default":0}"#);
    assert!(!columns("k", &with_default).unwrap()[0].not_null);
}

#[test]
fn a_table_is_made_of_its_own_columns_and_the_schemas() {
    let time = r#"{"type":"long","logicalType":"timestamp-millis"}"#;
    let fields = [
        field("device", "\"string\""),
        field("observed_at", time),
        field("received_at", time),
        field("speed_kmh", "[\"null\",\"double\"]"),
        field("order", "\"int\""),
    ];
    let wanted = columns("bike-counter", &schema(&fields.join(","))).unwrap();
    let plan = plan("bike-counter", &wanted, None).unwrap();
    assert_eq!(
        plan.statements,
        ["create table city.\"bike-counter\" (
  \"device\" text not null,
  \"observed_at\" timestamp with time zone not null,
  \"received_at\" timestamp with time zone not null,
  \"is_late\" boolean not null,
  \"reading_id\" bigint not null,
  \"kafka_partition\" integer not null,
  \"kafka_offset\" bigint not null,
  \"speed_kmh\" double precision,
  \"order\" integer not null,
  unique (device, observed_at, reading_id)
) partition by range (observed_at);
create index on city.\"bike-counter\" using brin (received_at)"]
    );
    assert_eq!(plan.columns, wanted);
}

#[test]
fn the_table_of_every_bundled_kind_fits_it_once_it_is_made() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
    let kinds = schemas::read(&schemas::Config::every(&folder), "city.").definitions;
    assert_eq!(kinds.len(), 8);
    for kind in kinds {
        let wanted = columns(&kind.name, &kind.schema).unwrap();
        assert!(wanted.len() > 15, "{}: {}", kind.name, wanted.len());
        let again = plan(&kind.name, &wanted, Some(&existing(&wanted))).unwrap();
        assert_eq!((again.statements, again.columns), (vec![], wanted), "{}", kind.name);
    }
}

#[test]
fn a_table_only_gains_columns_and_never_asks_for_more_than_before() {
    let check = |before: &str, after: &str, expected: Result<&[&str], &str>| {
        let before = columns("k", &schema(before)).unwrap();
        let after = columns("k", &schema(after)).unwrap();
        match (plan("k", &after, Some(&existing(&before))), expected) {
            (Ok(plan), Ok(expected)) => assert_eq!(plan.statements, expected),
            (Err(errors), Err(expected)) => assert_eq!(words(errors), [expected]),
            (is, _) => panic!("{is:?}, expected {expected:?}"),
        }
    };
    let [int, long, double, text, maybe] = [
        field("x", "\"int\""),
        field("x", "\"long\""),
        field("x", "\"double\""),
        field("x", "\"string\""),
        field("x", "[\"null\",\"int\"]"),
    ];
    let decimal = |precision: u8| {
        field(
            "x",
            &format!(r#"{{"type":"bytes","logicalType":"decimal","precision":{precision},"scale":2}}"#),
        )
    };
    check(&int, &int, Ok(&[]));
    check(
        &maybe,
        &[maybe.clone(), field("y", "\"string\"")].join(","),
        Ok(&["alter table city.\"k\"\n  add column \"y\" text"]),
    );
    check(
        &int,
        &maybe,
        Ok(&["alter table city.\"k\"\n  alter column \"x\" drop not null"]),
    );
    check(
        &int,
        &field("y", "[\"null\",\"long\"]"),
        Ok(&["alter table city.\"k\"\n  add column \"y\" bigint,\n  alter column \"x\" drop not null"]),
    );
    check(&maybe, "", Ok(&[]));
    check(&long, &int, Ok(&[]));
    check(&double, &int, Ok(&[]));
    check(&decimal(10), &decimal(8), Ok(&[]));
    check(
        &int,
        &long,
        Err(
            "city.k: column x is integer, and the schema's field needs bigint; with the store stopped, run: drop view if exists \
             city.\"k_reading\" cascade; alter table city.\"k\" alter column \"x\" type bigint",
        ),
    );
    check(
        &text,
        &double,
        Err(
            "city.k: column x is text, and the schema's field needs double precision; give the field another name, or rename the \
             column",
        ),
    );
    check(
        &decimal(8),
        &decimal(10),
        Err(
            "city.k: column x is numeric(8,2), and the schema's field needs numeric(10,2); with the store stopped, run: drop view if \
             exists city.\"k_reading\" cascade; alter table city.\"k\" alter column \"x\" type numeric(10,2)",
        ),
    );
}

#[test]
fn what_cannot_be_a_table_or_a_column_is_said() {
    let check = |kind: &str, fields: &str, expected: &[&str]| {
        let errors = columns(kind, &schema(fields)).unwrap_err();
        assert_eq!(words(errors), expected);
    };
    let int = field("x", "\"int\"");
    check(
        "device",
        &int,
        &["device: a kind cannot be stored under this name, which is that of a table of the store's own; rename it"],
    );
    let long = "k".repeat(55);
    check(
        &long,
        &int,
        &[&format!(
            "{long}: with the day of a partition behind it, the name has more than 63 bytes; shorten it"
        )],
    );
    check(
        "k",
        &[
            field("xmin", "\"int\""),
            field("reading_id", "\"int\""),
            field("device", "\"int\""),
        ]
        .join(","),
        &[
            "k.xmin: a column cannot be called so: postgresql has a column of this name in every table; rename the field",
            "k.reading_id: a column cannot be called so: the store has a column of this name; rename the field",
            "k.device: is integer, and must be a string",
        ],
    );
    check(
        "k",
        &field("observed_at", "\"long\""),
        &["k.observed_at: is bigint, and must be of the logical type timestamp-millis or timestamp-micros"],
    );
    let foreign = Existing {
        name: "id".to_owned(),
        sql_type: "integer".to_owned(),
        not_null: true,
    };
    let errors = plan("k", &[], Some(&[foreign])).unwrap_err();
    assert_eq!(
        words(errors)[0],
        "city.k: is no table of the store's: it has no column device text; rename it, or the kind"
    );
}

/// A kind of such a name would be written into a table of the results, or be in its place.
#[test]
fn no_kind_is_called_as_a_table_of_the_results() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = vec![std::fs::read_to_string(folder.join("src/store/tables.sql")).unwrap()];
    for entry in std::fs::read_dir(folder.join("deploy/postgres")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "sql") {
            texts.push(std::fs::read_to_string(path).unwrap());
        }
    }
    let mut found = std::collections::BTreeSet::new();
    for line in texts.iter().flat_map(|text| text.lines()) {
        let is_made = [
            "create table",
            "create unlogged table",
            "create view",
            "create or replace view",
        ]
        .iter()
        .any(|made| line.starts_with(made));
        if let (true, Some((_, name))) = (is_made, line.split_once(" city.")) {
            found.insert(name.split([' ', '(', ';']).next().unwrap().to_owned());
        }
    }
    assert!(found.len() > 25, "{found:?}");
    for name in found {
        assert!(super::wrong_kind(&name).is_some(), "a kind may be called {name}");
    }
    assert!(super::wrong_kind("traffic").is_none());
}
