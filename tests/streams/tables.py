"""Tables as `citygate store` makes them: its own from its file, those of the readings from the Avro schemas by their documented rules.

A reimplementation, so that what is computed in SQL can be tested without the store; that the store makes the same is its own test.
"""

import json
import pathlib

SCHEMAS = pathlib.Path(__file__).resolve().parents[2] / "schemas"
PLAIN = {"int": "integer", "long": "bigint", "float": "real", "double": "double precision", "boolean": "boolean", "string": "text",
         "bytes": "bytea", "enum": "text", "fixed": "bytea", "record": "jsonb", "array": "jsonb", "map": "jsonb"}
LOGICAL = {"timestamp-millis": "timestamptz", "timestamp-micros": "timestamptz", "date": "date", "time-millis": "time",
           "time-micros": "time", "uuid": "text"}
OF_THE_STORE = ("device", "observed_at", "received_at")


def column_type(avro, named):
    if isinstance(avro, list):
        others = [branch for branch in avro if branch != "null"]
        return column_type(others[0], named)
    if isinstance(avro, dict):
        if avro.get("logicalType") == "decimal":
            return f"numeric({avro['precision']},{avro.get('scale', 0)})"
        return LOGICAL.get(avro.get("logicalType")) or column_type(avro["type"], named)
    return PLAIN.get(avro) or column_type(named[avro], named)


def named_types(avro, found):
    if isinstance(avro, list):
        for branch in avro:
            named_types(branch, found)
    elif isinstance(avro, dict):
        if avro.get("type") in ("record", "enum", "fixed"):
            found[avro["name"]] = avro
        for field in avro.get("fields", ()):
            named_types(field["type"], found)
        for part in ("items", "values"):
            if part in avro:
                named_types(avro[part], found)
    return found


def columns(kind):
    """Name, type and whether it must have a value, of each column behind those that every table has."""
    schema = json.loads((SCHEMAS / f"{kind}.avsc").read_text())
    named = named_types(schema, {})
    return [(field["name"], column_type(field["type"], named), not (isinstance(field["type"], list) or "default" in field))
            for field in schema["fields"] if field["name"] not in OF_THE_STORE]


# Those that do not depend on the kinds.
OWN = (SCHEMAS.parent / "src" / "store" / "tables.sql").read_text()


def statements(kind, days):
    """What makes the table of a kind, with a partition for each of the days (dates)."""
    fields = "".join(f', "{name}" {type_}{" not null" if required else ""}' for name, type_, required in columns(kind))
    yield (f'create table city."{kind}" (device text not null, observed_at timestamptz not null, received_at timestamptz not null, '
           "is_late boolean not null, reading_id bigint not null, kafka_partition integer not null, kafka_offset bigint not null"
           f"{fields}, unique (device, observed_at, reading_id)) partition by range (observed_at)")
    yield f'create index on city."{kind}" using brin (received_at)'
    for day in days:
        yield (f'create table city."{kind}_{day:%Y%m%d}" partition of city."{kind}" '
               f"for values from ('{day.isoformat()} 00:00+00') to ('{day.fromordinal(day.toordinal() + 1).isoformat()} 00:00+00')")
