"""What Alertmanager sends, and what it keeps back.

  watching.py receive FILE     prints the ports of a webhook and of a mail server, and serves until it is ended
  watching.py one-cause URL    gives an Alertmanager alerts that have one cause, and fails if more is active than the cause

The receiver writes a line for each message: {"by": "webhook", "status": …, "alerts": [[name, instance, status], …]} or {"by": "mail", "subject": …,
"to": …}. What was posted to /city, which is for the city's people, is "by": "city", and has the subject where others have the instance.
"""

import http.server
import json
import socketserver
import sys
import threading
import time
import urllib.request

# Alerts of one gateway or store at once, without "Citygate", and those of them that somebody is told. Name=part has that label.
ONE_CAUSE = [
    ("Down KafkaUnavailable ReadingsBusy SpoolFilling CertificateExpiring", "Down"),
    ("KafkaUnavailable KafkaTopicMissing KafkaPartitionsWithoutLeader SpoolFilling AnswersSlow", "KafkaUnavailable"),
    # With a spool, Kafka is no reason for busy readings.
    ("KafkaUnavailable ReadingsBusy", "KafkaUnavailable ReadingsBusy"),
    ("KafkaUnavailable SpoolFullSoon SpoolFilling", "KafkaUnavailable SpoolFullSoon"),
    ("KafkaUnavailable SpoolFull SpoolFullSoon ReadingsBusy", "KafkaUnavailable SpoolFull"),
    ("KafkaTopicMissing SpoolNotDraining", "KafkaTopicMissing"),
    ("KafkaPartitionsWithoutLeader SpoolNotDraining", "KafkaPartitionsWithoutLeader"),
    ("KafkaTopicMissing SpoolFilling", "KafkaTopicMissing SpoolFilling"),
    ("ReadingsRefusedByKafka SpoolNotDraining", "ReadingsRefusedByKafka"),
    ("SpoolFailed SpoolDiskSlow SpoolDamaged Down Restarting ReadingsBusy", "SpoolFailed"),
    ("SpoolDiskSlow ReadingsBusy AnswersSlow", "SpoolDiskSlow"),
    ("DescriptorsShort ConnectionsNearLimit ConnectionsRefused ReadingsBusy", "DescriptorsShort"),
    ("ConnectionsRefused ConnectionsNearLimit", "ConnectionsRefused"),
    ("ReadingsBusy AnswersSlow", "ReadingsBusy"),
    ("DeadLettersRising DeadLettersSkipped", "DeadLettersRising"),
    ("CertificateExpired CertificateExpiring", "CertificateExpired"),
    ("StoreDown StoreBehind StoreAlertmanagerUnavailable", "StoreDown"),
    ("StoreDatabaseUnavailable StoreBehind StoreNotReading=start StoreJobsLate StoreNotComputed StoreResultsNotPublished StoreAlertmanagerUnavailable StorePartitionsUnassigned",
     "StoreDatabaseUnavailable"),
    ("StorePartitionsUnassigned StoreNotReading=start", "StoreNotReading=start"),
    # Another store has not taken over what one had that is down or missing: two things to do.
    ("StoreMissing StorePartitionsUnassigned", "StoreMissing StorePartitionsUnassigned"),
    ("StoreAbsent StoreRecordsMissed", "StoreAbsent StoreRecordsMissed"),
    ("StoreNotReading=registry StoreBehind", "StoreNotReading=registry"),
    ("StoreJobsLate StoreBehind StoreNotComputed", "StoreJobsLate StoreBehind"),
    ("StoreNotComputed StoreUndecodable", "StoreNotComputed StoreUndecodable"),
    ("StoreUndecodable StoreRecordsMissed StoreAlertmanagerUnavailable", "StoreUndecodable StoreRecordsMissed StoreAlertmanagerUnavailable"),
    # That Kafka is unavailable to gateways in rows above is no reason: it may be their network. To all of them: see the rules.
    ("StoreNotReading=kafka StoreResultsNotPublished StoreBehind StorePartitionsUnassigned", "StoreNotReading=kafka"),
    # These have causes of their own.
    ("ReadingsUnaccounted DatagramsDropped DevicesRefused IdentitiesNotReloaded", "ReadingsUnaccounted DatagramsDropped DevicesRefused IdentitiesNotReloaded"),
]

# Those that are of all gateways or stores together: they have no instance.
OF_ALL = "GatewayMissing DeadLettersRising DeadLettersSkipped DevicesRefused StoreMissing StoreAbsent StorePartitionsUnassigned StoreRecordsMissed " \
    "StoreUndecodable StoreJobsLate StoreNotComputed"

write_lock = threading.Lock()


def note(line):
    with write_lock, open(sys.argv[2], "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


class Webhook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        sent = json.loads(self.rfile.read(int(self.headers["content-length"])))
        by, of = ("city", "subject") if self.path == "/city" else ("webhook", "instance")
        alerts = [[one["labels"]["alertname"], one["labels"].get(of, ""), one["status"]] for one in sent["alerts"]]
        note({"by": by, "status": sent["status"], "alerts": alerts})
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


class Mail(socketserver.StreamRequestHandler):
    """As much of SMTP as a client needs that neither logs in nor encrypts."""

    def say(self, line):
        self.wfile.write(line.encode() + b"\r\n")

    def handle(self):
        self.say("220 mail")
        self.to = []
        for line in self.rfile:
            match line.split(None, 1)[0].upper() if line.split() else b"":
                case b"DATA":
                    self.say("354 go on")
                    self.letter()
                    self.say("250 received")
                case b"RCPT":
                    self.to.append(line.decode().split("<")[1].split(">")[0])
                    self.say("250 mail")
                case b"QUIT":
                    self.say("221 end")
                    return
                case _:
                    self.say("250 mail")

    def letter(self):
        for line in self.rfile:
            if line.rstrip(b"\r\n") == b".":
                return
            if line.lower().startswith(b"subject:"):
                note({"by": "mail", "subject": line.decode().split(":", 1)[1].strip(), "to": self.to})


def receive():
    webhook = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Webhook)
    mail = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mail)
    print(webhook.server_port, mail.server_address[1], flush=True)
    threading.Thread(target=mail.serve_forever, daemon=True).start()
    webhook.serve_forever()


def labels(text, row, instance):
    name, _, part = text.partition("=")
    made = {"alertname": f"Citygate{name}", "job": f"row-{row}"} | ({"part": part} if part else {})
    return made if name in OF_ALL.split() else made | {"instance": instance}


def identity(labels):
    return tuple(sorted(labels.items()))


def one_cause(url):
    """Each row is a gateway or store, and a job, of its own. Others of the same job have one consequence each without the cause, and so have those of
    the same name in other clusters: they keep it."""
    alerts, expected = [], []
    for row, (together, told) in enumerate(ONE_CAUSE):
        alerts += [labels(text, row, f"at-{row}") for text in together.split()]
        expected += [labels(text, row, f"at-{row}") for text in told.split()]
        for text in set(together.split()) - set(told.split()):
            others = [labels(text, row, f"at-{row}") | {"cluster": f"without all but {text}"}]
            if "instance" in others[0]:
                others.append(labels(text, row, f"beside-{row}-{text}"))
            alerts += others
            expected += others
    # Of the city: critical is told, and what it was before is not; a segment beside it is slow as well.
    for severity, subject in (("warning", "s1"), ("critical", "s1"), ("warning", "s2")):
        alerts.append({"alertname": "CityCongestion", "severity": severity, "scope": "segment", "subject": subject, "district": "north"})
    expected += alerts[-2:]
    expected = {identity(one) for one in expected}
    body = json.dumps([{"labels": labels} for labels in alerts]).encode()
    urllib.request.urlopen(urllib.request.Request(f"{url}/api/v2/alerts", body, {"content-type": "application/json"}), timeout=10).close()
    until = time.monotonic() + 10
    while True:
        with urllib.request.urlopen(f"{url}/api/v2/alerts?active=true&inhibited=false&silenced=false", timeout=10) as answer:
            active = {identity(one["labels"]) for one in json.load(answer)}
        if active == expected:
            break
        if time.monotonic() > until:
            sys.exit(f"told, though another alert is the cause: {sorted(active - expected)}; kept back: {sorted(expected - active)}")
        time.sleep(0.1)
    print(f"{len(ONE_CAUSE)} causes with {len(alerts)} alerts: {len(expected)} of them are told")


def main():
    match sys.argv[1:]:
        case ["receive", _]:
            receive()
        case ["one-cause", url]:
            one_cause(url)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
