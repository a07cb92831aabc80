"""Source events to Kafka, as a shop's own services publish them."""

from collections import Counter
from contextlib import suppress

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from stream.errors import DeliveryError
from stream.kafka.cluster import admin_client, look
from stream.settings import Settings
from stream.shop.fields import SourceValue

QUEUE_KBYTES_MAX = 64 << 10
GIVE_UP_MS = 60_000


class Publisher:
    """Publishes values of the source topics, keyed by user, partitioned as Java clients do; counts by source.

    A record that Kafka refuses, or does not take within a minute, is raised by the next call: none goes missing unseen.
    """

    def __init__(self, settings: Settings, linger_ms: int) -> None:
        """Check the topics, then connect.

        Raises:
            SetupError: no broker answers, or the topics are not as they must be.
        """
        look(settings, admin_client(settings.bootstrap))
        self.published: Counter[str] = Counter()
        self._topics = settings.topic
        self._encoder = msgspec.json.Encoder()
        self._failed: KafkaError | None = None
        self._producer = Producer(
            {
                "bootstrap.servers": settings.bootstrap,
                "log_level": 0,  # what goes wrong is raised; the log would say it once per attempt to connect
                "partitioner": "murmur2",
                "enable.idempotence": True,
                "compression.type": "lz4",
                "linger.ms": linger_ms,
                "queue.buffering.max.kbytes": QUEUE_KBYTES_MAX,
                "queue.buffering.max.messages": 500_000,
                "message.max.bytes": 16 << 20,
                "message.timeout.ms": GIVE_UP_MS,
                "delivery.report.only.error": True,
            }
        )

    def publish(self, source: str, value: SourceValue) -> None:
        """Publish one event.

        Raises:
            DeliveryError: an earlier one was not delivered.
        """
        self.publish_bytes(source, value.user_id.encode(), self._encoder.encode(value))

    def publish_bytes(self, source: str, key: bytes | None, value: bytes | None) -> None:
        """Publish a record as it is.

        Raises:
            DeliveryError: an earlier one was not delivered, or this one is too large for the broker.
        """
        topic = self._topics(source)
        while True:
            try:
                self._producer.produce(topic, value, key, on_delivery=self._note)
                break
            except BufferError:  # the queue is full: wait for the broker
                self.wait(0.1)
            except KafkaException as e:
                raise DeliveryError(f"topic {topic}: {e.args[0].str()}") from e
        self.published[source] += 1
        if not self.published[source] & 0xFF:
            self.wait(0)

    def wait(self, seconds: float) -> None:
        """Let deliveries be reported for up to so long.

        Raises:
            DeliveryError: one failed.
        """
        self._producer.poll(seconds)
        if self._failed is not None:
            raise DeliveryError(f"Kafka did not take an event: {self._failed.str()} ({self._failed.name()})")

    def flush(self) -> None:
        """Return when Kafka has everything.

        Raises:
            DeliveryError: it did not take something.
        """
        while self._producer.flush(1.0):
            self.wait(0)
        self.wait(0)

    def abandon(self, seconds: float) -> int:
        """Deliver what can be delivered in so many seconds, drop the rest, and say how many records that is."""
        left: int = self._producer.flush(seconds)
        with suppress(KafkaException):
            self._producer.purge()
            self._producer.flush(0)
        return left

    def _note(self, error: KafkaError | None, message: Message) -> None:
        del message
        if error is not None and self._failed is None:
            self._failed = error
