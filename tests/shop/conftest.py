"""Topics of a test's own and what was published to them."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from stream.errors import SetupError
from stream.kafka.admin import create_topics
from stream.kafka.cluster import admin_client, look
from stream.settings import Settings
from stream.shop.bounds import log_bounds
from tests.e2e.harness import Site

N_PARTITIONS = 3


@dataclass
class Record:
    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


@pytest.fixture
def settings(broker: str, topic_prefix: str) -> Settings:
    """Of a worker that has topics of its own, without records."""
    own = Settings(bootstrap=broker, topic_prefix=topic_prefix, app_id=topic_prefix + "app", partitions=N_PARTITIONS)
    create_topics(own)
    admin = admin_client(broker)
    deadline = time.monotonic() + 30
    while True:  # made, but not known to the broker's own metadata yet
        try:
            look(own, admin)
        except SetupError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return own


@pytest.fixture
def environment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The same settings, as the command line reads them."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP", settings.bootstrap)
    monkeypatch.setenv("OFFERSTREAM_TOPIC_PREFIX", settings.topic_prefix)
    monkeypatch.setenv("OFFERSTREAM_APP_ID", settings.app_id)
    monkeypatch.setenv("OFFERSTREAM_PARTITIONS", str(settings.partitions))
    return settings


@pytest.fixture
def published(settings: Settings) -> Callable[[str], list[Record]]:
    """All records of a source topic, partition by partition, in offset order."""

    def read(source: str) -> list[Record]:
        consumer = Consumer({"bootstrap.servers": settings.bootstrap, "group.id": "none", "enable.auto.commit": False})
        topic = settings.topic(source)
        try:
            ends = {p: end for p, (_, end) in log_bounds(settings, source).items()}
            consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in ends])
            found: list[Record] = []
            deadline = time.monotonic() + 60
            while len(found) < sum(ends.values()):
                assert time.monotonic() < deadline, "the topic cannot be read to its end"
                for m in consumer.consume(10_000, 0.05):
                    assert m.error() is None, m.error()
                    found.append(Record(source, m.partition(), m.offset(), m.timestamp()[1], m.key(), m.value()))
        finally:
            consumer.close()
        return sorted(found, key=lambda r: (r.partition, r.offset))

    return read


@pytest.fixture
def site(broker: str, topic_prefix: str, tmp_path: Path) -> Site:
    """Topics of this test's own, and a place on disk for a worker."""
    return Site(broker, topic_prefix, tmp_path)
