"""What is computed in SQL, against a synthetic city whose ledger knows what is true; see sql.sh.

  streams.py URL [SEED]
"""

import collections
import datetime
import math
import random
import sys
import time

import city
import decisions
import expected
from database import KINDS, Database

MERGE = datetime.timedelta(minutes=20)


def main(url, seed):
    began = time.monotonic()
    print(f"seed {seed}")
    ledger = city.build(seed)
    days = [(city.START + datetime.timedelta(days=day)).date() for day in range(-1, city.DAYS + 2)]
    end = city.END
    counts = {kind: len(ledger.readings[kind]) for kind in KINDS}
    print(f"{len(ledger.devices)} devices, readings {counts}, late {sum(r['is_late'] for kind in KINDS for r in ledger.readings[kind])}")

    by_time = Database(url, days)
    by_time.insert_devices(ledger.devices)
    in_time(by_time, ledger, end, seed)
    print(f"in the order of time: {time.monotonic() - began:.1f} s")
    first = by_time.results()
    compare_aggregates(by_time, ledger)
    grade(by_time, ledger)
    decisions.check(by_time, ledger)
    again(by_time, first)
    at_once(url, days, ledger, end, seed, first)
    print(f"all in {time.monotonic() - began:.1f} s")


def in_time(database, ledger, end, seed):
    """In batches by receipt, shuffled, some of it twice; after each what is complete is computed. On the last day at moments at which
    alerts have been raised, and not cleared yet."""
    chance = random.Random(seed)
    database.execute("update city.threshold set value = 43200 where name = 'compute.chunk'")
    last = city.DAYS - 1
    ends = [city.at(day, hour) for day in range(last) for hour in (12, 24)]
    ends += [city.at(last, *time) for time in ((8, 40), (9, 30), (11, 20), (12, 0), (13, 20), (14, 0))] + [end]
    for from_at, to_at in zip([city.START, *ends], ends):
        for kind in KINDS:
            batch = [reading for reading in ledger.readings[kind] if from_at <= reading["received_at"] < to_at]
            batch += chance.sample(batch, len(batch) // 20)
            chance.shuffle(batch)
            for half in (batch[::2], batch[1::2]):
                database.store(kind, half, to_at)
        database.run_jobs()


def at_once(url, days, ledger, end, seed, first):
    """The other order: all of it shuffled, and computed in one go."""
    database = Database(url, days)
    database.insert_devices(ledger.devices)
    chance = random.Random(seed + 1)
    for kind in KINDS:
        batch = list(ledger.readings[kind])
        chance.shuffle(batch)
        database.store(kind, batch, end)
    database.execute("update city.threshold set value = 28800 where name = 'compute.chunk'")
    database.run_jobs()
    same(first, database.results(), "in another order")
    print("ok     the same rows in another order, computed in pieces of another size")


def again(database, first):
    """Nothing is due: nothing changes. Many minutes are due: nothing changes either, and nothing is published."""
    published = database.one("select max(id) from city.outbox")
    database.run_jobs()
    for kind in KINDS:
        database.execute(f"insert into city.window_due select distinct '{kind}', device, city.floor_minute(observed_at) from city.{kind} where not is_late order by 3, 2 limit 800")
    database.run_jobs()
    assert database.one("select count(*) from city.window_due") == 0
    same(first, database.results(), "computed again")
    assert database.one("select max(id) from city.outbox") == published, "published again without a change"
    print("ok     computed twice: the same rows, and nothing published")


def same(first, second, what):
    for table, rows in first.items():
        if rows != second[table]:
            ours, theirs = collections.Counter(map(str, rows)), collections.Counter(map(str, second[table]))
            for row in sorted((ours - theirs))[:5]:
                print("only first: ", row)
            for row in sorted((theirs - ours))[:5]:
                print("only second:", row)
            raise SystemExit(f"FAILED {what}: {table} differs, {len(rows)} and {len(second[table])} rows")


def compare_aggregates(database, ledger):
    for width, table in ((expected.MINUTE, "aggregate_1m"), (expected.QUARTER, "aggregate_15m")):
        for kind in KINDS:
            closed = database.one("select computed_until from city.computed where kind = %s", kind)
            wanted = expected.aggregates(ledger, kind, closed, width)
            found = {row[:4]: row[4:] for row in database.rows(
                f"select scope, id, window_start, measure, value, readings, devices from city.{table} where kind = %s and value is not null", kind)}
            wrong = [(key, wanted.get(key), found.get(key)) for key in wanted.keys() | found.keys() if not alike(wanted.get(key), found.get(key), key[3])]
            for row in sorted(wrong, key=str)[:10]:
                print("differs:", row)
            if wrong or not wanted:
                raise SystemExit(f"FAILED {table} of {kind}: {len(wrong)} of {len(wanted)} rows differ")
            print(f"ok     {table} of {kind}: {len(wanted)} rows equal to an independent computation")


def alike(one, other, measure):
    if one is None or other is None or one[1:] != other[1:]:
        return False
    if measure == "wind_direction_deg":
        return abs((one[0] - other[0] + 180) % 360 - 180) < 1e-6
    return math.isclose(one[0], other[0], rel_tol=1e-9, abs_tol=1e-6)


def grade(database, ledger):
    """Precision and recall by episodes: found and true of one device and kind of anomaly meet if their times overlap."""
    found = collections.defaultdict(list)
    for anomaly, device, from_at, to_at in database.rows("select anomaly, device, observed_from, coalesce(observed_to, 'infinity'::timestamptz - interval '1 day') from city.anomaly where not withdrawn and observed_to is not null"):
        found[anomaly].append((device, from_at, to_at))
    true, every = collections.defaultdict(list), collections.defaultdict(list)
    for label in ledger.labels:
        true[label.anomaly].append((label.device, label.from_at, label.to_at))
        every[label.device].append((label.from_at, label.to_at))
    failed = []
    for anomaly in sorted(true):
        meets = lambda a, b: a[0] == b[0] and a[1] - MERGE <= b[2] and b[1] - MERGE <= a[2]
        caught = sum(any(meets(one, other) for other in found[anomaly]) for one in true[anomaly])
        # An unusual quarter of an hour may be what another injected fault did to its mean.
        right = [one for one in found[anomaly] if any(meets(one, other) for other in true[anomaly])
                 or anomaly == "profile" and any(meets(one, (one[0], *times)) for times in every[one[0]])]
        precision, recall = len(right) / max(1, len(found[anomaly])), caught / len(true[anomaly])
        print(f"ok     {anomaly}: precision {precision:.3f}, recall {recall:.3f} of {len(true[anomaly])} injected")
        if precision < 0.95 or recall < 0.9:
            failed.append(anomaly)
            print("   wrong:", [one for one in found[anomaly] if one not in right][:8])
            print("   missed:", [one for one in true[anomaly] if not any(meets(one, other) for other in found[anomaly])][:8])
    if failed:
        raise SystemExit(f"FAILED precision and recall of {failed}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 18)
