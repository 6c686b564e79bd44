"""The Python half of tests/interop/run.sh: two clients that nobody here wrote, and fastavro as the judge of the values.

check.py free-ports N           N free ports of loopback, on one line
check.py send MQTT COAP         sends with paho and aiocoap; prints DEVICE, KIND and BODY of each, separated by tabs
check.py verify FOLDER SCHEMAS  compares FOLDER/sent with the records kcat wrote to FOLDER/<topic>.records
"""

import asyncio
import io
import json
import logging
import socket
import sys
import time
from pathlib import Path

READINGS = {
    "traffic": {"vehicle_count": 7, "speed_kmh": 130.25, "sequence": 1, "classes": {"truck": 7}},
    "weather": {"temperature_c": 0, "pressure_hpa": 1013.25, "wind_direction_deg": 359.9, "status": "degraded"},
    "energy": {"energy_import_kwh": 1.5, "phases": [{"phase": "L1", "current_a": 2.392}], "frequency_hz": 50},
}
BAD = b'{"temperature_c": "warm"}'


def free_ports(count):
    held = []
    for _ in range(int(count)):
        held.append(socket.socket())
        held[-1].bind(("127.0.0.1", 0))
    print(*(one.getsockname()[1] for one in held))


def say(text):
    print(text, file=sys.stderr)  # standard output is the list of what was sent


def publish_with_paho(port, version, device):
    import paho.mqtt.client as mqtt

    reasons = {}
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=device, protocol=version)
    client.on_publish = lambda client, userdata, mid, reason, properties: reasons.update({mid: (reason, properties)})
    connacks = []
    client.on_connect = lambda client, userdata, flags, reason, properties: connacks.append((reason, properties))
    # Neither a retained will nor a retained publish is refused, so CONNACK must not deny them.
    client.will_set(f"devices/{device}/weather", b"{}", qos=1, retain=True)
    client.connect("127.0.0.1", port)
    client.loop_start()
    asked = {}
    for qos in (1, 2):
        for kind, reading in READINGS.items():
            asked[client.publish(f"devices/{device}-{qos}/{kind}", json.dumps(reading), qos=qos, retain=True).mid] = "Success"
            print(f"{device}-{qos}", kind, json.dumps(reading), sep="\t")
    # MQTT 3.1.1 has no word for no: it is acknowledged once it is safe in the dead-letter topic.
    refused = "Payload format invalid" if version == mqtt.MQTTv5 else "Success"
    asked[client.publish(f"devices/bad-{device}/weather", BAD, qos=1).mid] = refused
    deadline = time.monotonic() + 20
    while len(reasons) < len(asked):
        assert time.monotonic() < deadline, f"{device}: {len(asked) - len(reasons)} publishes are not acknowledged"
        time.sleep(0.01)
    client.disconnect()
    client.loop_stop()
    [(reason, properties)] = connacks
    assert str(reason) == "Success" and getattr(properties, "RetainAvailable", 1) == 1, (reason, properties)
    for mid, expected in asked.items():
        reason, properties = reasons[mid]
        assert str(reason) == expected, f"{device}: expected {expected}, got {reason}"
        if expected != "Success":
            assert "temperature_c" in properties.ReasonString, properties
    say(f"ok  paho, {device}, QoS 1 and 2, retained")


async def post_with_aiocoap(port):
    import aiocoap

    client = await aiocoap.Context.create_client_context()
    base = f"coap://127.0.0.1:{port}/devices"

    async def post(device, kind, payload, options={}, **more):
        request = aiocoap.Message(code=aiocoap.POST, uri=f"{base}/{device}/{kind}", payload=payload, **more)
        request.opt.content_format = aiocoap.numbers.ContentFormat.JSON
        for name, value in options.items():
            setattr(request.opt, name, value)
        # Options are left as they are here: by itself it would send what is large in blocks.
        return await asyncio.wait_for(client.request(request, handle_blockwise=not options).response, 20)

    for device, more in {"aiocoap-con": {}, "aiocoap-non": {"transport_tuning": aiocoap.Unreliable}}.items():
        for kind, reading in READINGS.items():
            response = await post(device, kind, json.dumps(reading).encode(), **more)
            assert response.code == aiocoap.CHANGED, response
            print(device, kind, json.dumps(reading), sep="\t")
        say(f"ok  {device}")
    # RFC 7959: the whole body in one block, blocks of at most 64 bytes for the response; then a body that is too large.
    for number, options in enumerate([{"block1": (0, False, 6)}, {"block2": (0, False, 2)}]):
        device, body = f"aiocoap-block-{number}", json.dumps(READINGS["weather"])
        response = await post(device, "weather", body.encode(), options)
        assert response.code == aiocoap.CHANGED, response
        acknowledged = response.opt.block1
        assert (acknowledged is not None) == ("block1" in options), acknowledged
        print(device, "weather", body, sep="\t")
    response = await post("large-aiocoap", "weather", b" " * 3000, {"block2": (0, False, 6)})
    assert response.code == aiocoap.REQUEST_ENTITY_TOO_LARGE and 1900 < response.opt.size1 < 2048, response
    listed = []
    for options in ({}, {"block2": (0, False, 1)}):
        request = aiocoap.Message(code=aiocoap.GET, uri=f"coap://127.0.0.1:{port}/.well-known/core")
        if options:
            request.opt.block2 = options["block2"]
        listed.append((await asyncio.wait_for(client.request(request).response, 20)).payload)
    assert listed[0] == listed[1] and b"citygate.weather" in listed[0], listed
    say("ok  aiocoap, Block1 with a whole body, Block2, Size1")
    response = await post("bad-aiocoap", "weather", BAD)
    assert str(response.code).startswith("4.22") and b"temperature_c" in response.payload, response
    say("ok  aiocoap is told why not")
    await client.shutdown()


def send(mqtt_port, coap_port):
    import paho.mqtt.client as mqtt

    logging.getLogger("coap").setLevel(logging.WARNING)
    publish_with_paho(int(mqtt_port), mqtt.MQTTv311, "paho-311")
    publish_with_paho(int(mqtt_port), mqtt.MQTTv5, "paho-5")
    asyncio.run(post_with_aiocoap(int(coap_port)))


def records(path):
    """What kcat wrote with the format '%K %S\\n%k%s': lengths of key and value, then both."""
    data = io.BytesIO(path.read_bytes())
    while line := data.readline():
        key, value = (max(int(length), 0) for length in line.split())
        yield data.read(key).decode(), data.read(value)


def said(value):
    """Without what says nothing, as a device leaves it out: null, [] and {}."""
    if isinstance(value, dict):
        return {name: said(one) for name, one in value.items() if one not in (None, [], {})}
    return [said(one) for one in value] if isinstance(value, list) else value


def read_kind(folder, schemas, kind):
    """The readings of a topic: fastavro checks the schema's fingerprint, then decodes."""
    from fastavro import parse_schema, schemaless_reader
    from fastavro.schema import fingerprint, to_parsing_canonical_form

    definition = json.loads((schemas / f"{kind}.avsc").read_text())
    expected = bytes.fromhex(fingerprint(to_parsing_canonical_form(definition), "CRC-64-AVRO"))
    schema = parse_schema(definition)
    for device, value in records(folder / f"{kind}.records"):
        assert value[:2] == b"\xc3\x01", f"{device}: not the single-object encoding: {value[:10].hex()}"
        assert value[2:10] == expected, f"{kind}: fingerprint {value[2:10].hex()}, fastavro says {expected.hex()}"
        datum = io.BytesIO(value[10:])
        reading = schemaless_reader(datum, schema)
        assert not datum.read(1), f"{device}: bytes behind the datum"
        yield device, reading


def verify(folder, schemas):
    folder, schemas = Path(folder), Path(schemas)
    sent = [line.split("\t") for line in (folder / "sent").read_text().splitlines()]
    for kind in READINGS:
        readings = list(read_kind(folder, schemas, kind))
        arrived = dict(readings)
        assert len(arrived) == len(readings), f"{kind}: a reading came twice"
        expected = {device: json.loads(body) for device, of, body in sent if of == kind}
        assert arrived.keys() == expected.keys(), f"{kind}: {arrived.keys() ^ expected.keys()}"
        for device, reading in arrived.items():
            assert reading.pop("device") == device
            assert reading.pop("received_at") == reading.pop("observed_at"), "a device without a clock gets ours"
            assert said(reading) == expected[device], f"{device}: sent {expected[device]}, arrived {said(reading)}"
        print(f"ok  kcat and fastavro: {len(arrived)} readings of {kind}, equal and keyed by device")
    letters = sorted(device for device, _ in records(folder / "dead-letter.records"))
    by_http = ["bad-curl", "bad-curl-batch"]
    expected = ["bad-aiocoap", *by_http, "bad-libcoap", "bad-mosquitto", "bad-paho-311", "bad-paho-5", "curl-batch"]
    # What each of the three bridges publishes about itself, to $SYS/broker/connection/…/state, names no device.
    expected = ["", "", "", *expected]
    assert letters == expected, letters
    print(f"ok  kcat: {len(letters)} dead letters")


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    {"free-ports": free_ports, "send": send, "verify": verify}[command](*arguments)
