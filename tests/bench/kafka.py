"""What the harness asks Kafka itself, as a client of its own: how far a group came, and what was written."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import (
    Consumer,
    ConsumerGroupState,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from stream.kafka.topics import Topics

TIMEOUT_S = 20.0
COORDINATOR_STARTS = (
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError._WAIT_COORD,
)


class Kafka:
    """A cluster; `data` is the folder of an embedded broker's logs, where there is one."""

    def __init__(self, bootstrap: str, partitions: int, data: Path | None) -> None:
        self.bootstrap = bootstrap
        self.partitions = partitions
        self._data = data
        self._admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 2})
        self._groups: dict[str, Consumer] = {}

    def create(self, *topics: str) -> None:
        """Make topics that are keyed by user, and wait until each partition has a leader that knows it is one."""
        made = self._admin.create_topics([NewTopic(topic, self.partitions, 1) for topic in topics])
        for future in made.values():
            future.result(TIMEOUT_S)
        with Topics(self.bootstrap) as known:
            for place in known.places(topics):
                known.watermarks(*place)

    def ends(self, topic: str) -> dict[int, int]:
        """Next offset to be written, by partition."""
        wanted = {TopicPartition(topic, p): OffsetSpec.latest() for p in range(self.partitions)}
        found = self._admin.list_offsets(wanted, request_timeout=TIMEOUT_S)
        return {tp.partition: future.result().offset for tp, future in found.items()}

    def end(self, topic: str) -> int:
        """Records ever written to a topic, markers of transactions among them."""
        return sum(self.ends(topic).values())

    def _group(self, group: str) -> Consumer:
        """One that asks for a group's offsets and sets them, and never joins it.

        Not the admin client: librdkafka 2.16 dies of a null pointer, and the process with it, where a coordinator that
        is still loading answers its `list_consumer_group_offsets` (rd_kafka_handle_OffsetFetch).
        """
        if group not in self._groups:
            self._groups[group] = Consumer(
                {
                    "bootstrap.servers": self.bootstrap,
                    "group.id": group,
                    "enable.auto.commit": False,
                    "isolation.level": "read_uncommitted",  # offsets of an open transaction are not waited for
                    "log_level": 2,
                }
            )
        return self._groups[group]

    def _when_loaded(self, ask: Callable[[], Sequence[TopicPartition]]) -> Sequence[TopicPartition]:
        """The answer of a coordinator; one that was just made reads its log first."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while True:
            try:
                found = ask()
                errors = [tp.error for tp in found if tp.error is not None]
            except KafkaException as error:
                found, errors = [], [error.args[0]]
            if not errors:
                return found
            if errors[0].code() not in COORDINATOR_STARTS or time.monotonic() > deadline_s:
                raise KafkaException(errors[0])
            time.sleep(0.1)

    def committed_offsets(self, group: str, topic: str) -> dict[int, int]:
        """Where a group goes on, by partition; 0 where it has committed nothing."""
        tps = [TopicPartition(topic, p) for p in range(self.partitions)]
        found = self._when_loaded(lambda: self._group(group).committed(tps, TIMEOUT_S))
        return {tp.partition: max(tp.offset, 0) for tp in found}

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
        self._when_loaded(lambda: self._group(group).commit(offsets=tps, asynchronous=False))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._groups:
            self._groups.popitem()[1].close()

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
