"""What the harness asks Kafka itself, as a client of its own: how far a group came, and what was written."""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from confluent_kafka import (
    Consumer,
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

TIMEOUT_S = 20.0
COORDINATOR_STARTS = (
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
)


class Kafka:
    """A cluster; `data` is the folder of an embedded broker's logs, where there is one."""

    def __init__(self, bootstrap: str, partitions: int, data: Path | None) -> None:
        self.bootstrap = bootstrap
        self.partitions = partitions
        self._data = data
        self._admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 2})

    def create(self, *topics: str) -> None:
        """Make topics that are keyed by user."""
        made = self._admin.create_topics([NewTopic(topic, self.partitions, 1) for topic in topics])
        for future in made.values():
            future.result(TIMEOUT_S)

    def ends(self, topic: str) -> dict[int, int]:
        """Next offset to be written, by partition."""
        wanted = {TopicPartition(topic, p): OffsetSpec.latest() for p in range(self.partitions)}
        found = self._admin.list_offsets(wanted, request_timeout=TIMEOUT_S)
        return {tp.partition: future.result().offset for tp, future in found.items()}

    def end(self, topic: str) -> int:
        """Records ever written to a topic, markers of transactions among them."""
        return sum(self.ends(topic).values())

    def committed_offsets(self, group: str, topic: str) -> dict[int, int]:
        """Where a group goes on, by partition; 0 where it has committed nothing."""
        tps = [TopicPartition(topic, p) for p in range(self.partitions)]
        deadline_s = time.monotonic() + TIMEOUT_S
        while True:
            asked = self._admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group, tps)])
            try:
                found = asked[group].result(TIMEOUT_S).topic_partitions or []
                return {tp.partition: max(tp.offset, 0) for tp in found}
            except KafkaException as error:  # a coordinator that was just made reads its log first
                if error.args[0].code() not in COORDINATOR_STARTS or time.monotonic() > deadline_s:
                    raise
                time.sleep(0.1)

    def committed(self, group: str, topic: str) -> int:
        """Records that a group has committed."""
        return sum(self.committed_offsets(group, topic).values())

    def is_stable(self, group: str) -> bool:
        """Whether a group's members have their partitions."""
        described = self._admin.describe_consumer_groups([group])[group].result(TIMEOUT_S)
        return described.state == ConsumerGroupState.STABLE

    def commit(self, group: str, topic: str, offsets: dict[int, int]) -> None:
        """Set where a group that is not running goes on."""
        tps = [TopicPartition(topic, p, offset) for p, offset in offsets.items()]
        self._admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, tps)])[group].result(TIMEOUT_S)

    def log_bytes(self, topics: Sequence[str]) -> int | None:
        """Bytes that the broker keeps on disk for topics, compressed as they are; None for a broker elsewhere."""
        if self._data is None:
            return None
        folders = [self._data / f"{topic}-{p}" for topic in topics for p in range(self.partitions)]
        return sum(file.stat().st_size for folder in folders for file in folder.glob("*.log"))

    def read(self, topic: str, start: dict[int, int]) -> Iterator[Message]:
        """All records from given offsets up to the present end, less those of transactions that were aborted."""
        ends = self.ends(topic)
        left = {p for p in ends if start[p] < ends[p]}
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": "bench-reader",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,  # what lies before the end may be a transaction's marker
                "log_level": 2,
            }
        )
        consumer.assign([TopicPartition(topic, p, start[p]) for p in left])
        deadline_s = time.monotonic() + TIMEOUT_S
        try:
            while left:
                messages = consumer.consume(2_000, 1.0)
                if time.monotonic() > deadline_s:
                    raise TimeoutError(f"{topic}: partitions {sorted(left)} cannot be read to their end")
                if messages:
                    deadline_s = time.monotonic() + TIMEOUT_S
                for message in messages:
                    if message.error() is None:
                        yield message
                    elif message.error().code() == KafkaError._PARTITION_EOF:
                        left.discard(message.partition())
        finally:
            consumer.close()

    def read_json(self, topic: str, start: dict[int, int]) -> Iterator[dict[str, object]]:
        """The same, values parsed."""
        for message in self.read(topic, start):
            yield json.loads(message.value() or b"null")
