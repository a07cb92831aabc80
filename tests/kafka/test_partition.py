"""A partition without Faust around it, on a real broker: memory that is full, owners that change, sends that fail."""

import asyncio
import dataclasses
import hashlib
import json
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka.structs import ConsumerRecord
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from prometheus_client import CollectorRegistry

from stream.campaigns.control import compile_campaigns
from stream.errors import DeliveryError
from stream.kafka import applied
from stream.kafka.cluster import look
from stream.kafka.control import InForce
from stream.kafka.outside import Outside
from stream.kafka.partition import Partition
from stream.kafka.rocksdb import RocksDB
from stream.kafka.shared import Shared
from stream.kafka.topics import Topics
from stream.kafka.transport import EventBatch
from stream.metrics import Metrics
from stream.scoring.model import load
from stream.scoring.scorer import Scorer, scored_by
from stream.settings import GUARANTEES, Settings
from stream.topology import answer_silence, process
from tests.e2e import expect
from tests.e2e.harness import Event, Site, event
from tests.e2e.logs import profile, trigger
from training.seeded import seeded_model

NOTHING = InForce(Scorer(), compile_campaigns({})[0])


@pytest.fixture(params=GUARANTEES)
def site(request: pytest.FixtureRequest, broker: str, topic_prefix: str, tmp_path: Path) -> Site:
    return Site(broker, topic_prefix, tmp_path, partitions=1, guarantee=request.param)


class Room:
    """What a worker puts around its partition."""

    def __init__(self, site: Site, **settings: Any) -> None:
        self.site = site
        self.settings: Settings = dataclasses.replace(site.settings, decision_sample=1.0, **settings)
        self.metrics = Metrics(CollectorRegistry())
        self.failed = asyncio.Event()
        self.fatal: list[BaseException] = []
        self.shared = Shared(
            settings=self.settings,
            metrics=self.metrics,
            compute=ThreadPoolExecutor(1),
            process=process,
            answer=answer_silence,
            fatal=self._fail,
            outside=Outside(RocksDB(1 << 20)),
        )

    def _fail(self, error: BaseException) -> None:
        self.fatal.append(error)
        self.failed.set()

    @asynccontextmanager
    async def partition(self) -> AsyncIterator[Partition]:
        client = AdminClient({"bootstrap.servers": self.settings.bootstrap, "log_level": 0})
        cluster = look(self.settings, client)
        partition = Partition(0, self.shared, 0, lambda _, error: self._fail(error))
        assert await partition.take_over(cluster, client, lambda: True)
        try:
            yield partition
        finally:
            await partition.drop()

    def count(self, outcome: str) -> float:
        value = self.metrics.registry.get_sample_value(
            "offerstream_events_total", {"source": "clickstream", "outcome": outcome}
        )
        return value or 0

    def batch(self, events: list[Event], first: int, *, more_waits: bool = False) -> EventBatch:
        """As the transport would hand it over; the events are in the topic too."""
        places = self.site.publish(events)
        assert [offset for _, _, offset in places] == list(range(first, first + len(events)))
        topic, now_ms = self.settings.topic("clickstream"), time.time_ns() // 1_000_000
        records = [
            ConsumerRecord(topic, 0, first + i, now_ms, 0, e.key, e.value, 0, 0, None, ()) for i, e in enumerate(events)
        ]
        return batch_of({"clickstream": records}, more_waits=more_waits)


def batch_of(records: dict[str, Any], *, more_waits: bool = False, life: int = 0) -> EventBatch:
    """Records by source of partition 0, as one batch that begins with the first of them."""
    spans = {source: (found[0].offset, found[-1].offset + 1) for source, found in records.items()}
    return EventBatch(0, records, more_waits, spans, life)


def clicks(n: int, first: int = 0) -> list[Event]:
    now_ms = time.time_ns() // 1_000_000
    return [trigger(f"user-{i}", f"e{i}", now_ms) for i in range(first, first + n)]


def test_when_memory_is_full_of_uncommitted_rows_it_commits_and_goes_on(site: Site) -> None:
    """Nothing of the batch that found no room is counted or sent twice."""

    async def story() -> None:
        room = Room(site, hot_rows=10, batch_rows=10, commit_interval_ms=60_000)
        async with room.partition() as partition:
            for piece in range(5):
                events = [*clicks(8, 8 * piece), Event("clickstream", b"user-1", b"broken")]
                await partition.apply(room.batch(events, 9 * piece, more_waits=True), NOTHING)
            assert partition.rows_hot() <= 10
            assert partition.committed["clickstream"] >= 27
            await partition.drain()
            assert partition.committed["clickstream"] == 45
        assert not room.fatal
        assert (room.count("applied"), room.count("dead"), room.count("duplicate")) == (40, 5, 0)

    asyncio.run(story())
    assert len(site.out("dead-letters")) == 5
    assert len(site.out("decisions")) == 40
    expect.check_all(site, [], [s for s in site.sent if s[0].value != b"broken"])


def test_batches_read_again_are_fenced(site: Site) -> None:
    """By position, whole or in part; and nothing is sent for what is fenced."""

    async def story() -> None:
        room = Room(site)
        async with room.partition() as partition:
            batch = room.batch(clicks(20), 0)
            await partition.apply(batch, NOTHING)
            await partition.apply(batch, NOTHING)
            half = batch_of({"clickstream": batch.records["clickstream"][10:]})
            await partition.apply(half, NOTHING)
            await partition.drain()
            assert partition.read["clickstream"] == partition.committed["clickstream"] == 20
        assert room.count("applied") == 20

    asyncio.run(story())
    assert len(site.out("decisions")) == 20
    expect.check_all(site, [])


def test_the_applied_record_tells_what_was_in_force(site: Site) -> None:
    document = {
        "id": "nudge", "name": "Nudge", "version": 3, "priority": 1, "trigger": {"kinds": ["cart_add"]},
        "arms": [{"id": "ten", "kind": "percent", "percent": 10, "max_discount_minor": 2_000}],
        "policy": {"kind": "threshold", "probability": 0.5, "arm": "ten"}, "valid_for": "24h", "currency": "EUR",
    }  # fmt: skip
    data = seeded_model()
    campaigns, problems = compile_campaigns({"nudge": json.dumps(document).encode()})
    assert not problems

    async def story() -> None:
        room = Room(site)
        async with room.partition() as partition:
            await partition.apply(room.batch(clicks(5), 0), NOTHING)
            await partition.apply(room.batch(clicks(5, 5), 5), InForce(scored_by(load(data)), campaigns))
            await partition.drain()

    asyncio.run(story())
    records = [r for r in site.read(site.settings.changelog) if r.key == applied.KEY]
    last = applied.decode(records[-1].value or b"")
    assert (last.model, last.campaigns) == (hashlib.sha256(data).hexdigest(), {"nudge": 3})


def test_an_owner_takes_over_from_another(site: Site) -> None:
    async def story() -> None:
        for life in range(3):
            room = Room(site)
            async with room.partition() as partition:
                assert partition.read["clickstream"] == 10 * life
                await partition.apply(room.batch(clicks(10, 10 * life), 10 * life), NOTHING)
                await partition.drain()

    asyncio.run(story())
    assert site.applied()[0].sequence == 30
    expect.check_all(site, [])


def test_what_was_not_committed_is_forgotten(site: Site) -> None:
    """An owner that is dropped in the middle leaves nothing; the next one reads it again."""

    async def story() -> None:
        room = Room(site, commit_interval_ms=60_000)
        async with room.partition() as partition:
            batch = room.batch(clicks(10), 0, more_waits=True)
            await partition.apply(batch, NOTHING)
            assert partition.committed["clickstream"] == 0
        assert site.applied() == {}
        assert room.count("applied") == 0
        async with room.partition() as partition:
            assert partition.read["clickstream"] == 0
            await partition.apply(batch, NOTHING)
            await partition.drain()
        assert room.count("applied") == 10

    asyncio.run(story())
    expect.check_all(site, [])


def _campaign(name: str, kind: str, **fields: Any) -> dict[str, Any]:
    """A coupon for who is new, at events of a kind."""
    return {
        "id": name, "name": name, "version": 1, "trigger": {"kinds": [kind]},
        "arms": [{"id": "five", "kind": "coupon", "value_minor": 500}],
        "policy": {"kind": "segment", "arms": {"new": "five"}}, "valid_for": "24h", "currency": "EUR", **fields,
    }  # fmt: skip


def test_a_redemption_is_charged_though_another_offer_came_just_before(site: Site) -> None:
    """An offer without a budget and one under a budget, to one user in one batch: the row remembers the latter."""
    documents = [
        _campaign("free", "product_view"),
        _campaign("paid", "cart_add", budget={"total_minor": 1_000, "pacing": "asap"}),
    ]
    campaigns, problems = compile_campaigns({d["id"]: json.dumps(d).encode() for d in documents})
    assert not problems
    now_ms = time.time_ns() // 1_000_000

    def published(*events: Event) -> EventBatch:
        site.publish(events)
        source_of = {site.settings.topic(e.source): e.source for e in events}
        with Topics(site.settings.bootstrap) as topics:
            read = list(topics.read([(topic, 0) for topic in source_of]))
        return batch_of({source_of[topic]: records for (topic, _), records in read})

    async def story() -> None:
        room = Room(site)
        async with room.partition() as partition:
            seen = event("clickstream", event_id="e1", user_id="u", time_ms=now_ms, kind="product_view")
            batch = published(profile("u", now_ms), seen, trigger("u", "e2", now_ms + 1))
            await partition.apply(batch, InForce(Scorer(), campaigns))
            await partition.drain()
            offers = {o.json["campaign_id"]: o.json["offer_id"] for o in site.out("offers")}
            assert offers.keys() == {"free", "paid"}
            redeemed = event(
                "redemptions", event_id="r1", user_id="u", time_ms=now_ms + 2, kind="redeemed",
                offer_id=offers["paid"], amount_minor=400, currency="EUR",
            )  # fmt: skip
            await partition.apply(published(redeemed), InForce(Scorer(), campaigns))
            await partition.drain()
        assert not room.fatal

    asyncio.run(story())
    (purse,) = site.applied()[0].budgets.values()
    assert (purse["spent_minor"], purse["reserved_minor"], purse["unknown"]) == (400, 0, 0)


def _most_bytes(site: Site, topic: str, n: int) -> None:
    resource = ConfigResource(
        ResourceType.TOPIC,
        topic,
        incremental_configs=[ConfigEntry("max.message.bytes", str(n), incremental_operation=AlterConfigOpType.SET)],
    )
    client = AdminClient({"bootstrap.servers": site.settings.bootstrap, "log_level": 0})
    for future in client.incremental_alter_configs([resource]).values():
        future.result()


@pytest.mark.parametrize("topic", ["decisions", "changelog"])
def test_a_send_that_fails_ends_the_worker_and_stores_nothing(site: Site, topic: str) -> None:
    """Whatever step fails, those behind it do not happen."""
    name = site.settings.changelog if topic == "changelog" else site.settings.topic(topic)

    async def story() -> None:
        room = Room(site)
        async with room.partition() as partition:
            await partition.apply(room.batch(clicks(5), 0), NOTHING)
            await partition.drain()
            before = partition.changelog_end
            _most_bytes(site, name, 10)
            await partition.apply(room.batch(clicks(5, 5), 5), NOTHING)
            await asyncio.wait_for(room.failed.wait(), 20)
            assert isinstance(room.fatal[0], DeliveryError)
            assert "MSG_SIZE_TOO_LARGE" in str(room.fatal[0])
            assert partition.committed["clickstream"] == 5
            assert partition.changelog_end == before
        assert room.count("applied") == 5
        assert site.applied()[0].sources["clickstream"].next_offset == 5
        _most_bytes(site, name, 1 << 20)
        again = Room(site)
        async with again.partition() as partition:
            assert partition.read["clickstream"] == 5

    asyncio.run(story())
    with site.worker() as worker:
        site.wait_applied([worker])
    expect.check_all(site, [])
