"""Whole topics of a broker: read from their beginning to where they end now; records published with confirmation."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from training.errors import TrainingError

CHUNK = 5_000
"""Records handed over at once, at most."""

ANSWER_S = 10.0
"""For the broker's first answer, and for confirming what was published."""

APPEAR_S = 2.0
"""A topic that was just made is not known to every broker at once."""

SILENCE_MAX_S = 30.0
"""A broker that has records for us and sends none for this long is gone."""

# Why a broker does not answer is said once, by us, and not by librdkafka every second.
_QUIET: dict[str, Any] = {"log_level": 0, "logger": logging.getLogger("offerstream.librdkafka")}


@dataclass(slots=True)
class Record:
    """A consumed record; what `stream.kafka.decode` reads of one."""

    topic: str
    key: bytes | None
    value: bytes | None
    offset: int
    timestamp: int
    """Milliseconds."""


class Topics:
    """A reader of whole partitions that joins no group and commits nothing. To be used as a context manager."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "offerstream-training",  # asked for by the client; never joined
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 50,  # an end of a partition is told with an empty fetch
                **_QUIET,
            }
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._consumer.close()

    def partitions(self, names: list[str]) -> dict[str, int]:
        """Partition count by topic.

        Raises:
            TrainingError: no broker answers, or a topic is missing.
        """
        give_up_s = time.monotonic() + APPEAR_S
        while True:
            try:
                found = self._consumer.list_topics(timeout=ANSWER_S).topics
            except KafkaException as error:
                raise no_answer(self._bootstrap, error) from error
            missing = [name for name in names if name not in found]
            if not missing:
                return {name: len(found[name].partitions) for name in names}
            if time.monotonic() > give_up_s:
                made = "`python -m stream topics create` makes them"
                raise TrainingError(f"{self._bootstrap} has no topic {', '.join(missing)}; {made}")
            time.sleep(0.1)

    def offsets_held(self, topic: str, partition: int) -> int:
        """From the first offset to the last: as many as there are records, or more where compaction left gaps."""
        give_up_s = time.monotonic() + ANSWER_S
        while True:
            try:
                first, end = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=ANSWER_S)
            except KafkaException as error:
                if time.monotonic() > give_up_s:
                    raise no_answer(self._bootstrap, error) from error
                time.sleep(0.1)  # a topic that was just made has no leader for a moment
            else:
                return int(end) - int(first)

    def read(self, partitions: list[tuple[str, int]]) -> Iterator[tuple[tuple[str, int], list[Record]]]:
        """Partitions side by side, in chunks of one of them, each until its end as of when the reader gets there.

        Args:
            partitions: (topic, partition) of each.

        Raises:
            TrainingError: the broker refuses, or goes silent before the end.
        """
        self._consumer.assign([TopicPartition(topic, partition, 0) for topic, partition in partitions])
        heard_s = time.monotonic()
        behind = set(partitions)
        while behind:
            chunks: dict[tuple[str, int], list[Record]] = {}
            for message in self._consumer.consume(CHUNK, timeout=0.1):
                heard_s = time.monotonic()
                of = str(message.topic()), int(message.partition() or 0)
                error = message.error()
                if error is None:
                    timestamp, offset = message.timestamp()[1], int(message.offset() or 0)
                    chunks.setdefault(of, []).append(Record(of[0], message.key(), message.value(), offset, timestamp))
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  the constant has no other name
                    behind.discard(of)
                else:
                    raise no_answer(self._bootstrap, KafkaException(error))
            yield from chunks.items()
            if time.monotonic() - heard_s > SILENCE_MAX_S:
                names = ", ".join(f"{topic}, partition {partition}" for topic, partition in sorted(behind))
                text = f"nothing came for {SILENCE_MAX_S:g} s, and these are not at their end: {names}"
                raise TrainingError(text)


def publish(bootstrap: str, topic: str, records: Mapping[bytes, bytes]) -> None:
    """Write records to a topic of one partition, in order, and wait until the broker has confirmed all of them.

    Raises:
        TrainingError: no broker answers, the topic is missing, or a record was not confirmed.
    """
    failures: list[KafkaError] = []

    def delivered(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failures.append(error)

    with Topics(bootstrap) as topics:
        topics.partitions([topic])
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "acks": "all",
            "enable.idempotence": True,
            "message.timeout.ms": int(ANSWER_S * 1000),
            **_QUIET,
        }
    )
    for key, value in records.items():
        producer.produce(topic, key=key, value=value, partition=0, on_delivery=delivered)
    left = producer.flush(ANSWER_S + 5)
    if left or failures:
        why = failures[0].str() if failures else "no confirmation"
        text = f"{topic}: {left + len(failures)} of {len(records)} records were not taken by {bootstrap}: {why}"
        raise TrainingError(text)


def no_answer(bootstrap: str, error: KafkaException) -> TrainingError:
    """What to tell of a broker that does not do what it is asked."""
    text = f"no answer from the broker at {bootstrap} ({error.args[0].str()}); is KAFKA_BOOTSTRAP or --bootstrap right?"
    return TrainingError(text)


Progress = Callable[[int, int], None]
"""(done, total), in bytes of a file or in records of a broker; total 0 = unknown."""
