"""What values are, by Python alone, for src/validate/tests/python.rs.

values.py literals N    N JSON numbers and the Avro datum of each in each type of TYPES, or why there is none: exact, by decimal
values.py extremes      for each type the smallest and largest values that there are, and those beside them that there are not
values.py read          reads the data of those extremes, from standard input, by fastavro, Apache Avro and Confluent's
                        deserializer, and compares them with what was sent; exit code 77: one of these is not installed

Each line of input and output is a JSON text.
"""

import io
import json
import random
import struct
import sys
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal, getcontext
from fractions import Fraction

TYPES = ["int", "long", "float", "double", ["long", "double"], ["int", "float"]]
SEED = 20261121
MISMATCH, OUT_OF_RANGE = "schema_mismatch", "out_of_range"
INT, LONG = (-(2**31), 2**31 - 1), (-(2**63), 2**63 - 1)
getcontext().prec = 2000


# --- numbers


def is_real_literal(literal):
    return any(character in literal for character in ".eE")


def zigzag(value):
    rest, out = (value << 1) ^ (value >> 63), bytearray()
    while rest >= 0x80:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*out, rest])


def as_integer(exact, bounds):
    """The datum of an int or long, or why there is none."""
    if exact != exact.to_integral_value():
        return MISMATCH
    if exact and exact.adjusted() > 30:
        return OUT_OF_RANGE
    lowest, highest = bounds
    return zigzag(int(exact)) if lowest <= int(exact) <= highest else OUT_OF_RANGE


def as_real(exact, form, precision, smallest, end):
    """The nearest binary number of so many bits (half to even), a multiple of 2**smallest, below 2**end; little endian."""
    if exact and exact.adjusted() > 400:
        return OUT_OF_RANGE
    magnitude = Fraction(abs(exact)) if exact and exact.adjusted() > -400 else Fraction(0)
    if magnitude:
        exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
        if magnitude < Fraction(2) ** exponent:
            exponent -= 1
        quantum = Fraction(2) ** max(exponent - precision + 1, smallest)
        magnitude = round(magnitude / quantum) * quantum
    if magnitude >= 2**end:
        return OUT_OF_RANGE
    return struct.pack(form, -float(magnitude) if exact.is_signed() else float(magnitude))


def as_type(kind, literal, exact):
    if isinstance(kind, list):
        whole, real = kind
        bounds = {"int": INT, "long": LONG}[whole]
        is_whole = not is_real_literal(literal) and bounds[0] <= exact <= bounds[1]
        datum = as_type(whole if is_whole else real, literal, exact)
        return datum if isinstance(datum, str) else zigzag(0 if is_whole else 1) + datum
    if kind == "int":
        return as_integer(exact, INT)
    if kind == "long":
        return as_integer(exact, LONG)
    if kind == "float":
        return as_real(exact, "<f", 24, -149, 128)
    return as_real(exact, "<d", 53, -1074, 1024)


def halfway(chance):
    """Halfway between two floats or doubles, or a little beside it: more digits than any of them has."""
    form, bits = chance.choice([("<f", "<I"), ("<d", "<Q")])
    size = struct.calcsize(form)
    low = chance.randrange(1, {4: 0x7F7FFFFF, 8: 0x7FEFFFFFFFFFFFFF}[size])
    one, other = (Decimal(struct.unpack(form, struct.pack(bits, at))[0]) for at in (low, low + 1))
    middle = (one + other) / 2
    nudge = Decimal((0, (1,), middle.adjusted() - chance.randrange(20, 60)))
    return str(chance.choice([middle, middle + nudge, middle - nudge, one]))


def written(chance):
    """Any digits, a point or none, an exponent or none."""
    digits = "".join(chance.choices("0123456789", k=chance.choice([1, 2, 3, 5, 9, 10, 17, 18, 19, 20, 25, 40])))
    digits = digits.rstrip("0") + "0" * chance.choice([0, 0, 1, 2, 5, 20])
    at = chance.randrange(len(digits) + 1)
    whole, fraction = (digits[:at].lstrip("0") or "0"), digits[at:]
    exponent = chance.choice([0, 1, 5, 19, 40, 330, 10**17]) * chance.choice([-1, 1])
    exponent += chance.randrange(-3, 4)
    shown = chance.choice(["", "", f"e{exponent}", f"E{exponent:+}", f"e{len(fraction)}"])
    return whole + ("." + fraction if fraction and chance.random() < 0.8 else "") + shown


def near_a_bound(chance):
    value = chance.choice([2**31, 2**53, 2**63, 2**64, 0]) + chance.randrange(-3, 4)
    text = str(abs(value))
    zeros = "0" * chance.randrange(1, 25)
    cut = chance.randrange(len(text))
    return chance.choice(
        [
            text,
            text + "." + zeros,
            (text + zeros if value else text) + f"e-{len(zeros)}",
            text + "." + zeros + "1",
            (text[:cut] or "0") + "." + text[cut:] + f"e{len(text) - cut}",
            text + "e0",
        ]
    )


def literals(count):
    chance = random.Random(SEED)
    seen = {"0", "-0", "0.0", "-0.0", "0e0", "-0e5", "-1e-400", "1e400", "3.4028235e38", "1.7976931348623159e308"}
    seen.add("1.00000005960464477539062500000000000001")
    while len(seen) < int(count):
        literal = chance.choice([halfway, written, near_a_bound])(chance)
        seen.add(chance.choice(["", "-"]) + literal.replace("E+", chance.choice(["E+", "e"])))
    for literal in sorted(seen):
        assert float(json.loads(literal)) == float(literal), literal  # it is JSON
        exact = Decimal(literal)
        data = [as_type(kind, literal, exact) for kind in TYPES]
        double = data[TYPES.index("double")]
        assert double == OUT_OF_RANGE or double == struct.pack("<d", float(literal)), literal
        data = [datum if isinstance(datum, str) else datum.hex() for datum in data]
        print(json.dumps({"literal": literal, "data": dict(zip(map(json.dumps, TYPES), data))}))


# --- extremes, and who reads them

EPOCH = datetime(1970, 1, 1)
UNITS = {"millis": 10**3, "micros": 10**6, "nanos": 10**9}


def since_epoch(moment, per_second):
    return (moment - EPOCH) // timedelta(microseconds=1) * per_second // 10**6


def logical(kind, name):
    return {"type": kind, "logicalType": name}


def extremes():
    def say(kind, accepted, refused):
        print(json.dumps({"type": kind, "accepted": list(map(str, accepted)), "refused": list(map(str, refused))}))

    def whole(kind, lowest, highest, texts=(), no_texts=()):
        say(kind, [lowest, highest, 0, f"{highest}.0", *map(json.dumps, texts)],
            [lowest - 1, highest + 1, *map(json.dumps, no_texts)])  # fmt: skip

    whole("int", *INT)
    whole("long", *LONG)
    largest = struct.unpack("<f", struct.pack("<I", 0x7F7FFFFF))[0]
    say("float", [largest, -largest, "3.4028235e38", "1e-45", "-1e-46", "-0.0"], [2.0**128, "-3.4028236e38", "1e39"])
    say("double", [sys.float_info.max, -sys.float_info.max, "5e-324", "-1e-400", "-0"], ["1.7976931348623159e308", "-1e309"])
    whole(logical("int", "date"), *((day.toordinal() - EPOCH.toordinal()) for day in (date.min, date.max)))
    whole(logical("int", "time-millis"), 0, 24 * 3600 * 10**3 - 1)
    whole(logical("long", "time-micros"), 0, 24 * 3600 * 10**6 - 1)
    for unit, per_second in UNITS.items():
        lowest, highest = (since_epoch(moment, per_second) for moment in (datetime.min, datetime.max))
        texts = ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"]
        if unit == "nanos":
            (lowest, highest), texts = LONG, ["1677-09-21T00:12:43.145224192Z", "2262-04-11T23:47:16.854775807Z"]
        no_texts = ["0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01"]
        whole(logical("long", f"timestamp-{unit}"), lowest, highest, texts, no_texts)
        whole(logical("long", f"local-timestamp-{unit}"), lowest, highest, (), texts)


def expected(kind, literal):
    """What was sent, and all that a reader may show of it: the number, or the date or time that it stands for."""
    name = kind.get("logicalType", "") if isinstance(kind, dict) else kind
    sent = json.loads(literal, parse_float=Decimal)
    if name == "float":
        return [struct.unpack("<f", as_type("float", literal, Decimal(literal)))[0]]
    if name == "double":
        return [float(literal)]
    if isinstance(sent, str):
        day, fraction = (sent.rstrip("Z") + ".").rstrip(".").partition(".")[::2]
        seconds = (datetime.fromisoformat(day) - EPOCH) // timedelta(seconds=1)
        per_second = UNITS[name.rpartition("-")[2]]
        sent = seconds * per_second + int(fraction.ljust(9, "0")) * per_second // 10**9
    sent = int(sent)
    if name == "date":
        return [sent, date.fromordinal(sent + EPOCH.toordinal())]
    if name.startswith("time-"):
        micros = sent * 10**6 // UNITS[name.rpartition("-")[2]]
        return [sent, (datetime.min + timedelta(microseconds=micros)).time()]
    if "timestamp-" in name:
        moment = EPOCH + timedelta(microseconds=sent * 10**6 // UNITS[name.rpartition("-")[2]])
        return [sent, moment if name.startswith("local-") else moment.replace(tzinfo=timezone.utc)]
    return [sent]


def readers():
    """Each reader: a schema's text to a function of a datum."""
    import avro.io
    import avro.schema
    import fastavro
    from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
    from confluent_kafka.schema_registry.avro import AvroDeserializer
    from confluent_kafka.serialization import MessageField, SerializationContext

    def of_fastavro(schema):
        parsed = fastavro.parse_schema(json.loads(schema))
        return lambda datum: fastavro.schemaless_reader(io.BytesIO(datum), parsed)

    def of_apache(schema):
        reader = avro.io.DatumReader(avro.schema.parse(schema))
        return lambda datum: reader.read(avro.io.BinaryDecoder(io.BytesIO(datum)))

    registry = SchemaRegistryClient.new_client({"url": "mock://values"})

    def of_confluent(schema):
        number = registry.register_schema("values-value", Schema(schema, "AVRO"))
        deserializer = AvroDeserializer(registry)
        context = SerializationContext("values", MessageField.VALUE)
        return lambda datum: deserializer(b"\0" + struct.pack(">I", number) + datum, context)

    return {"fastavro": of_fastavro, "Apache Avro": of_apache, "Confluent": of_confluent}


def read():
    try:
        known = readers()
    except ModuleNotFoundError as missing:
        print(missing, file=sys.stderr)
        sys.exit(77)
    count = 0
    for line in map(json.loads, sys.stdin):
        schema, literal, datum = line["schema"], line["literal"], bytes.fromhex(line["datum"])
        kind = json.loads(schema)["fields"][0]["type"]
        wanted = expected(kind, literal)
        for name, reader in known.items():
            got = reader(schema)(datum)["x"]
            if isinstance(got, datetime) and got.tzinfo and not got.utcoffset():
                got = got.replace(tzinfo=timezone.utc)  # Apache Avro has a UTC of its own
            # As text, so that -0.0 is not 0.0, nor True 1, nor a local time one of UTC.
            assert repr(got) in map(repr, wanted), f"{name}, {kind}, {literal}: {got!r}, expected one of {wanted}"
            count += 1
    print(f"{count} values read by {', '.join(known)}")


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    {"literals": literals, "extremes": extremes, "read": read}[command](*arguments)
