//! The table of a kind: which columns its Avro schema makes, and what must change in one that exists.
//!
//! Pure: schemas and columns in, statements out. A top-level field is a column of the same name; what is nested is `jsonb`.
//! A table only ever gains columns. A column may be wider than its field (a `long` column for an `int` field), never narrower:
//! that is an error which names table and column. Names are always quoted, so that any kind and field may be called as it is.

use std::fmt::{self, Display, Formatter};

use apache_avro::Schema;
use apache_avro::schema::RecordField;

use super::database::{SCHEMA, quoted};

/// PostgreSQL cuts longer names off.
const NAME_BYTES_MAX: usize = 63;
/// `_20261128` of a day's partition.
const DAY_BYTES: usize = 9;

/// How many columns every table has.
pub const OWN_COLUMNS: usize = 7;

/// What every table has, and a field cannot be called.
const OWN: [(&str, SqlType); OWN_COLUMNS] = [
    ("device", SqlType::Text),
    ("observed_at", SqlType::Timestamp),
    ("received_at", SqlType::Timestamp),
    ("is_late", SqlType::Boolean),
    ("reading_id", SqlType::Bigint),
    ("kafka_partition", SqlType::Integer),
    ("kafka_offset", SqlType::Bigint),
];
/// Of these, fields that readings have: they are not made from the schema, but checked against it.
const OF_READINGS: [&str; 3] = ["device", "observed_at", "received_at"];
/// Columns that PostgreSQL gives every table.
const SYSTEM: [&str; 6] = ["tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"];
/// Tables of the schema `city` that are none of a kind: of the store, and of deploy/postgres.
const TABLES: [&str; 29] = [
    "aggregate_15m",
    "aggregate_1m",
    "alert",
    "alert_event",
    "anomaly",
    "anomaly_point",
    "avro_schema",
    "changed",
    "changed_group",
    "computed",
    "condition",
    "condition_input",
    "device",
    "device_gone",
    "device_last",
    "failure",
    "insight",
    "kafka_offset",
    "measure",
    "missing_field",
    "outbox",
    "place",
    "profile",
    "setting",
    "stored",
    "threshold",
    "undecodable",
    "window_due",
    "window_progress",
];

/// A type of PostgreSQL, as far as Avro has use for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SqlType {
    Boolean,
    Integer,
    Bigint,
    Real,
    Double,
    Numeric(u16, u16),
    Text,
    Bytea,
    Timestamp,
    LocalTimestamp,
    Date,
    Time,
    Jsonb,
}

/// A column that readings are written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub sql_type: SqlType,
    /// Every reading has a value.
    pub not_null: bool,
}

/// A column as it is in the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Existing {
    pub name: String,
    /// As `format_type` writes it.
    pub sql_type: String,
    pub not_null: bool,
}

/// What to do so that readings of a schema fit a table, and the columns that they are then written to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub statements: Vec<String>,
    /// Those of the schema, with the types that they have in the database.
    pub columns: Vec<Column>,
}

/// Readings of a schema cannot be stored in a table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{kind}: a kind cannot be stored under this name, which is that of a table of the store's own; rename it")]
    Table { kind: String },
    #[error("{kind}: with the day of a partition behind it, the name has more than {NAME_BYTES_MAX} bytes; shorten it")]
    LongKind { kind: String },
    #[error("{kind}.{field}: a column cannot be called so: {why}; rename the field")]
    Column {
        kind: String,
        field: String,
        why: &'static str,
    },
    #[error("{kind}.{field}: is {is}, and must be {must}")]
    Field {
        kind: String,
        field: String,
        is: String,
        must: &'static str,
    },
    #[error(
        "{SCHEMA}.{kind}: is no table of the store's: it has no column {column} {sql_type}; rename it, or the kind"
    )]
    Foreign {
        kind: String,
        column: String,
        sql_type: SqlType,
    },
    #[error("{SCHEMA}.{kind}: column {field} is {is}, and the schema's field needs {needs}; {hint}")]
    Type {
        kind: String,
        field: String,
        is: String,
        needs: SqlType,
        hint: String,
    },
}

impl Error {
    /// The `reason` label of metrics.
    pub fn reason(&self) -> &'static str {
        "table"
    }
}

// === impl SqlType ===

impl SqlType {
    /// What a column must be to hold every value of a schema; what is null of a union is nobody's business.
    pub fn of(schema: &Schema) -> Self {
        match schema {
            Schema::Boolean => SqlType::Boolean,
            Schema::Int => SqlType::Integer,
            Schema::Long => SqlType::Bigint,
            Schema::Float => SqlType::Real,
            Schema::Double => SqlType::Double,
            Schema::Bytes | Schema::Fixed(_) | Schema::Duration(_) => SqlType::Bytea,
            Schema::String | Schema::Enum(_) | Schema::Uuid(_) => SqlType::Text,
            Schema::Decimal(decimal) => match (u16::try_from(decimal.precision), u16::try_from(decimal.scale)) {
                (Ok(precision), Ok(scale)) if precision <= 1000 => SqlType::Numeric(precision, scale),
                _ => SqlType::Jsonb,
            },
            Schema::Date => SqlType::Date,
            Schema::TimeMillis | Schema::TimeMicros => SqlType::Time,
            Schema::TimestampMillis | Schema::TimestampMicros | Schema::TimestampNanos => SqlType::Timestamp,
            Schema::LocalTimestampMillis | Schema::LocalTimestampMicros | Schema::LocalTimestampNanos => {
                SqlType::LocalTimestamp
            }
            Schema::Union(union) => {
                let mut some = union.variants().iter().filter(|branch| **branch != Schema::Null);
                match (some.next(), some.next()) {
                    (Some(only), None) => SqlType::of(only),
                    _ => SqlType::Jsonb,
                }
            }
            Schema::Null
            | Schema::Array(_)
            | Schema::Map(_)
            | Schema::Record(_)
            | Schema::BigDecimal
            | Schema::Ref { .. } => SqlType::Jsonb,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "boolean" => SqlType::Boolean,
            "integer" => SqlType::Integer,
            "bigint" => SqlType::Bigint,
            "real" => SqlType::Real,
            "double precision" => SqlType::Double,
            "text" => SqlType::Text,
            "bytea" => SqlType::Bytea,
            "timestamp with time zone" => SqlType::Timestamp,
            "timestamp without time zone" => SqlType::LocalTimestamp,
            "date" => SqlType::Date,
            "time without time zone" => SqlType::Time,
            "jsonb" => SqlType::Jsonb,
            _ => {
                let (precision, scale) = text.strip_prefix("numeric(")?.strip_suffix(')')?.split_once(',')?;
                SqlType::Numeric(precision.parse().ok()?, scale.parse().ok()?)
            }
        })
    }

    /// Whether a column of this type holds every value of the other.
    fn holds(self, other: Self) -> bool {
        use SqlType::{Bigint, Double, Integer, Jsonb, Numeric, Real};
        match (self, other) {
            _ if self == other => true,
            (Bigint | Double, Integer) | (Double, Real) | (Jsonb, _) => true,
            (Numeric(precision, scale), Numeric(digits, behind)) => scale == behind && precision >= digits,
            _ => false,
        }
    }
}

impl Display for SqlType {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SqlType::Boolean => "boolean",
            SqlType::Integer => "integer",
            SqlType::Bigint => "bigint",
            SqlType::Real => "real",
            SqlType::Double => "double precision",
            SqlType::Numeric(precision, scale) => return write!(f, "numeric({precision},{scale})"),
            SqlType::Text => "text",
            SqlType::Bytea => "bytea",
            SqlType::Timestamp => "timestamp with time zone",
            SqlType::LocalTimestamp => "timestamp without time zone",
            SqlType::Date => "date",
            SqlType::Time => "time without time zone",
            SqlType::Jsonb => "jsonb",
        })
    }
}

/// The columns that every table has, in the order in which rows begin.
pub fn own_columns() -> Vec<Column> {
    let column = |(name, sql_type): (&str, SqlType)| Column {
        name: name.to_owned(),
        sql_type,
        not_null: true,
    };
    OWN.map(column).into()
}

/// The columns that a schema makes, beside those that every table has; in the schema's order.
///
/// # Errors
/// All that cannot be a column.
pub fn columns(kind: &str, schema: &Schema) -> Result<Vec<Column>, Vec<Error>> {
    let Schema::Record(record) = schema else {
        return Ok(Vec::new());
    };
    let mut errors = Vec::from_iter(wrong_kind(kind));
    errors.extend(record.fields.iter().filter_map(|field| wrong_field(kind, field)));
    if !errors.is_empty() {
        return Err(errors);
    }
    let fields = record
        .fields
        .iter()
        .filter(|field| !OF_READINGS.contains(&field.name.as_str()));
    Ok(fields
        .map(|field| Column {
            name: field.name.clone(),
            sql_type: SqlType::of(&field.schema),
            not_null: field.default.is_none() && !may_be_null(&field.schema),
        })
        .collect())
}

fn may_be_null(schema: &Schema) -> bool {
    match schema {
        Schema::Null => true,
        Schema::Union(union) => union.variants().contains(&Schema::Null),
        _ => false,
    }
}

fn wrong_kind(kind: &str) -> Option<Error> {
    let kind = || kind.to_owned();
    let is_of_results = kind().starts_with("v_") || kind().ends_with("_reading");
    if is_of_results || TABLES.contains(&&*kind()) {
        return Some(Error::Table { kind: kind() });
    }
    (kind().len() + DAY_BYTES > NAME_BYTES_MAX).then(|| Error::LongKind { kind: kind() })
}

fn wrong_field(kind: &str, field: &RecordField) -> Option<Error> {
    let (kind, name) = (kind.to_owned(), field.name.clone());
    let refused = |why| {
        Some(Error::Column {
            kind: kind.clone(),
            field: name.clone(),
            why,
        })
    };
    let sql_type = SqlType::of(&field.schema);
    let must = |must| {
        let is = sql_type.to_string();
        Some(Error::Field {
            kind: kind.clone(),
            field: name.clone(),
            is,
            must,
        })
    };
    match field.name.as_str() {
        "device" if sql_type != SqlType::Text => must("a string"),
        "observed_at" | "received_at" if sql_type != SqlType::Timestamp => {
            must("of the logical type timestamp-millis or timestamp-micros")
        }
        name if OF_READINGS.contains(&name) => None,
        name if OWN.iter().any(|(own, _)| *own == name) => refused("the store has a column of this name"),
        name if SYSTEM.contains(&name) => refused("postgresql has a column of this name in every table"),
        name if name.len() > NAME_BYTES_MAX => refused("it has more than 63 bytes"),
        _ => None,
    }
}

/// What to do so that readings with these columns fit the table; `existing`: its columns, none if there is no table.
///
/// # Errors
/// All columns that cannot hold their field's values.
pub fn plan(kind: &str, wanted: &[Column], existing: Option<&[Existing]>) -> Result<Plan, Vec<Error>> {
    let Some(existing) = existing else {
        return Ok(Plan {
            statements: vec![create(kind, wanted)],
            columns: wanted.to_vec(),
        });
    };
    let (mut changes, mut columns, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    errors.extend(own_columns().into_iter().filter_map(|own| {
        let is_same = |is: &Existing| is.name == own.name && SqlType::parse(&is.sql_type) == Some(own.sql_type);
        let foreign = Error::Foreign {
            kind: kind.to_owned(),
            column: own.name.clone(),
            sql_type: own.sql_type,
        };
        (!existing.iter().any(is_same)).then_some(foreign)
    }));
    for column in wanted {
        let is = existing.iter().find(|existing| existing.name == column.name);
        match is {
            None => {
                // Rows that exist have no value.
                changes.push(format!("add column {} {}", quoted(&column.name), column.sql_type));
                columns.push(Column {
                    not_null: false,
                    ..column.clone()
                });
            }
            Some(is) => match SqlType::parse(&is.sql_type).filter(|sql_type| sql_type.holds(column.sql_type)) {
                Some(sql_type) => columns.push(Column {
                    sql_type,
                    ..column.clone()
                }),
                None => errors.push(too_narrow(kind, column, is)),
            },
        }
    }
    let is_own = |name: &str| OWN.iter().any(|(own, _)| *own == name);
    let always = |name: &str| wanted.iter().any(|column| column.name == name && column.not_null);
    let strict = existing
        .iter()
        .filter(|existing| existing.not_null && !is_own(&existing.name));
    let optional = strict.filter(|existing| !always(&existing.name));
    changes.extend(optional.map(|existing| format!("alter column {} drop not null", quoted(&existing.name))));
    match errors.is_empty() {
        false => Err(errors),
        true if changes.is_empty() => Ok(Plan {
            statements: Vec::new(),
            columns,
        }),
        true => Ok(Plan {
            statements: vec![format!("alter table {}\n  {}", table(kind), changes.join(",\n  "))],
            columns,
        }),
    }
}

fn too_narrow(kind: &str, column: &Column, is: &Existing) -> Error {
    let is_wider = SqlType::parse(&is.sql_type).is_some_and(|is| column.sql_type.holds(is));
    let hint = match is_wider {
        // The views that use the column, the SQL files make again.
        true => format!(
            "with the store stopped, run: drop view if exists {} cascade; alter table {} alter column {} type {}",
            table(&format!("{kind}_reading")),
            table(kind),
            quoted(&column.name),
            column.sql_type
        ),
        false => "give the field another name, or rename the column".to_owned(),
    };
    Error::Type {
        kind: kind.to_owned(),
        field: column.name.clone(),
        is: is.sql_type.clone(),
        needs: column.sql_type,
        hint,
    }
}

fn create(kind: &str, wanted: &[Column]) -> String {
    let all = own_columns().into_iter().chain(wanted.iter().cloned());
    let columns = all.map(|column| {
        let not_null = if column.not_null { " not null" } else { "" };
        format!("  {} {}{not_null},\n", quoted(&column.name), column.sql_type)
    });
    let table = table(kind);
    format!(
        "create table {table} (\n{}  unique (device, observed_at, reading_id)\n) partition by range (observed_at);\n\
         create index on {table} using brin (received_at)",
        columns.collect::<String>()
    )
}

/// A kind's table.
pub fn table(kind: &str) -> String {
    format!("{SCHEMA}.{}", quoted(kind))
}

#[cfg(test)]
mod tests;
