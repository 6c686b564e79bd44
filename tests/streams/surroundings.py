"""Where measure.py measures: servers that measure.sh has started, and citygate's processes on them."""

import atexit
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import time
import urllib.error
import urllib.request

import psycopg

from processes import end

ROOT = pathlib.Path(__file__).resolve().parents[2]
KINDS = ("traffic", "weather", "energy")


class City:
    def __init__(self, given):
        self.given, self.work = given, pathlib.Path(given.work)
        self.http, self.store_port = os.environ["MEASURE_PORT"], os.environ["MEASURE_PORT_2"]
        kafka = pathlib.Path(os.environ["KAFKA_DATA"], "pid")
        self.kafka_pid = int(kafka.read_text()) if kafka.exists() else 0
        self.postgres_pid = int(pathlib.Path(os.environ["POSTGRES_DATA"], "db", "postmaster.pid").read_text().split()[0])
        self.database = psycopg.connect(given.database, autocommit=True)
        (self.work / "nothing").mkdir(exist_ok=True)

    def sql(self, text, *parameters):
        return self.database.execute(text, parameters or None)

    def one(self, text, *parameters):
        return self.sql(text, *parameters).fetchone()[0]

    def config(self, name, sql_folder, kinds=KINDS):
        """A configuration file."""
        topics = (ROOT / "deploy/kafka/topics.toml").read_text().replace("replication = 3", "replication = 1").replace("min_insync_replicas = 2", "min_insync_replicas = 1")
        (self.work / "topics.toml").write_text(topics.replace("partitions = 6", "partitions = 3"))
        path = self.work / f"{name}.toml"
        path.write_text(f"""state_dir = "{self.work}/state-{name}"
mqtt.enabled = false
coap.enabled = false
admin.enabled = false
http.listen = "127.0.0.1:{self.http}"
http.allow_anonymous = true
schemas.folder = "{ROOT}/schemas"
schemas.kinds = {json.dumps(kinds)}
registry.url = "{self.given.registry}"
kafka.bootstrap_servers = "{self.given.kafka}"
kafka.topics_file = "{self.work}/topics.toml"
[store]
database_url = "{self.given.database}"
listen = "127.0.0.1:{self.store_port}"
group = "{name}"
instance = "store-0"
sql_folder = "{sql_folder}"
""")
        return path

    def citygate(self, *arguments):
        subprocess.run([self.given.citygate, *arguments], check=True, stdout=subprocess.DEVNULL)

    def start(self, what, config):
        log = open(self.work / f"{what}.log", "ab")
        process = subprocess.Popen([self.given.citygate, what, "--config", config], stdout=log, stderr=log)
        atexit.register(end, process)
        return process

    def fleet(self, rate, seconds, connections):
        # A request at a time on each connection: enough of them that none is waited for.
        return [self.given.simulators, "load", "--http", f"127.0.0.1:{self.http}", "--rate", f"{rate:.0f}", "--seconds", f"{seconds:.0f}",
                "--connections", str(connections), "--first-device", "0", "--ramp", "10s", "--timeout", "60s", "--json"]

    def await_answer(self, process, port):
        """Until something answers there over HTTP, whatever it says."""
        until = time.monotonic() + 180
        while process.poll() is None and time.monotonic() < until:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10).close()
                return
            except urllib.error.HTTPError:
                return
            except OSError:
                time.sleep(0.2)
        sys.exit(f"FAILED nothing answers on port {port}; MEASURE_KEEP keeps the logs")

    def metrics(self):
        found = {}
        with contextlib.suppress(OSError):
            for line in urllib.request.urlopen(f"http://127.0.0.1:{self.store_port}/metrics", timeout=10).read().decode().splitlines():
                if not line.startswith("#"):
                    name, _, value = line.rpartition(" ")
                    found[name.partition("{")[0]] = found.get(name.partition("{")[0], 0) + float(value)
        return found

    def until_stored(self, count, seconds):
        """Waits until so many rows are stored, or so long; how many are."""
        until, rows = time.monotonic() + seconds, 0
        while rows < count and time.monotonic() < until:
            time.sleep(0.2)
            rows = int(self.metrics().get("citygate_store_rows_total", rows))
        return rows
