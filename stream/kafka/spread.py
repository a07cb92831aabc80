"""A transactional producer whose records go to many partitions, for tools; a worker's go to its own one."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

from confluent_kafka import KafkaException, Producer

from stream.errors import DeliveryError, SetupError
from stream.kafka.producer import REPEATED_S, RETRY_BACKOFF_MS, left_over
from stream.kafka.topics import QUIET, Record
from stream.settings import Settings

TIMEOUT_S = 30.0
"""A tool that dies holds back the readers of what it wrote to for so long, unless it is called again."""


class SpreadProducer:
    """To be used as a context manager; made, it has fenced all others of its transactional id."""

    def __init__(self, settings: Settings, transactional_id: str) -> None:
        """Connect, and end what was left open under this id.

        Raises:
            SetupError: the brokers do not answer, or refuse.
        """
        self._configuration = {
            "bootstrap.servers": settings.bootstrap,
            "transactional.id": transactional_id,
            "transaction.timeout.ms": int(TIMEOUT_S * 1000),
            "message.max.bytes": 16 << 20,
            "compression.type": "lz4",
            "linger.ms": 1,
            "retry.backoff.ms": RETRY_BACKOFF_MS,
            **QUIET,
        }
        self._producer = self._connect()

    def _connect(self) -> Producer:
        producer = Producer(self._configuration)
        try:
            producer.init_transactions(TIMEOUT_S)
        except KafkaException as error:
            where = self._configuration["bootstrap.servers"]
            raise SetupError(f"no transaction from Kafka at {where}: {error.args[0].str()}") from error
        return producer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._producer.purge()
        self._producer.flush(0)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is sent within is seen together, or never.

        Raises:
            SetupError: another producer has initialised this id since.
            DeliveryError: it was taken back.
        """
        try:
            self._producer.begin_transaction()
            yield
            self._commit()
        except KafkaException as error:
            what = error.args[0]
            if what.fatal():
                raise SetupError(f"another one took over ({what.str()}); what was done before stays") from error
            with suppress(KafkaException):  # the broker aborts it after its time-out
                self._producer.abort_transaction(TIMEOUT_S)
            raise DeliveryError(f"taken back, call it again: {what.str()}") from error

    def send(self, topic: str, partition: int, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Records to one partition."""
        messages: list[dict[str, Any]] = [{"key": key, "value": value} for key, value in zip(keys, values, strict=True)]
        while messages:
            self._producer.produce_batch(topic, messages, partition)
            messages, error = left_over(messages)
            if error is not None:
                raise KafkaException(error)
            if messages:
                self._producer.flush(1.0)

    def send_as_it_is(self, topic: str, partition: int, record: Record) -> None:
        """A consumed record with its own key, value, timestamp and headers."""
        while True:
            try:
                self._producer.produce(
                    topic, record.value, record.key, partition, timestamp=record.timestamp, headers=record.headers
                )
            except BufferError:  # the queue of librdkafka is full
                self._producer.flush(1.0)
            else:
                return

    def _commit(self) -> None:
        """A time-out is neither commit nor abort: asked again, never aborted.

        Where a copy of the request may still be under way, a new epoch makes it void: it would commit half of the next
        transaction. See `TransactionalProducer.commit`.
        """
        self._producer.flush(TIMEOUT_S)
        began_s = time.monotonic()
        while True:
            try:
                self._producer.commit_transaction(TIMEOUT_S)
            except KafkaException as error:
                if not error.args[0].retriable():
                    raise
            else:
                break
        if time.monotonic() - began_s >= REPEATED_S:
            self._producer = self._connect()
