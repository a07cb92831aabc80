"""Poison of every kind through a worker: it lies in dead-letters with where it came from and why; the rest is well."""

import hashlib
import time
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest

from stream.core.events import SOURCES
from stream.kafka import partitioner
from stream.kafka.codec import DEAD_VALUE_BYTES_MAX, VALUE_BYTES_MAX
from stream.kafka.dead_letters import Filter
from stream.kafka.redrive import redrive
from stream.scoring.model import Model
from tests.e2e import expect
from tests.e2e.harness import Event, Place, Site
from tests.e2e.logs import shop_log, trigger
from tests.kafka.test_decode import GOOD, KEYS, NOW_MS, POISON, dump, with_


class Poison(NamedTuple):
    event: Event
    reason: str
    field: str


def poisons(partitions: int) -> list[Poison]:
    found = [Poison(Event(source, b"u1", value, NOW_MS), reason, field) for source, value, reason, field in POISON]
    found += [
        Poison(Event("clickstream", key, with_("clickstream", user_id=user), NOW_MS), reason, field)
        for key, user, reason, field in KEYS
    ]
    everywhere = [Event("clickstream", b"u1", dump(GOOD["clickstream"]), NOW_MS, p) for p in range(partitions)]
    large = with_("clickstream", page="x" * (10 << 20))
    just_too_large = with_("clickstream", page="x" * VALUE_BYTES_MAX)
    return [
        *found,
        *(Poison(event, "wrong_partition", "") for event in everywhere),
        *(Poison(Event(source, b"u1", large, NOW_MS), "value_too_large", "") for source in ("clickstream", "orders")),
        Poison(Event("clickstream", b"u1", just_too_large, NOW_MS), "value_too_large", ""),
    ]


def test_every_kind_of_poison(site: Site, model: Model, model_file: bytes) -> None:
    """Between good events; a wrong partition is one of them, so of the copies in every partition one is good."""
    draw = Random(21)
    site.publish_model(model_file, model.hex)
    good = shop_log(draw, 600, [f"user-{i}" for i in range(40)], time.time_ns() // 1_000_000, "good")
    bad = poisons(site.settings.partitions)
    log: list[tuple[Event, Poison | None]] = [(event, None) for event in good]
    for poison in bad:
        log.insert(draw.randint(0, len(log)), (poison.event, poison))
    places = site.publish([event for event, _ in log])
    with site.worker() as worker:
        site.wait_applied([worker])
        outcomes = worker.outcomes()

    wanted = {
        (site.settings.topic(source), partition, offset): poison
        for (_, poison), (source, partition, offset) in zip(log, places, strict=True)
        if poison is not None
    }
    dead = site.out("dead-letters")
    found = {(r.headers["topic"].decode(), int(r.headers["partition"]), int(r.headers["offset"])): r for r in dead}
    assert len(found) == len(dead)
    (at_home,) = set(wanted) - set(found)
    assert wanted[at_home].reason == "wrong_partition"
    assert set(found) < set(wanted)
    for place, record in found.items():
        event, reason, field = wanted[place]
        headers = {name: value.decode() for name, value in record.headers.items()}
        assert (headers["reason"], headers["field"]) == (reason, field), (place, headers, (event.value or b"")[:200])
        assert headers["detail"]
        assert int(headers["timestamp"]) == NOW_MS
        assert record.partition == place[1]
        assert record.key == event.key
        if event.value is None:
            assert record.value is None
            assert "length" not in headers
        else:
            assert record.value == event.value[:DEAD_VALUE_BYTES_MAX]
            assert int(headers["length"]) == len(event.value)
            assert headers["sha256"] == hashlib.sha256(event.value).hexdigest()
    assert {p.reason for p in wanted.values()} == {r.headers["reason"].decode() for r in found.values()}

    # published = applied + duplicate + dead; nobody else's row has suffered
    places_of_good = {place for (_, poison), place in zip(log, places, strict=True) if poison is None}
    sent = [(event, place) for event, place in site.sent if place in places_of_good]
    sent += [s for s in site.sent if (site.settings.topic(s[1][0]), *s[1][1:]) == at_home]
    past = expect.check_all(site, [model], sent)
    applied = sum(len(p.notes) + len(p.steps) for p in past.values())
    assert outcomes == {"applied": applied, "duplicate": len(sent) - applied, "fenced": 0, "dead": len(dead)}
    assert sum(outcomes.values()) == len(log)


def test_more_dead_letters_than_a_producer_holds(site: Site) -> None:
    """60 MB of them in one commit, where librdkafka queues 32."""
    bad = b"\xff" * (600 << 10)
    site.publish([Event("clickstream", f"user-{i}".encode(), bad) for i in range(120)])
    with site.worker(commit_bytes=1 << 30, commit_interval_ms=60_000, batch_bytes=1 << 28) as worker:
        site.wait_applied([worker])
        assert worker.outcomes() == {"applied": 0, "duplicate": 0, "fenced": 0, "dead": 120}
    assert len(site.out("dead-letters")) == 120


@pytest.mark.alone
def test_a_tenth_of_poison_costs_at_most_a_third_of_the_throughput(
    broker: str, topic_prefix: str, tmp_path: Path, model: Model, model_file: bytes
) -> None:
    """A backlog without and with it, each twice: the quicker time counts."""
    n = 60_000
    now_ms = time.time_ns() // 1_000_000
    users = [f"user-{i}" for i in range(2_000)]
    clean = [trigger(users[i % len(users)], f"e{i}", now_ms, product_id=f"p{i % 50}") for i in range(n)]
    small = [value for source, value, _, _ in POISON if source == "clickstream" and len(value or b"") < 5_000]
    dirty = [e._replace(value=small[i // 10 % len(small)]) if i % 10 == 0 else e for i, e in enumerate(clean)]

    def seconds(log: list[Event], name: str) -> float:
        site = Site(broker, f"{topic_prefix}{name}-", tmp_path / name)
        site.publish_model(model_file, model.hex)
        site.publish(log)
        with site.worker(decision_sample=0.01) as worker:
            worker.wait_serving()
            began_s = time.monotonic()
            site.wait_applied([worker])
            took_s = time.monotonic() - began_s
            assert worker.outcomes()["dead"] == sum(e.value in small for e in log)
        return took_s

    with_poison = min(seconds(dirty, f"dirty-{i}") for i in range(2))
    without = min(seconds(clean, f"clean-{i}") for i in range(2))
    print(f"{n} events: {without:.2f} s, with a tenth of poison {with_poison:.2f} s")
    assert with_poison < 1.5 * without


def test_redriven_events_are_applied_once(site: Site, model: Model, model_file: bytes) -> None:
    """Events in a wrong partition, and of a producer whose clock was behind, come back and count as any other."""
    draw = Random(22)
    site.publish_model(model_file, model.hex)
    now_ms = time.time_ns() // 1_000_000
    log = shop_log(draw, 400, [f"user-{i}" for i in range(30)], now_ms, "redriven")
    wrong = {i: 1 - int(partitioner.partitions([log[i].key or b""], 2)[0]) for i in range(0, 400, 5)}
    sent = [
        event._replace(partition=wrong.get(i, -1), timestamp_ms=now_ms - 10**9 if i % 7 == 0 else 0)
        for i, event in enumerate(log)
    ]
    places = site.publish(sent)
    with site.worker() as worker:
        site.wait_applied([worker])
        refused = worker.outcomes()["dead"]
        done = [redrive(site.settings, Filter(reason=reason)) for reason in ("wrong_partition", "time_range")]
        assert [redrive(site.settings, Filter()).before, sum(one.sent.total() for one in done)] == [refused, refused]
        site.wait_applied([worker])
        outcomes = worker.outcomes()
    assert refused > 100
    assert outcomes["dead"] == refused
    assert outcomes["applied"] + outcomes["duplicate"] == len(log)

    # Where each event lies that was applied: in its first place, or where it was sent again.
    bad = {i for i in range(400) if i in wrong or i % 7 == 0}
    again: list[tuple[Event, Place]] = []
    first = {(site.settings.topic(source), p, offset): i for i, (source, p, offset) in enumerate(places)}
    for source in SOURCES:
        for record in site.out(source):
            if "dead-letter" in record.headers:
                origin = (
                    record.headers["origin-topic"].decode(),
                    int(record.headers["origin-partition"]),
                    int(record.headers["origin-offset"]),
                )
                again.append((log[first[origin]], (source, record.partition, record.offset)))
    assert len(again) == len(bad) == refused
    expect.check_all(site, [model], [s for i, s in enumerate(zip(log, places, strict=True)) if i not in bad] + again)
