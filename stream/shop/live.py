"""The shop in real time: customers' events out to Kafka, offers and decisions in from it."""

import queue
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec
from confluent_kafka import Consumer, TopicPartition

from stream.settings import Settings
from stream.shop.bounds import log_bounds
from stream.shop.disturb import Disturbance
from stream.shop.publish import Publisher
from stream.shop.simulate import Published, Shop

TRIGGERS_REMEMBERED = 100_000
LATENCIES_MAX = 100_000
IDLE_S = 0.05


class Received(NamedTuple):
    """A record of topic offers or decisions, and when it could be read."""

    topic: str
    value: bytes | None
    time_ms: float


class DecisionRead(msgspec.Struct):
    """What the ledger needs of a decision."""

    user_id: str
    reason: str
    campaign_id: str | None


class Reader:
    """Reads offers and decisions as they become readable, on a thread of its own, from the end of the topics on.

    Read committed: an offer whose transaction is aborted was never made.
    """

    def __init__(self, settings: Settings) -> None:
        """Start reading.

        Raises:
            SetupError: the topics are not there.
        """
        # No SimpleQueue: after a put and a get, CPython's waits for ever in a get whose time-out is over at once.
        self.received: queue.Queue[Received] = queue.Queue()
        self.error = ""
        self._consumer = Consumer(
            {
                "bootstrap.servers": settings.bootstrap,
                "group.id": f"{settings.app_id}-shop",  # never joined: partitions are assigned
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 10,
                "log_level": 0,
            }
        )
        self._names = {settings.topic(name): name for name in ("offers", "decisions")}
        # Ends are looked up now: what is offered from here on is read.
        self._consumer.assign(
            [
                TopicPartition(topic, partition, end)
                for topic, name in self._names.items()
                for partition, (_, end) in log_bounds(settings, name).items()
            ]
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="offers", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._stop.is_set():
            message = self._consumer.poll(0.1)
            if message is None:
                continue
            if message.error():
                self.error = message.error().str()
                continue
            self.received.put(Received(self._names[message.topic()], message.value(), time.time() * 1000))

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        self._thread.join()
        self._consumer.close()


class Live:
    """Runs the shop by the wall clock."""

    def __init__(self, shop: Shop, publisher: Publisher, reader: Reader, disturbance: Disturbance) -> None:
        self.shop = shop
        self.publisher = publisher
        self.reader = reader
        self.latencies_ms: list[float] = []
        """From publishing a trigger until its offer could be read."""
        self.decisions: Counter[str] = Counter()
        self.disturbance = disturbance
        self._decoder = msgspec.json.Decoder(DecisionRead)
        self._published_ms: OrderedDict[tuple[str, int], float] = OrderedDict()

    def history(self, end_ms: int, show: Callable[[], None]) -> None:
        """Publish what happens before `end_ms` as fast as Kafka takes it.

        Raises:
            DeliveryFailed: it does not.
        """
        for i, published in enumerate(self.shop.until(end_ms)):
            self._publish(published)
            if not i & 0x1FF:
                show()
        self.publisher.flush()

    def run(self, done: Callable[[], bool]) -> None:
        """Let time pass until `done` says so.

        Raises:
            DeliveryFailed: Kafka does not take events.
        """
        while not done():
            now_ms = int(time.time() * 1000)
            for published in self.shop.until(now_ms + 1):
                # What is due is published now, and that is its time: late only if this machine is.
                published.value.time_ms = int(time.time() * 1000)
                self._publish(published)
            self.publisher.wait(0)
            wait_s = min(max(self.shop.next_ms / 1000 - time.time(), 0.0005), IDLE_S)
            try:
                self._receive(self.reader.received.get(timeout=wait_s))
            except queue.Empty:
                continue

    def drain(self) -> None:
        """Take in what was already received, publish what that makes due, and wait until Kafka has it.

        Raises:
            DeliveryFailed: Kafka does not take it.
        """
        while not self.reader.received.empty():
            self._receive(self.reader.received.get())
        self.publisher.flush()

    def _publish(self, published: Published) -> None:
        source, value = published
        self.publisher.publish(source, value)
        if source == "clickstream":
            self._published_ms[value.user_id, value.time_ms] = time.time() * 1000
            if len(self._published_ms) > TRIGGERS_REMEMBERED:
                self._published_ms.popitem(last=False)
        self.disturbance.after(source, value, self.publisher)

    def _receive(self, received: Received) -> None:
        if received.topic == "decisions":
            try:
                decision = self._decoder.decode(received.value or b"")
            except msgspec.DecodeError:
                self.decisions["unreadable"] += 1
                return
            self.decisions[decision.reason] += 1
            if decision.reason in ("offered", "holdout") and decision.campaign_id:
                held_out = decision.reason == "holdout"
                self.shop.ledger.decided(decision.campaign_id, decision.user_id, held_out=held_out)
            return
        now_ms = int(time.time() * 1000)
        for published in self.shop.offer(received.value, now_ms):
            self._publish(published)
            self._measure(received)

    def _measure(self, received: Received) -> None:
        trigger = msgspec.json.decode(received.value or b"{}", type=_Triggered)
        published_ms = self._published_ms.get((trigger.user_id, trigger.trigger.time_ms))
        if published_ms is not None and len(self.latencies_ms) < LATENCIES_MAX:
            self.latencies_ms.append(received.time_ms - published_ms)


class _TriggerTime(msgspec.Struct):
    time_ms: int


class _Triggered(msgspec.Struct):
    user_id: str
    trigger: _TriggerTime


def percentile(values: Iterable[float], share: float) -> float:
    """The value that a share of the values does not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0
