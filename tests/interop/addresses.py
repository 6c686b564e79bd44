"""The Python half of tests/interop/addresses.sh: connected sockets, which take no datagram from another address.

addresses.py ready               waits until the gateway accepts readings
addresses.py ask ADDRESS...      a confirmable and a non-confirmable reading to each; requires 2.04 from that address
addresses.py many ADDRESS...     readings, a ping and nonsense to multicast or broadcast addresses: requires silence, and
                                 an answer to a discovery only
addresses.py judge COUNT MANY    requires that the gateway has accepted so many readings, each once, and left so many
                                 multicast datagrams unanswered
"""

import json
import random
import select
import socket
import sys
import time
import urllib.request

PORT, ADMIN = 5683, "http://127.0.0.1:9464"
CON, NON = 0x40, 0x50
GET, POST, CHANGED, CONTENT = 0x01, 0x02, 0x44, 0x45
READING = b'{"temperature_c":21.5}'
TIMEOUT = 10


def option(delta, value):
    assert delta < 13 and len(value) < 269, "longer forms are not needed here"
    length = bytes([delta << 4 | len(value)]) if len(value) < 13 else bytes([delta << 4 | 13, len(value) - 13])
    return length + value


def message(kind, code, path, query=b"", payload=b""):
    """A request with a token of two bytes, which is its message id, too."""
    name = random.randbytes(2)
    options, delta = b"", 11
    for segment in path.split("/"):
        options += option(delta, segment.encode())
        delta = 0
    if query:
        options += option(15 - 11, query)
    return bytes([kind | 2, code]) + name + name + options + (b"\xff" + payload if payload else b"")


def socket_to(address):
    host, _, scope = address.strip("[]").partition("%")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    one = socket.socket(family, socket.SOCK_DGRAM)
    target = (host, PORT) if family == socket.AF_INET else (host, PORT, 0, socket.if_nametoindex(scope) if scope else 0)
    return one, target


def ask(*addresses):
    for address in addresses:
        for kind, name in ((CON, "con"), (NON, "non")):
            one, target = socket_to(address)
            one.connect(target)
            one.settimeout(TIMEOUT)
            request = message(kind, POST, f"devices/{name}/weather", payload=READING)
            one.send(request)
            try:
                answer = one.recv(2048)
            except TimeoutError:
                sys.exit(f"{address}, {name}: no answer from this address within {TIMEOUT} s")
            assert answer[1] == CHANGED and answer[4:6] == request[4:6], f"{address}, {name}: {answer.hex()}"
        print(f"ok  a connected socket, {address}")


def many(*addresses):
    discovery = message(NON, GET, ".well-known/core", query=b"rt=citygate.weather")
    silent = [
        message(CON, POST, "devices/many/weather", payload=READING),
        message(NON, POST, "devices/many/weather", payload=READING),
        bytes([CON, 0, 1, 2]),
        bytes([CON, POST, 1, 2, 0xFF]),
    ]
    waiting, started = {}, time.monotonic()
    for address in addresses:
        one, target = socket_to(address)
        if one.family == socket.AF_INET:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            # Both have no route here.
            one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"city")
        for datagram in silent + [discovery]:
            one.sendto(datagram, target)
        waiting[one] = address
    while waiting:
        ready, _, _ = select.select(list(waiting), [], [], TIMEOUT)
        assert ready, f"no answer to a discovery within {TIMEOUT} s: {list(waiting.values())}"
        for one in ready:
            answer, sender = one.recvfrom(2048)
            address = waiting.pop(one)
            assert answer[0] >> 4 == NON >> 4 and answer[1] == CONTENT, f"{address}: {answer.hex()}"
            assert answer[4:6] == discovery[4:6], f"{address}: {answer.hex()}"
            print(f"ok  {address}: only the discovery is answered, by {sender[0]}")
    assert time.monotonic() - started < 6, "the leisure is 5 s"


def fetch(path):
    with urllib.request.urlopen(ADMIN + path, timeout=5) as response:
        return response.read().decode()


def ready():
    deadline = time.monotonic() + 30
    while True:
        try:
            return fetch("/readyz")
        except OSError:
            assert time.monotonic() < deadline, "the gateway is not ready"
            time.sleep(0.1)


def judge(count, multicast):
    status = json.loads(fetch("/status"))
    readings = status["readings"]["coap"]
    assert readings["received"] == readings["spooled"] == int(count), f"expected {count}, got {readings}"
    assert status["coap"]["own_addresses_failed"] == 0, status["coap"]
    ignored = 'citygate_coap_datagrams_ignored_total{reason="multicast"}'
    found = [line.split()[-1] for line in fetch("/metrics").splitlines() if line.startswith(ignored)]
    assert found == [multicast], f"expected {multicast} multicast datagrams left unanswered, got {found}"
    print(f"ok  {count} readings in the spool, each once; {multicast} multicast datagrams without answer")


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    {"ready": ready, "ask": ask, "many": many, "judge": judge}[command](*arguments)
