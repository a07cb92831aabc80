"""Bulk restore: the changelog's tail into the local store, with a reader of our own."""

import logging
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from stream.core.row import FORMATS_READ
from stream.errors import PartitionError, StoreCorruptError
from stream.kafka import applied as applied_record
from stream.kafka.store import Store
from stream.settings import Settings, client_id

logger = logging.getLogger(__name__)

_BULK = 10_000
_FORMATS = frozenset(bytes([number]) for number in FORMATS_READ)

READER: dict[str, str | int | float | bool | None] = {
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
"""Of a client that reads changelogs in bulk."""


def restore(
    store: Store,
    settings: Settings,
    partition: int,
    log: tuple[int, int],
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
        StoreCorruptError: the store stands beyond the end of the log: it belongs to a changelog that lost its end.
        PartitionError: nothing arrived for `restore_timeout_ms`, or a row is of another format.
    """
    topic, end = settings.changelog, log[1]
    if store.changelog_offset > end:
        raise StoreCorruptError(
            f"{store.path}: stands at offset {store.changelog_offset} of {topic}[{partition}], which ends at {end}"
        )
    position = max(store.changelog_offset, log[0])
    if position >= end:
        return 0
    consumer = make(
        READER
        | {
            "bootstrap.servers": settings.bootstrap,
            "client.id": f"{client_id(settings)}-restore-{partition}",
            "group.id": f"{settings.app_id}-restore",  # never joined, never committed to
            "enable.partition.eof": True,
        }
    )
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
                    records.append((message.key(), message.value()))
                elif error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 librdkafka's public constant
                    raise PartitionError(f"restore of {topic}[{partition}] at offset {position}: {error.str()}")
                position = message.offset() + (error is None)
            if messages:
                heard_at_s = time.monotonic()
                check_format(messages)
                store.replay(records, position)
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
