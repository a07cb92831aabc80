"""What is published in a schedule, and the verdict on what came of it."""

import functools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

from prometheus_client import CollectorRegistry

from stream.campaigns.control import compile_campaigns
from stream.core.events import SOURCES
from stream.core.row import unpack
from stream.kafka import applied
from stream.kafka.control import InForce
from stream.kafka.partitioner import partitions
from stream.metrics import Metrics
from stream.scoring.scorer import Scorer
from stream.settings import Settings
from tests.core import oracle
from tests.e2e import expect, logs
from tests.e2e.harness import Event, Place, Read, Site
from tests.faults.shop import ALWAYS
from tests.simulation.broker import Broker

NOW_MS = 1_760_000_000_000
USERS = [f"user-{i}" for i in range(6)]
METRICS = Metrics(CollectorRegistry())
IN_FORCE = InForce(Scorer(), compile_campaigns({"always": json.dumps(ALWAYS).encode()})[0])
assert IN_FORCE.campaigns.campaigns


class Log(NamedTuple):
    """Which log is published."""

    seed: int
    events: int
    partitions: int


class Published(NamedTuple):
    """A record as a consumer hands it on."""

    key: bytes | None
    value: bytes | None
    offset: int
    timestamp: int


class Shop(NamedTuple):
    """A log, and where each of its events lies."""

    sent: list[tuple[Event, Place]]
    broken: list[Place]
    by_place: dict[tuple[str, int], list[Published]]

    @property
    def sources(self) -> list[str]:
        """Those that have records."""
        return list(dict.fromkeys(source for source, _ in self.by_place))

    def records(self, source: str, partition: int) -> list[Published]:
        """Of one log, by offset."""
        return self.by_place.get((source, partition), [])


@functools.cache
def shop_of(log: Log) -> Shop:
    """Made once: no schedule changes it."""
    draw = Random(log.seed)
    events = [logs.profile(user, NOW_MS - 1) for user in USERS]
    events += logs.shop_log(draw, log.events, USERS, NOW_MS, f"l{log.seed}", late_ms=60_000)
    events += [logs.trigger(draw.choice(USERS), f"t{i}", NOW_MS + i) for i in range(1 + log.events // 3)]
    middle = len(USERS)
    tail = events[middle:]
    draw.shuffle(tail)
    broken = Event("clickstream", USERS[0].encode(), b'{"broken": ')
    tail.insert(draw.randrange(len(tail)), broken)
    shop = Shop([], [], {})
    for event in [*events[:middle], *tail]:
        p = int(partitions([event.key or b""], log.partitions)[0])
        found = shop.by_place.setdefault((event.source, p), [])
        place = (event.source, p, len(found))
        found.append(Published(event.key, event.value, len(found), NOW_MS + 120_000))
        if event is broken:
            shop.broken.append(place)
        else:
            shop.sent.append((event, place))
    return shop


def read(broker: Broker, topic: str, n_partitions: int) -> Iterator[Read]:
    """What a read_committed reader sees, partition by partition in offset order."""
    for p in range(n_partitions):
        for offset, r in broker.committed((topic, p)):
            yield Read(p, offset, r.key, r.value, dict(r.headers), r.timestamp)


@functools.cache
def _facts(shop_log: Log) -> tuple[dict[Place, oracle.Event], dict[Place, bytes]]:
    """Events as the oracle takes them, and users, by place."""
    sent = shop_of(shop_log).sent
    return {place: expect.oracle_event(e, place) for e, place in sent}, {place: e.key or b"" for e, place in sent}


@functools.cache
def _row(shop_log: Log, user: bytes, steps: tuple[Place, ...]) -> dict[str, Any]:
    """A row by the naive oracle: what its user's steps, in this order, and bookkeeping make of it."""
    event_at, user_at = _facts(shop_log)
    notes = [e for p, e in event_at.items() if user_at[p] == user and e.kind >= oracle.N_KINDS_WINDOWED]
    return oracle.row([*notes, *(event_at[p] for p in steps)])


class _Verdict:
    """What is wrong so far."""

    def __init__(self, *, once: bool) -> None:
        self.said: list[str] = []
        self._once = once

    def compare(self, what: str, found: Sequence[Any], wanted: set[Any]) -> None:
        """Each of `wanted` is to be found once, or at least once; and nothing else."""
        counted = Counter(found)
        for how, some in (
            ("lost", wanted - counted.keys()),
            ("invented", counted.keys() - wanted),
            ("duplicated", {key for key, n in counted.items() if n > 1} if self._once else set()),
        ):
            if some:
                self.said.append(f"{len(some)} {what} {how}: {sorted(map(str, some))[:3]}")


def judge(broker: Broker, log: Log, settings: Settings, *, once: bool = True, bits: bool = False) -> list[str]:
    """What is wrong, a line each, told from the topics alone.

    Args:
        broker: at rest.
        log: what was published.
        settings: topics.
        once: each output must be seen once; else at least once.
        bits: compare rows with `stream.core` bit by bit too, which takes longer.
    """
    shop = shop_of(log)
    event_at, user_at = _facts(log)
    offers, decisions, dead = (
        list(read(broker, settings.topic(name), settings.partitions))
        for name in ("offers", "decisions", "dead-letters")
    )
    verdict = _Verdict(once=once)
    of = {settings.topic(source): source for source in SOURCES}
    made = [record.json for record in decisions]
    places = [(of[d["trigger"]["topic"]], d["trigger"]["partition"], d["trigger"]["offset"]) for d in made]
    steps = {(user_at[p], e.source, e.event_id) for p, e in event_at.items() if e.kind < oracle.N_KINDS_WINDOWED}
    promised = {d["decision_id"] for d in made if d["reason"] == "offered"}
    letters = [(of[r.headers["topic"].decode()], int(r.headers["partition"]), int(r.headers["offset"])) for r in dead]
    verdict.compare("decisions", [(user_at[p], event_at[p].source, event_at[p].event_id) for p in places], steps)
    verdict.compare("offers", [r.json["offer_id"] for r in offers], promised)
    verdict.compare("dead letters", letters, set(shop.broken))
    rows = _rows(broker, settings)
    verdict.compare("rows", list(rows), set(user_at.values()))
    if not verdict.said:
        order: dict[bytes, dict[int, Place]] = {user: {} for user in rows}
        for record, decision, place in zip(decisions, made, places, strict=True):
            order[record.key or b""][decision["row_seq"]] = place
        for user, row in rows.items():
            wanted = _row(log, user, tuple(order[user][seq] for seq in sorted(order[user])))
            verdict.said += [
                f"row of {user!r}: {name} is {row[name].tolist()}, must be {value}"
                for name, value in wanted.items()
                if name != "recent_ids" and row[name].tolist() != value
            ]
    if bits and not verdict.said:
        try:
            past = expect.pasts(cast("Site", SimpleNamespace(sent=shop.sent, settings=settings)), decisions)
            expect.check_rows(rows, past)
            expect.check_bits(rows, past, {})
        except AssertionError as e:
            verdict.said.append(f"rows: {str(e)[:300]}")
    return verdict.said


def _rows(broker: Broker, settings: Settings) -> dict[bytes, Any]:
    """Every user's row as it stands in the changelog."""
    packed: dict[bytes, bytes] = {}
    for record in read(broker, settings.changelog, settings.partitions):
        if record.key is not None and record.key != applied.KEY:
            packed[record.key] = record.value or b""
    return dict(zip(packed, unpack(list(packed.values())), strict=True))
