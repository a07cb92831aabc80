"""From publishing a trigger until its offer can be read, at a low and even rate."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

import numpy as np
from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition
from numpy.typing import NDArray

from tests.bench.kafka import Kafka
from tests.bench.load import PublishError, trigger_event, user_id
from tests.bench.program import Program
from tests.bench.system import System

SETTLE_S = 3.0
"""Sent before anything is measured: first connections, first batches."""

LAST_S = 3.0
"""For the last offers to come; one that takes longer is missing."""

GRACE_S = 10.0
OFFERED_SHARE_MIN = 0.85


class OfferReader:
    """Reads `offers` on a thread, and notes when each could be read, by its trigger's (partition, offset)."""

    def __init__(self, kafka: Kafka, topic: str) -> None:
        starts = kafka.ends(topic)
        self.read_s: dict[tuple[int, int], float] = {}
        self._consumer = Consumer(
            {
                "bootstrap.servers": kafka.bootstrap,
                "group.id": "bench-latency",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 100,
            }
        )
        self._consumer.assign([TopicPartition(topic, p, offset) for p, offset in starts.items()])
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="offers", daemon=True)

    def _read(self) -> None:
        while not self._stop.is_set():
            message = self._consumer.poll(0.1)
            now_s = time.perf_counter()
            if message is None:
                continue
            if message.error():
                raise KafkaException(message.error())
            trigger = json.loads(message.value() or b"{}")["trigger"]
            self.read_s[int(trigger["partition"]), int(trigger["offset"])] = now_s

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._consumer.close()


def send_evenly(
    kafka: Kafka,
    topic: str,
    values: Iterator[tuple[str, bytes]],
    rate_per_s: float,
    skip: int,
    tick: Callable[[int], None],
) -> dict[tuple[int, int], float]:
    """Send records one by one at an even rate, without lingering.

    Args:
        kafka: where.
        topic: where to.
        values: key and value of each.
        rate_per_s: so many a second.
        skip: the first ones, which are not noted.
        tick: called about once a second with the number sent.

    Returns:
        When each was handed to the producer, by the partition and offset it got.
    """
    sent_s: dict[tuple[int, int], float] = {}
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "partitioner": "murmur2", "linger.ms": 0, "acks": "all"})
    began_s = time.perf_counter()
    for i, (key, value) in enumerate(values):
        while (wait_s := began_s + i / rate_per_s - time.perf_counter()) > 0:
            producer.poll(wait_s)
        if i % max(int(rate_per_s), 1) == 0:
            tick(i)
        at_s = time.perf_counter()

        def delivered(error: object, message: Message, at_s: float = at_s, noted: bool = i >= skip) -> None:
            if error is None and noted:
                sent_s[message.partition() or 0, message.offset() or 0] = at_s

        producer.produce(topic, value, key, on_delivery=delivered)
    producer.flush(GRACE_S)
    return sent_s


def latencies_ms(
    kafka: Kafka,
    system: System,
    program: Program,
    users: int,
    rate_per_s: float,
    seconds: float,
    seed: int,
    report: Callable[[int], None],
) -> NDArray[np.float64]:
    """Milliseconds from `produce` until a consumer in this process holds the offer, for each trigger that got one.

    Raises:
        PublishError: fewer offers came back than triggers make (nine in ten, the rest is the holdout's).
    """
    rng = np.random.default_rng(seed)
    settled = int(SETTLE_S * rate_per_s)
    began_ms = time.time_ns() // 1_000_000  # ids of an earlier run on the same topics would be duplicates

    def triggers() -> Iterator[tuple[str, bytes]]:
        for i in range(settled + int(seconds * rate_per_s)):
            name = user_id(int(rng.integers(users)))
            yield name, trigger_event(f"latency-{began_ms}-{i}", name, time.time_ns() // 1_000_000)

    def tick(i: int) -> None:
        program.check()
        report(max(i - settled, 0))

    with OfferReader(kafka, system.offers) as reader:
        sent_s = send_evenly(kafka, system.source, triggers(), rate_per_s, settled, tick)
        time.sleep(LAST_S)
        offered = sorted(reader.read_s.keys() & sent_s.keys())
    if len(offered) < OFFERED_SHARE_MIN * len(sent_s):
        raise PublishError(f"{len(offered)} offers came back for {len(sent_s)} triggers:\n{program.log_tail()}")
    return np.array([(reader.read_s[key] - sent_s[key]) * 1000 for key in offered])
