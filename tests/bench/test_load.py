"""The input is what it says: decodable without a fault, seeded, spread over users as stated."""

from dataclasses import dataclass

import numpy as np
import pytest

from stream.campaigns.control import compile_campaigns
from stream.core.decide import Reason, decide
from stream.core.row import new_rows
from stream.kafka.decode import decode
from stream.kafka.partitioner import partitions as partitions_of
from tests.bench import load
from tests.bench.load import (
    KIND_SHARES,
    KINDS,
    Record,
    clicks,
    profiles,
    trigger_event,
    user_id,
    users_at_random,
    users_zipf,
)

END_MS = 1_750_000_000_000


@dataclass
class Fetched:
    """As a consumer hands it over."""

    key: bytes
    value: bytes
    offset: int
    timestamp: int = END_MS
    topic: str = ""


def by_partition(records: list[Record], partitions: int) -> list[list[Fetched]]:
    found: list[list[Fetched]] = [[] for _ in range(partitions)]
    for record, partition in zip(records, partitions_of([r.key for r in records], partitions).tolist(), strict=True):
        log = found[partition]
        log.append(Fetched(record.key, record.value, len(log)))
    return found


@pytest.mark.parametrize("source", ["clickstream", "customers"])
def test_a_worker_refuses_none_of_it(source: str) -> None:
    rng = np.random.default_rng(3)
    records = list(
        clicks(rng, users_at_random(rng, 500, 2000), END_MS, "t") if source == "clickstream" else profiles(500, END_MS)
    )
    n = 0
    for partition, log in enumerate(by_partition(records, 4)):
        decoded = decode(source, log, partition, 4, "EUR", source)
        assert decoded.dead == []
        assert decoded.unknown_fields == 0
        assert len({int(i) for i in decoded.events["event_id"]}) == len(log)
        n += len(decoded.events)
    assert n == len(records) == {"clickstream": 2000, "customers": 500}[source]


def test_the_same_seed_gives_the_same_bytes_and_another_does_not() -> None:
    def log(seed: int) -> list[Record]:
        rng = np.random.default_rng(seed)
        return list(clicks(rng, users_zipf(rng, 100, 300), END_MS, "t"))

    assert log(1) == log(1)
    assert log(1) != log(2)


def test_kinds_come_in_the_stated_shares() -> None:
    rng = np.random.default_rng(5)
    n = 60_000
    values = [record.value for record in clicks(rng, users_at_random(rng, 1000, n), END_MS, "t")]
    for kind, share in zip(KINDS, KIND_SHARES, strict=True):
        found = sum(f'"kind":"{kind}"'.encode() in value for value in values)
        assert abs(found - share * n) < 5 * np.sqrt(share * (1 - share) * n), kind


def test_zipf_is_zipf() -> None:
    users, n = 10_000, 400_000
    counts = np.sort(np.bincount(users_zipf(np.random.default_rng(7), users, n), minlength=users))[::-1]
    harmonic = (1 / np.arange(1, users + 1)).sum()
    for rank in (1, 2, 10, 100):
        assert counts[rank - 1] / n == pytest.approx(1 / rank / harmonic, rel=0.1), rank
    uniform = np.bincount(users_at_random(np.random.default_rng(7), users, n), minlength=users)
    assert uniform.max() < 100


def test_event_times_end_where_they_should_and_never_go_back() -> None:
    rng = np.random.default_rng(9)
    records = [
        Fetched(r.key, r.value, i) for i, r in enumerate(clicks(rng, users_at_random(rng, 50, 120_000), END_MS, "t"))
    ]
    times = decode("clickstream", records, 0, 1, "EUR", "clickstream").events["time_ms"]
    assert times[-1] == END_MS
    assert (np.diff(times) >= 0).all()
    assert END_MS - load.SPAN_MS <= times[0] <= END_MS - load.SPAN_MS + 100


def test_the_campaign_offers_to_all_but_the_holdout() -> None:
    key, value = load.campaign(0)
    campaigns, refused = compile_campaigns({key.decode(): value})
    assert not refused
    names = [user_id(n) for n in range(4000)]
    log = [Fetched(name.encode(), trigger_event(f"e{n}", name, END_MS), n) for n, name in enumerate(names)]
    events = decode("clickstream", log, 0, 1, "EUR", "clickstream").events
    rows = new_rows(len(events))
    rows["consent"] = 2
    scores = np.full((len(events), 1), 1e-9, "f4")
    decisions = decide(events, rows, scores, campaigns, END_MS, np.zeros(len(events)), 60_000)
    offered = decisions["reason"] == Reason.OFFERED
    assert set(decisions["reason"][~offered].tolist()) == {Reason.HOLDOUT}
    assert 0.87 < offered.mean() < 0.93
