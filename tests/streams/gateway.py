"""What a gateway makes of a reading, by the documented rules of schemas/README.md: what is left out has its default, a sentinel and what
is out of range become null with a note. Another implementation of them, for readings that are accepted.
"""

import json

import tables

NUMBERS = {"int": None, "long": None, "float": float, "double": float}


class Schema:
    def __init__(self, kind):
        schema = json.loads((tables.SCHEMAS / f"{kind}.avsc").read_text())
        self.named, self.made = tables.named_types(schema, {}), {}
        fields = [field for field in schema["fields"] if field.get("fill") != "device"]
        self.defaults = {field["name"]: field.get("default") for field in fields}
        self.values = {field["name"]: self.of(field["type"], field) for field in fields}

    def stored(self, reading):
        """The reading with all fields that a device may send, and what the gateway notes. What is nested has no nulls."""
        notes = []
        whole = self.defaults | {name: self.values[name](value, name, notes) for name, value in reading.items()}
        own = [{"source": "device"} | note for note in reading.get("quality", ())]
        whole["quality"] = own + [{"field": path, "flag": flag, "source": "gateway"} for path, flag in notes]
        return whole

    def of(self, avro, rules):
        """A function (value, path, notes) of a type; `rules`: where minimum, maximum and sentinels stand: the field, or the type."""
        if isinstance(avro, list):
            return self.of(next(branch for branch in avro if branch != "null"), rules)
        if isinstance(avro, dict) and avro["type"] in NUMBERS:
            return self.of(avro["type"], avro if "minimum" in avro else rules)
        if isinstance(avro, str) and avro in NUMBERS:
            return number(NUMBERS[avro], rules)
        if isinstance(avro, str) and avro not in self.named:
            return as_it_is
        avro = self.named[avro] if isinstance(avro, str) else avro
        if avro["type"] == "record":
            if avro["name"] not in self.made:
                self.made[avro["name"]] = record({field["name"]: self.of(field["type"], field) for field in avro["fields"]},
                                                 {field["name"]: field["default"] for field in avro["fields"] if field.get("default") is not None})
            return self.made[avro["name"]]
        if avro["type"] == "array":
            item = self.of(avro["items"], {})
            return lambda value, path, notes: [item(one, f"{path}[{at}]", notes) for at, one in enumerate(value)]
        if avro["type"] == "map":
            item = self.of(avro["values"], {})
            return lambda value, path, notes: {key: item(one, f"{path}.{key}", notes) for key, one in value.items()}
        return as_it_is


def as_it_is(value, path, notes):
    return value


def record(values, defaults):
    def nested(value, path, notes):
        if value is None:
            return None
        found = dict(defaults)
        for name, one in value.items():
            kept = values[name](one, f"{path}.{name}", notes)
            if kept is not None:
                found[name] = kept
        return found

    return nested


def number(real, rules):
    sentinels, least, most = rules.get("sentinels", ()), rules.get("minimum", float("-inf")), rules.get("maximum", float("inf"))

    def judged(value, path, notes):
        if value is None:
            return None
        if value in sentinels:
            notes.append((path, "sentinel"))
            return None
        if not least <= value <= most:
            notes.append((path, "out_of_range"))
            return None
        return real(value) if real else value

    return judged
