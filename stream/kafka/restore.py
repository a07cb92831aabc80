"""Bulk restore: the changelog's tail into the local store, with a reader of our own.

And whether the changelog still holds what the store took for committed.
"""

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from stream.core.row import FORMATS_READ
from stream.errors import BrokerSilentError, LostCommitError, PartitionError
from stream.kafka import applied as applied_record
from stream.kafka.cluster import REQUEST_TIMEOUT_S, Range
from stream.kafka.store import Store
from stream.settings import Settings, client_id

logger = logging.getLogger(__name__)

_BULK = 10_000
_NOTHING_THERE = (KafkaError._PARTITION_EOF, KafkaError._AUTO_OFFSET_RESET)  # noqa: SLF001 librdkafka's public constants
"""The log ends before an offset, or begins behind it by now."""
_FORMATS = frozenset(bytes([number]) for number in FORMATS_READ)

_READER: dict[str, str | int | float | bool | None] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "isolation.level": "read_committed",
    "auto.offset.reset": "error",
    "fetch.wait.max.ms": 50,
    "fetch.max.bytes": 32 << 20,
    "max.partition.fetch.bytes": 16 << 20,
    "queued.min.messages": 200_000,
    "queued.max.messages.kbytes": 64 << 10,
}


def reader(settings: Settings, purpose: str, make: Callable[[dict[str, Any]], Consumer], **more: object) -> Consumer:
    """A client that reads logs in bulk, of committed records unless told otherwise, from where it is assigned to on.

    Args:
        settings: brokers, names.
        purpose: for its client id and its group, which is never joined and never committed to.
        make: makes it.
        more: configuration, with `_` for `.`.
    """
    named = {
        "bootstrap.servers": settings.bootstrap,
        "client.id": f"{client_id(settings)}-{purpose}",
        "group.id": f"{settings.app_id}-{purpose}",
    }
    return make(_READER | named | {key.replace("_", "."): value for key, value in more.items()})


def restore(
    store: Store,
    settings: Settings,
    partition: int,
    log: Range,
    count: Callable[[int], None],
    make: Callable[[dict[str, Any]], Consumer] = Consumer,
) -> int:
    """Read the changelog from where the store stands to its end.

    Done means that the reader's position has reached the end, not that the last record was seen: the log has holes
    where transaction markers and compacted records were.

    Args:
        store: changed.
        settings: brokers, changelog, time-out.
        partition: of the changelog.
        log: (first offset, last stable offset) of it.
        count: called with the number of records of each bulk: progress.
        make: makes the reader.

    Returns:
        Records read.

    Raises:
        PartitionError: nothing arrived for `restore_timeout_ms`, or a row is of another format.
    """
    topic, end = settings.changelog, log[1]
    position = max(store.changelog_offset, log[0])
    if position >= end:
        return 0
    consumer = reader(settings, "restore", make, enable_partition_eof=True)
    n = 0
    heard_at_s = time.monotonic()
    try:
        consumer.assign([TopicPartition(topic, partition, position)])
        while position < end:
            messages = consumer.consume(_BULK, timeout=0.2)
            records = []
            for message in messages:
                error = message.error()
                if error is None:
                    records.append(message)
                elif error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 librdkafka's public constant
                    raise PartitionError(f"restore of {topic}[{partition}] at offset {position}: {error.str()}")
                position = message.offset() + (error is None)
            if messages:
                heard_at_s = time.monotonic()
                take_in(store, records, position)
                n += len(records)
                count(len(records))
            elif time.monotonic() - heard_at_s > settings.restore_timeout_ms / 1000:
                raise PartitionError(
                    f"restore of {topic}[{partition}] stands at offset {position} of {end}: "
                    f"nothing read for {settings.restore_timeout_ms} ms"
                )
    finally:
        consumer.close()
    store.write()
    return n


def take_in(store: Store, messages: list[Message], changelog_offset: int) -> None:
    """Records of the changelog into the store, which stands at `changelog_offset` then.

    Raises:
        PartitionError: a row is of another format.
    """
    check_format(messages)
    applied_offset = max((m.offset() for m in messages if m.key() == applied_record.KEY), default=None)
    store.replay([(m.key(), m.value()) for m in messages], changelog_offset, applied_offset)


def confirm(
    store: Store,
    settings: Settings,
    partition: int,
    log: Range,
    make: Callable[[dict[str, Any]], Consumer] = Consumer,
) -> None:
    """Look whether the changelog holds the last commit that the store knows of, where the store knows it to be.

    Brokers can lose what they acknowledged: a cluster of one that is stopped in its midst, a leader that was not in
    sync. Then rows of the store are of events that nobody else takes for applied, and nothing later tells.

    A record that is no longer there at all was compacted away, so a later commit is there: the tail has it.

    Args:
        store: read only.
        settings: brokers, changelog, time-out.
        partition: of the changelog.
        log: (first offset, last stable offset) of it.
        make: makes the reader.

    Raises:
        LostCommitError: the log ends before the store does; or what lies there is another record, or one that was never
            committed.
        BrokerSilentError: nothing arrived in time.
    """
    topic = settings.changelog
    at, applied = store.ahead or (store.applied_offset, store.applied)
    stands = max(store.changelog_offset, -1 if at is None else at + 1)
    if stands > log[1]:
        raise LostCommitError(
            f"{store.path}: stands at offset {stands} of {topic}[{partition}], which ends at {log[1]}"
        )
    if at is None or at < log[0]:
        return
    look = partial(read_range, topic, partition, (at, at + 1), settings=settings, make=make)
    if any((found.key(), found.value()) == (applied_record.KEY, applied) for found in look("read_committed")):
        return
    if look("read_uncommitted"):
        raise LostCommitError(
            f"{store.path}: what it took for committed at offset {at} of {topic}[{partition}] is not: the brokers "
            "acknowledged it and lost it"
        )


def read_range(
    topic: str,
    partition: int,
    span: Range,
    isolation: str,
    settings: Settings,
    make: Callable[[dict[str, Any]], Consumer] = Consumer,
) -> list[Message]:
    """A topic's few records from one offset up to another, as a reader of this isolation level sees them.

    Raises:
        BrokerSilentError: nothing arrived in time.
    """
    position, end = span
    few = {"max_partition_fetch_bytes": 1 << 16, "queued_min_messages": 1}
    consumer = reader(settings, "look", make, isolation_level=isolation, enable_partition_eof=True, **few)
    found: list[Message] = []
    give_up_s = time.monotonic() + REQUEST_TIMEOUT_S
    why = "nothing read"
    try:
        consumer.assign([TopicPartition(topic, partition, position)])
        while position < end:
            for message in consumer.consume(min(end - position, _BULK), timeout=0.2):
                error = message.error()
                if error is None:
                    found.append(message)
                    position = message.offset() + 1
                    give_up_s = time.monotonic() + REQUEST_TIMEOUT_S
                elif error.code() in _NOTHING_THERE:
                    position = end
                else:
                    why = error.str()  # brokers that are away may come back
            if position < end and time.monotonic() > give_up_s:
                raise BrokerSilentError(f"{topic}[{partition}] at offset {position}: {why} for {REQUEST_TIMEOUT_S:g} s")
    finally:
        consumer.close()
    return [message for message in found if message.offset() < end]


def check_format(messages: list[Message]) -> None:
    """Every row is of a format that this version reads: found here, where its offset is known.

    One look at a byte: what lies behind it is checked when the row is used.
    """
    rows = [m for m in messages if m.value() and m.error() is None and m.key() != applied_record.KEY]
    if {m.value()[:1] for m in rows} <= _FORMATS:
        return
    bad = next(m for m in rows if m.value()[:1] not in _FORMATS)
    raise PartitionError(
        f"{bad.topic()}[{bad.partition()}] offset {bad.offset()}: a row of format {bad.value()[0]}, this version reads "
        f"{sorted(FORMATS_READ)}. Another program wrote to the changelog, or a newer version of this one did"
    )
