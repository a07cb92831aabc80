"""The bulk producer: librdkafka, one for each partition, writing to that partition by number.

Its calls block and release the GIL, so each partition uses it from a thread of its own. Errors are never lost: a record
that the broker refuses, or that cannot be delivered in time, is raised by the next `flush`.
"""

from collections.abc import Iterable
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from stream.errors import DeliveryError
from stream.settings import Settings, client_id

Header = tuple[str, bytes]


class BulkProducer:
    """Records to one partition of several topics."""

    def __init__(self, settings: Settings, partition: int, *, report_offsets: bool = False) -> None:
        """Connect lazily; nothing is sent yet.

        Args:
            settings: brokers and the time a delivery may take.
            partition: where every record goes.
            report_offsets: call back for every record, so that `send_last` knows its offset; costs 0.5 us a record, so
                bulk goes without.
        """
        self._partition = partition
        self._failed: KafkaError | None = None
        self._closed = False
        self._last_offset = -1
        self._producer = Producer(
            {
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
                "message.timeout.ms": settings.delivery_timeout_ms,
                "delivery.report.only.error": not report_offsets,
            }
        )

    def _note(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failed = self._failed or error
        else:
            self._last_offset = message.offset() or 0

    def send(self, topic: str, keys: Iterable[bytes], values: Iterable[bytes]) -> None:
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
            self._producer.produce_batch(topic, messages, self._partition, self._note)
            messages = self._not_taken(messages)

    def send_with_headers(self, topic: str, records: Iterable[tuple[bytes | None, bytes | None, list[Header]]]) -> None:
        """As `send`, records that have headers."""
        self._check()
        for key, value, headers in records:
            while True:
                try:
                    self._producer.produce(topic, value, key, self._partition, self._note, headers=headers)
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

    def _not_taken(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those for which the queue had no room, once it has some."""
        left = [message for message in messages if "_error" in message]
        for message in left:
            error = message.pop("_error")
            if error.code() != KafkaError._QUEUE_FULL:  # noqa: SLF001 larger than any broker takes
                raise self._not_delivered(error)
        if left:
            self._make_room()
        return left

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
