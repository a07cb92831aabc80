"""What a commit sends, and in which order."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stream.kafka import applied as applied_record
from stream.kafka.control import InForce
from stream.kafka.emit import DeadRecord, Outputs
from stream.kafka.outside import Outside
from stream.kafka.producer import BulkProducer, TransactionalProducer
from stream.metrics import Metrics, Tally
from stream.settings import Settings


@dataclass
class Unsent:
    """What was computed since the last commit began."""

    outputs: Outputs
    tally: Tally
    number: int
    in_force: InForce | None = None
    """In the latest batch; None = there was no batch."""
    published_ms: list[NDArray[np.int64]] = field(default_factory=list)
    """Publish times of the triggers of offers."""

    def sent(self, applied: bytes, positions: dict[str, int]) -> "Sent":
        """It, as a commit on its way."""
        published_ms = np.concatenate([np.empty(0, np.int64), *self.published_ms])
        return Sent(self.outputs, self.tally, applied, positions, self.number, published_ms)


@dataclass(frozen=True)
class Sent:
    """A commit on its way: bytes, which no later batch can change."""

    outputs: Outputs
    tally: Tally
    applied: bytes
    """The applied record that speaks for these outputs."""
    positions: dict[str, int]
    """Next offset by source, once this is stored."""
    number: int
    """Of the partition's commits."""
    published_ms: NDArray[np.int64]
    """Publish times of the triggers of the offers."""


class AtLeastOnce:
    """Every event is applied and every offer is out; an offer may be out twice after a crash."""

    APPLIED_TO_END = 1
    """Offsets from the applied record to the end of its commit in the changelog."""

    def __init__(self, settings: Settings, partition: int, metrics: Metrics, outside: Outside) -> None:
        self._settings = settings
        self._metrics = metrics
        self._producer = BulkProducer(settings, partition, make=outside.producer)
        self._applied_producer = BulkProducer(settings, partition, report_offsets=True, make=outside.producer)

    def initialise(self, still_wanted: Callable[[], bool]) -> bool:
        """Nothing: nobody can be fenced."""
        return still_wanted()

    def send(self, sent: Sent) -> int:
        """Three steps, each begun when the one before is acknowledged.

        1. Offers, decisions and dead letters. Rows first would lose an offer: after a crash the row's fence would skip
           its event.
        2. Rows.
        3. The applied record. It speaks for rows that must be there.

        Returns:
            The applied record's offset.

        Raises:
            DeliveryError: a record was not taken; whatever follows it has not been sent.
        """
        settings, producer = self._settings, self._producer
        # 1.
        sent.outputs.send(producer, settings)
        producer.flush()
        _observe_latency(sent, self._metrics)
        # 2.
        producer.send(settings.changelog, sent.outputs.rows.keys(), sent.outputs.rows.values())
        producer.flush()
        # 3.
        return self._applied_producer.send_last(settings.changelog, applied_record.KEY, sent.applied)

    @property
    def may_commit_again(self) -> bool:
        """Never: there is nothing to commit."""
        return False

    def close(self) -> None:
        """Drop what is not sent."""
        self._producer.close()
        self._applied_producer.close()


class ExactlyOnce:
    """Every event is applied once and every offer is seen once, by readers with `isolation.level=read_committed`."""

    APPLIED_TO_END = 2
    """See `AtLeastOnce`; the transaction's marker has an offset of its own."""

    def __init__(self, settings: Settings, partition: int, metrics: Metrics, outside: Outside) -> None:
        self._settings = settings
        self._metrics = metrics
        self._producer = TransactionalProducer(settings, partition, outside.producer)

    def initialise(self, still_wanted: Callable[[], bool]) -> bool:
        """Fence the partition's former owners; see `TransactionalProducer.initialise`."""
        return self._producer.initialise(still_wanted)

    def send(self, sent: Sent) -> int:
        """One transaction: outputs, rows and the applied record are seen all together or never.

        1. Begin. Whoever was fenced meanwhile is told at the first record, and no reader sees that one.
        2. Outputs and rows, in any order: no reader sees one without the others.
        3. The applied record, last: nothing in the changelog is behind it but the transaction's marker, so its offset
           tells how far the next owner has to read.
        4. Commit. Nothing else moves until the brokers have said that it is committed: a time-out is neither yes nor
           no.

        Source offsets are no part of it. The applied record is the only authority on them; to send them along would
        cost two more requests a commit, to fence those whom the transactional id fences already.

        Returns:
            The applied record's offset.

        Raises:
            TransactionError: nothing of it will be seen; or nobody knows, and the next `initialise` finds out.
        """
        settings, producer = self._settings, self._producer
        # 1.
        producer.begin()
        # 2.
        sent.outputs.send(producer, settings)
        producer.send(settings.changelog, sent.outputs.rows.keys(), sent.outputs.rows.values())
        # 3. and 4.
        offset = producer.commit(settings.changelog, applied_record.KEY, sent.applied)
        _observe_latency(sent, self._metrics)
        return offset

    def abort(self, places: Iterable[tuple[str, int]]) -> None:
        """See `TransactionalProducer.abort`. In turn: the last place hangs until all others are done."""
        for topic, partition in places:
            self._producer.abort(topic, partition)

    def rewrite(self, applied: bytes, outputs: dict[str, list[DeadRecord]]) -> None:
        """A transaction in which nothing new is applied: another applied record, and outputs sent again, by topic."""
        self._producer.begin()
        for topic, records in outputs.items():
            self._producer.send_with_headers(topic, records)
        self._producer.commit(self._settings.changelog, applied_record.KEY, applied)

    @property
    def may_commit_again(self) -> bool:
        """See `TransactionalProducer`: then no other transaction may follow, only a take-over."""
        return self._producer.may_commit_again

    def close(self) -> None:
        """Drop what is not sent; an open transaction is aborted by the next owner, or by its time-out."""
        self._producer.close()


Sender = AtLeastOnce | ExactlyOnce
SENDERS: dict[str, type[AtLeastOnce] | type[ExactlyOnce]] = {
    "at_least_once": AtLeastOnce,
    "exactly_once": ExactlyOnce,
}
"""By the setting `guarantee`."""


def _observe_latency(sent: Sent, metrics: Metrics) -> None:
    now_ms = time.time_ns() // 1_000_000
    for published_ms in sent.published_ms.tolist():
        metrics.offer_latency.observe((now_ms - published_ms) / 1000)
