"""What is taken for granted of Faust and aiokafka, in the consumer that a worker reads with, on the real broker.

The numbers of rules are those of docs/protocol.md.

A new version of either that differs makes one of these fail, instead of a worker under load.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiokafka
import pytest
from aiokafka.consumer import fetcher
from aiokafka.errors import OffsetOutOfRangeError
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from confluent_kafka import Producer
from faust.types import TP
from mode.utils.queues import FlowControlQueue
from prometheus_client import CollectorRegistry

from stream.app import App, build_app
from stream.kafka.control import Control
from stream.metrics import Metrics
from tests.e2e.harness import Site, wait_until
from tests.kafka.test_partition import clicks


@pytest.fixture
def site(broker: str, topic_prefix: str, tmp_path: Path) -> Site:
    return Site(broker, topic_prefix, tmp_path, partitions=1)


@contextmanager
def app_of(site: Site) -> Iterator[App]:
    """A worker's app with its consumer, not started."""
    metrics = Metrics(CollectorRegistry())
    app = build_app(site.settings, metrics, Control(site.settings, metrics, App.fatal))
    try:
        yield app
    finally:
        app.consumer._thread.thread_loop.close()


@asynccontextmanager
async def reader(site: Site) -> AsyncIterator[aiokafka.AIOKafkaConsumer]:
    """What the worker's consumer thread reads with, given the partitions that a worker is assigned."""
    with app_of(site) as app:
        consumer = app.consumer._thread._create_worker_consumer(app.transport)
    consumer.assign(
        [TopicPartition(topic, 0) for topic in (site.settings.topic("clickstream"), site.settings.changelog)]
    )
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


async def polled(consumer: aiokafka.AIOKafkaConsumer, tp: TopicPartition, n: int) -> Sequence[Any]:
    found: list[Any] = []
    give_up_s = time.monotonic() + 20
    while len(found) < n and time.monotonic() < give_up_s:
        found += (await consumer.getmany(tp, timeout_ms=200)).get(tp, [])
    return found


def test_aborted_records_are_not_read_and_changelogs_not_fetched(site: Site) -> None:
    """Rules 25 and 26: Faust assigns the changelog to this consumer too, which has no position there, so no fetches."""
    clicked = TopicPartition(site.settings.topic("clickstream"), 0)
    changelog = TopicPartition(site.settings.changelog, 0)
    producer = Producer(
        {"bootstrap.servers": site.settings.bootstrap, "transactional.id": site.settings.app_id, "log_level": 0}
    )
    producer.init_transactions(30)
    for value, end in ((b"aborted", producer.abort_transaction), (b"committed", producer.commit_transaction)):
        producer.begin_transaction()
        for topic in (clicked.topic, changelog.topic):
            producer.produce(topic, value, b"u", 0)
        assert producer.flush(30) == 0
        end(30)
    wait_until(lambda: site.ends(clicked.topic)[0] == 4, "the markers are written", 10)

    async def story() -> None:
        async with reader(site) as consumer:
            consumer.seek(clicked, 0)
            (record,) = await polled(consumer, clicked, 1)
            assert record.value == b"committed"
            await asyncio.sleep(0.5)  # some more fetches
            assert consumer._subscription.subscription.assignment.state_value(clicked).has_valid_position
            assert not consumer._subscription.subscription.assignment.state_value(changelog).has_valid_position
            assert not isinstance(consumer._fetcher._records.get(changelog), fetcher.PartitionRecords)

    asyncio.run(story())


def test_a_position_outside_the_log_is_an_error(site: Site) -> None:
    """Nothing is reset in silence."""
    clicked = TopicPartition(site.settings.topic("clickstream"), 0)
    site.publish(clicks(3))

    async def story() -> None:
        async with reader(site) as consumer:
            consumer.seek(clicked, 1_000)
            with pytest.raises(OffsetOutOfRangeError):
                await polled(consumer, clicked, 1)

    asyncio.run(story())


def test_seeking_to_what_is_committed_does_nothing_at_the_beginning(site: Site) -> None:
    """Rule 6: with no offset or 0 in the group, aiokafka leaves the position where it is; so we seek ourselves."""
    clicked = TopicPartition(site.settings.topic("clickstream"), 0)
    site.publish(clicks(3))

    async def story() -> None:
        async with reader(site) as consumer:
            for committed in (None, 0):
                if committed is not None:
                    await consumer.commit({clicked: OffsetAndMetadata(committed, "")})
                consumer.seek(clicked, 2)
                assert await consumer.seek_to_committed(clicked) == {clicked: committed}
                assert await consumer.position(clicked) == 2

    asyncio.run(story())


def test_what_faust_takes_for_acked_is_not_committed(site: Site) -> None:
    """Rule 15: it acks what it skips. Only partitions say what may be committed, and none is open here."""

    async def story() -> None:
        tp = TP(site.settings.topic("clickstream"), 0)
        with app_of(site) as app:
            consumer = app.consumer
            await consumer._add_gap(tp, 0, 41)
            consumer._acked_index[tp].add(42)
            consumer._acked[tp].append(42)
            assert super(type(consumer), consumer)._filter_committable_offsets({tp}) == {tp: 43}
            assert consumer._filter_committable_offsets({tp}) == {}

    asyncio.run(story())


def test_flow_and_time_are_as_this_needs_them(site: Site) -> None:
    """Rules 23, 24 and 29."""

    async def story() -> None:
        with app_of(site) as app:
            queue = FlowControlQueue(maxsize=app.conf.stream_buffer_maxsize, flow_control=app.flow_control)
            # It counts messages, and a message is a batch.
            assert (queue.maxsize, queue.pressure_high_size, queue.pressure_drop_size) == (2, 1, 0)
            app.consumer.on_buffer_full(TP(site.settings.topic("clickstream"), 0))
            assert not app.consumer._buffered_partitions
            assert app.conf.stream_recovery_delay == 0  # it would sleep in every rebalance
            assert app.conf.broker_commit_interval <= 5  # the livelock detector complains of less

    asyncio.run(story())
