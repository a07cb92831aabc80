"""What a commit sends, and in which order."""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream.kafka import applied as applied_record
from stream.kafka.emit import Outputs
from stream.kafka.producer import BulkProducer
from stream.metrics import Metrics
from stream.settings import Settings


@dataclass(frozen=True)
class Sent:
    """A commit on its way: bytes, which no later batch can change."""

    outputs: Outputs
    applied: bytes
    """The applied record that speaks for these outputs."""
    positions: dict[str, int]
    """Next offset by source, once this is stored."""
    number: int
    """Of the partition's commits."""
    published_ms: NDArray[np.int64]
    """Publish times of the triggers of the offers."""


def send_at_least_once(
    sent: Sent, producer: BulkProducer, applied_producer: BulkProducer, settings: Settings, metrics: Metrics
) -> int:
    """Three steps, each begun when the one before is acknowledged.

    1. Offers, decisions and dead letters. Rows first would lose an offer: after a crash the row's fence would skip its
       event.
    2. Rows.
    3. The applied record. It speaks for rows that must be there.

    Returns:
        The changelog's offset behind the applied record.

    Raises:
        DeliveryError: a record was not taken; whatever follows it has not been sent.
    """
    # 1.
    sent.outputs.send(producer, settings)
    producer.flush()
    now_ms = time.time_ns() // 1_000_000
    for published_ms in sent.published_ms.tolist():
        metrics.offer_latency.observe((now_ms - published_ms) / 1000)
    # 2.
    producer.send(settings.changelog, sent.outputs.rows.keys(), sent.outputs.rows.values())
    producer.flush()
    # 3.
    return applied_producer.send_last(settings.changelog, applied_record.KEY, sent.applied) + 1
