"""The bulk producer: librdkafka, one for each partition, writing to that partition by number.

Its calls block and release the GIL, so each partition uses it from a thread of its own. Errors are never lost: a record
that the broker refuses, or that cannot be delivered in time, is raised by the next `flush` or `commit`.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from stream.errors import DeliveryError, FencedError, TransactionError
from stream.settings import Settings, client_id

Header = tuple[str, bytes]

_SLICE_S = 1.0
"""How long a call that waits for the brokers may hold its thread before it looks whether it is still wanted."""

RETRY_BACKOFF_MS = 500
REPEATED_S = 0.8 * RETRY_BACKOFF_MS / 1000
"""librdkafka waits for its backoff, less a fifth at most, before it repeats a request: what took less was sent once."""

_FENCED = (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH)  # noqa: SLF001 public


def _configuration(settings: Settings, partition: int) -> dict[str, Any]:
    return {
        "bootstrap.servers": settings.bootstrap,
        "client.id": f"{client_id(settings)}-{partition}",
        "acks": "all",
        "enable.idempotence": True,
        "linger.ms": 1,
        "compression.type": "lz4",
        "batch.size": 1 << 20,
        "message.max.bytes": 16 << 20,
        "queue.buffering.max.kbytes": 32 << 10,
        "queue.buffering.max.messages": 1_000_000,
    }


def left_over(messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], KafkaError | None]:
    """Of what was given to `produce_batch`: for which the queue had no room, and what it refused for good.

    What is refused is larger than any broker takes.
    """
    left = [message for message in messages if "_error" in message]
    errors = [message.pop("_error") for message in left]
    refused = (error for error in errors if error.code() != KafkaError._QUEUE_FULL)  # noqa: SLF001 public
    return left, next(refused, None)


class BulkProducer:
    """Records to one partition of several topics."""

    def __init__(
        self,
        settings: Settings,
        partition: int,
        *,
        report_offsets: bool = False,
        make: Callable[[dict[str, Any]], Producer] = Producer,
    ) -> None:
        """Connect lazily; nothing is sent yet.

        Args:
            settings: brokers and the time a delivery may take.
            partition: where every record goes.
            report_offsets: call back for every record, so that `send_last` knows its offset; costs 0.5 us a record, so
                bulk goes without.
            make: makes the client.
        """
        own = {"message.timeout.ms": settings.delivery_timeout_ms, "delivery.report.only.error": not report_offsets}
        self._begin(settings, partition, own, self._note, make)

    def _begin(
        self,
        settings: Settings,
        partition: int,
        own: dict[str, Any],
        on_bulk: Callable[..., None] | None,
        make: Callable[[dict[str, Any]], Producer],
    ) -> None:
        self._partition = partition
        self._failed: KafkaError | None = None
        self._closed = False
        self._last_offset = -1
        self._noted_s = 0.0
        """When a delivery was reported last."""
        self._on_bulk = on_bulk
        """Called back for records of `send`."""
        self._producer = make(_configuration(settings, partition) | own)

    def _note(self, error: KafkaError | None, message: Message) -> None:
        self._noted_s = time.monotonic()
        if error is not None:
            self._failed = self._failed or error
        else:
            self._last_offset = message.offset() or 0

    def send(self, topic: str, keys: Iterable[bytes], values: Iterable[bytes | None]) -> None:
        """Hand over records; they are out after `flush`.

        All in one call: `produce` lets go of Python's lock and takes it again for every record, and each time the
        compute thread is held up. That alone cost a third of the throughput.

        Records are handed over in order, until the queue is full in their midst: then those that found no room follow
        behind.

        Raises:
            DeliveryError: one cannot be sent, or an earlier one was not.
        """
        self._check()
        messages = [{"key": key, "value": value} for key, value in zip(keys, values, strict=True)]
        while messages:
            self._producer.produce_batch(topic, messages, self._partition, self._on_bulk)
            messages, error = left_over(messages)
            if error is not None:
                raise self._not_delivered(error)
            if messages:
                self._make_room()

    def send_with_headers(self, topic: str, records: Iterable[tuple[bytes | None, bytes | None, list[Header]]]) -> None:
        """As `send`, records that have headers."""
        self._check()
        for key, value, headers in records:
            self._produce(topic, key, value, self._on_bulk, headers)

    def send_across(self, topic: str, records: Iterable[tuple[int, bytes, bytes]]) -> None:
        """As `send`, records to any partition: (partition, key, value)."""
        self._check()
        for partition, key, value in records:
            self._produce(topic, key, value, self._on_bulk, [], partition)

    def _produce(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        on_delivery: Callable[..., None] | None,
        headers: list[Header],
        partition: int | None = None,
    ) -> None:
        """Hand over one record, once the queue has room for it; to the own partition, if none is named."""
        to = self._partition if partition is None else partition
        while True:
            try:
                self._producer.produce(topic, value, key, to, on_delivery, headers=headers)
                break
            except BufferError:
                self._make_room()
            except KafkaException as e:
                raise self._not_delivered(e.args[0]) from e

    def send_last(self, topic: str, key: bytes, value: bytes) -> int:
        """Send one record, wait until it is acknowledged.

        Returns:
            Its offset. Only with `report_offsets`.
        """
        self.send(topic, [key], [value])
        self.flush()
        return self._last_offset

    def _make_room(self) -> None:
        """The queue of librdkafka is full: let it send."""
        self._producer.flush(1.0)
        self._check()

    def _check(self) -> None:
        if self._closed:
            raise DeliveryError(f"partition {self._partition}: it was let go of")
        if self._failed:
            raise self._not_delivered(self._failed)

    def _not_delivered(self, error: KafkaError) -> DeliveryError:
        return DeliveryError(f"partition {self._partition}: {error.str()} ({error.name()})")

    def flush(self) -> None:
        """Wait until everything sent is acknowledged.

        Raises:
            DeliveryError: something was not.
        """
        while self._producer.flush(1.0):
            self._check()
        self._check()

    def close(self) -> None:
        """Drop what is not sent. A thread that still sends is stopped: the partition may be another worker's now."""
        self._closed = True
        try:
            self._producer.purge()
            self._producer.flush(0)
        except KafkaException:  # closing anyway
            pass


class TransactionalProducer(BulkProducer):
    """Records to one partition of several topics, which a read_committed reader sees all together or never.

    Its transactional id is the partition's, the same in every worker: of all that were ever made, the one that called
    `initialise` last can write, and the brokers refuse the others. After an error it is of no further use: a
    successor's `initialise` aborts what it left open.
    """

    def __init__(
        self, settings: Settings, partition: int, make: Callable[[dict[str, Any]], Producer] = Producer
    ) -> None:
        """Connect lazily; nobody is fenced yet."""
        own = {
            "transactional.id": transactional_id(settings, partition),
            "transaction.timeout.ms": settings.transaction_timeout_ms,
            "message.timeout.ms": settings.transaction_timeout_ms,
            "retry.backoff.ms": RETRY_BACKOFF_MS,
        }
        # A record that is not delivered fails its transaction, so bulk needs no reports at all.
        self._begin(settings, partition, own, None, make)
        self._give_up_ms = settings.delivery_timeout_ms
        self.may_commit_again = False
        """The request for the last commit may have been sent twice, and the copy may still be under way."""

    def initialise(self, still_wanted: Callable[[], bool]) -> bool:
        """Fence every other producer of this partition, and wait until what they left open is aborted or committed.

        Args:
            still_wanted: asked once a second; False gives up.

        Returns:
            Whether it was done.

        Raises:
            TransactionError: it was not, within `delivery_timeout_ms`.
        """
        return self._insist(self._producer.init_transactions, still_wanted)

    def begin(self) -> None:
        """Begin a transaction: everything sent from here on belongs to it.

        Raises:
            TransactionError: this producer has failed or was fenced.
        """
        self._check()
        try:
            self._producer.begin_transaction()
        except KafkaException as e:
            raise self._not_delivered(e.args[0]) from e

    def commit(self, topic: str, key: bytes, value: bytes) -> int:
        """Send the transaction's last record and commit it.

        A commit that times out may have happened or not, so it is asked for again until the brokers say which. If its
        connection breaks, librdkafka itself sends the request again over another one. The first copy may still come: it
        bears the epoch that the next transaction has too (librdkafka speaks the protocol in which a commit does not
        raise it, whatever brokers can), and would commit what there is of that. So there must be none:
        `may_commit_again`.

        Returns:
            The record's offset; the transaction's marker has the next one.

        Raises:
            TransactionError: the transaction was not committed; or nobody knows, since no broker answers.
        """
        self._last_offset = -1
        self._produce(topic, key, value, self._note, [])
        self._insist(self._producer.commit_transaction, lambda: True)
        # Deliveries are reported before the commit is asked for.
        self.may_commit_again = time.monotonic() - self._noted_s >= REPEATED_S
        if self._last_offset < 0:
            raise TransactionError(f"partition {self._partition}: committed, but where is not known")
        return self._last_offset

    def abort(self, topic: str, partition: int) -> None:
        """Abort all that this transactional id has open in one partition of a topic.

        The transaction for it reaches back to the first open record, whoever began there.

        Raises:
            TransactionError: it was not done.
        """
        self.begin()
        self._produce(topic, b"", None, self._note, [], partition)
        self.flush()
        self._insist(self._producer.abort_transaction, lambda: True)

    def _insist(self, call: Callable[[float], None], still_wanted: Callable[[], bool]) -> bool:
        """Repeat a call of librdkafka's that goes on behind a time-out where it was."""
        give_up_s = time.monotonic() + self._give_up_ms / 1000
        while still_wanted():
            self._check()
            try:
                call(_SLICE_S)
            except KafkaException as e:
                error: KafkaError = e.args[0]
                if not error.retriable() or time.monotonic() > give_up_s:
                    raise self._not_delivered(error) from e
            else:
                return True
        return False

    def _not_delivered(self, error: KafkaError) -> DeliveryError:
        message = f"partition {self._partition}: {error.str()} ({error.name()})"
        return FencedError(message) if error.code() in _FENCED else TransactionError(message)


def transactional_id(settings: Settings, partition: int) -> str:
    """One for each partition of an application, for ever: it is what fences."""
    return f"{settings.app_id}-{partition}"
