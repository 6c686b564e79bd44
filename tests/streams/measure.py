"""What storing and computing cost, per reading; see measure.sh, which starts the servers.

CPU time is that of the processes themselves, so that it says the same on a busy machine.
"""

import argparse
import os

from measure_live import live
from measure_queries import queries
from measure_store import sink, store
from processes import load
from surroundings import City

PARTS = {"store": store, "sink": sink, "queries": queries, "live": live}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=list(PARTS))
    for name in ("citygate", "simulators", "kafka", "registry", "database", "work", "connect", "sql"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("numbers", nargs="*")
    given = parser.parse_args()
    city = City(given)
    print(f"{given.part}: {os.cpu_count()} cores, load {load():.0f}", flush=True)
    PARTS[given.part](city, given)


if __name__ == "__main__":
    main()
