"""Whole topics of a broker: read from their beginning to where they end now; records published with confirmation.

For command lines, tools and the trainer. A worker follows topics by its own means.
"""

import logging
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import ConfigResource, ResourceType

from stream.errors import DeliveryError, SetupError
from stream.kafka.cluster import MAKE_MISSING, REQUEST_TIMEOUT_S, admin_client, no_answer

CHUNK = 5_000
"""Records handed over at once, at most."""

CONFIRM_S = 15.0
"""For the broker to confirm what was published."""

APPEAR_S = 2.0
"""A topic that was just made is not known to every broker at once."""

SILENCE_MAX_S = 20.0
"""A broker that has records for us and sends none for this long is gone."""

# Why a broker does not answer is said once, by us, and not by librdkafka every second.
QUIET: dict[str, Any] = {"log_level": 0, "logger": logging.getLogger("offerstream.librdkafka")}

Header = tuple[str, bytes | None]


@dataclass(slots=True)
class Record:
    """A consumed record; what `stream.kafka.decode` reads of one, and more."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    offset: int
    timestamp: int
    """Milliseconds."""
    headers: list[Header]


class Topics:
    """A reader of whole partitions that joins no group and commits nothing. To be used as a context manager."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "offerstream-tools",  # asked for by the client; never joined
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 10,  # the end is known at once, not after half a second of waiting for more
                **QUIET,
            }
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._consumer.close()

    def partitions(self, names: Collection[str]) -> dict[str, int]:
        """Partition count by topic.

        Raises:
            SetupError: no broker answers, or a topic is missing.
        """
        give_up_s = time.monotonic() + APPEAR_S
        while True:
            try:
                found = self._consumer.list_topics(timeout=REQUEST_TIMEOUT_S).topics
            except KafkaException as error:
                raise no_answer(self._bootstrap, error) from error
            missing = [name for name in names if name not in found]
            if not missing:
                return {name: len(found[name].partitions) for name in names}
            if time.monotonic() > give_up_s:
                raise SetupError(f"no such topic: {', '.join(missing)}. {MAKE_MISSING}")
            time.sleep(0.1)

    def places(self, names: Collection[str]) -> list[tuple[str, int]]:
        """(topic, partition) of all partitions of the topics.

        Raises:
            SetupError: as `partitions`.
        """
        return [(name, partition) for name, count in self.partitions(names).items() for partition in range(count)]

    def offsets_held(self, topic: str, partition: int) -> int:
        """From the first offset to the last: as many as there are records, or more where compaction left gaps."""
        first, end = self.watermarks(topic, partition)
        return end - first

    def watermarks(self, topic: str, partition: int) -> tuple[int, int]:
        """(first offset held, offset after the last).

        Raises:
            SetupError: no broker answers.
        """
        give_up_s = time.monotonic() + REQUEST_TIMEOUT_S
        while True:
            try:
                first, end = self._consumer.get_watermark_offsets(
                    TopicPartition(topic, partition), timeout=REQUEST_TIMEOUT_S
                )
            except KafkaException as error:
                if time.monotonic() > give_up_s:
                    raise no_answer(self._bootstrap, error) from error
                time.sleep(0.1)  # a topic that was just made has no leader for a moment
            else:
                return int(first), int(end)

    def read(
        self,
        places: Iterable[tuple[str, int]],
        until: Mapping[tuple[str, int], int] = MappingProxyType({}),
        since: Mapping[tuple[str, int], int] = MappingProxyType({}),
    ) -> Iterator[tuple[tuple[str, int], list[Record]]]:
        """Partitions side by side, in chunks of one of them, each until its end as of when the reader gets there.

        Args:
            places: (topic, partition) of each.
            since: offset to begin at, by place; the first one where none is given.
            until: an end of less than this offset is waited out: a transaction that is still open holds it back.

        Raises:
            SetupError: the broker refuses, or goes silent before the end.
        """
        behind = set(places)
        self._consumer.assign([TopicPartition(*place, since.get(place, 0)) for place in sorted(behind)])
        heard_s = time.monotonic()
        while behind:
            chunks: dict[tuple[str, int], list[Record]] = {}
            for message in self._consumer.consume(CHUNK, timeout=0.1):
                heard_s = time.monotonic()
                of = str(message.topic()), int(message.partition() or 0)
                error = message.error()
                if error is None:
                    chunks.setdefault(of, []).append(_record(of, message))
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  the constant has no other name
                    if int(message.offset() or 0) >= until.get(of, 0):
                        behind.discard(of)
                else:
                    raise no_answer(self._bootstrap, KafkaException(error))
            yield from chunks.items()
            if time.monotonic() - heard_s > SILENCE_MAX_S:
                names = ", ".join(f"{topic}[{partition}]" for topic, partition in sorted(behind))
                raise SetupError(f"Kafka at {self._bootstrap} sent nothing of {names} for {SILENCE_MAX_S:g} s")


def _record(of: tuple[str, int], message: Message) -> Record:
    return Record(
        of[0],
        of[1],
        message.key(),
        message.value(),
        int(message.offset() or 0),
        message.timestamp()[1],
        message.headers() or [],
    )


def read_control(bootstrap: str, topic: str) -> dict[bytes, Record]:
    """The records in force of a control topic, in the order of publication: the latest by key, deleted ones left out.

    Raises:
        SetupError: no broker answers; the topic is missing, has more than one partition, or is not compacted.
    """
    check_control(bootstrap, topic)
    latest: dict[bytes, Record] = {}
    with Topics(bootstrap) as topics:
        for _, records in topics.read([(topic, 0)]):
            for record in records:
                key = record.key or b""
                latest.pop(key, None)
                if record.value is not None:
                    latest[key] = record
    return latest


def publish_control(bootstrap: str, topic: str, records: Mapping[bytes, bytes | None]) -> None:
    """Write records to a control topic, in order, None to delete, and wait until all of them are confirmed.

    Raises:
        SetupError: as `read_control`.
        DeliveryError: a record was not confirmed.
    """
    check_control(bootstrap, topic)
    publish(bootstrap, topic, (Outgoing(0, key, value, []) for key, value in records.items()))


def check_control(bootstrap: str, topic: str) -> None:
    """Look whether a control topic is as it has to be.

    Raises:
        SetupError: as `read_control`.
    """
    with Topics(bootstrap) as topics:
        count = topics.partitions([topic])[topic]
    if count != 1:
        text = f"the topic {topic} has {count} partitions, it must have 1: make it anew"
        raise SetupError(f"{text} with `python -m stream topics create`")
    resource = ConfigResource(ResourceType.TOPIC, topic)
    admin = admin_client(bootstrap)  # must outlive its futures
    try:
        answer = admin.describe_configs([resource], request_timeout=REQUEST_TIMEOUT_S)
        policy = answer[resource].result()["cleanup.policy"].value
    except KafkaException as error:
        raise no_answer(bootstrap, error) from error
    if policy != "compact":
        text = f"the topic {topic} has cleanup.policy={policy}, it must be compact, or records are lost with time"
        raise SetupError(f"{text}: kafka-configs --alter --topic {topic} --add-config cleanup.policy=compact")


class Outgoing(NamedTuple):
    """A record to be published."""

    partition: int
    key: bytes | None
    value: bytes | None
    headers: list[Header]


def publish(bootstrap: str, topic: str, records: Iterable[Outgoing]) -> int:
    """Write records, in order, and wait until the broker has confirmed all of them.

    Returns:
        How many there were.

    Raises:
        DeliveryError: a record was not confirmed.
    """
    failures: list[KafkaError] = []

    def delivered(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failures.append(error)

    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "acks": "all",
            "enable.idempotence": True,
            "message.max.bytes": 16 << 20,
            "message.timeout.ms": int(CONFIRM_S * 1000),
            **QUIET,
        }
    )
    n = 0
    for record in records:
        n += 1
        while True:
            try:
                producer.produce(topic, record.value, record.key, record.partition, delivered, headers=record.headers)
                break
            except BufferError:  # the queue of librdkafka is full
                producer.poll(0.1)
    left = producer.flush(CONFIRM_S + 1)
    if left or failures:
        why = failures[0].str() if failures else "no confirmation"
        raise DeliveryError(f"{topic}: Kafka at {bootstrap} did not take {left + len(failures)} of {n} records: {why}")
    return n
