"""A commit that comes twice: librdkafka repeats an EndTxn whose connection broke, and the first copy may come later."""

import asyncio
import time
import uuid
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from stream.errors import TransactionError
from stream.kafka.producer import TransactionalProducer
from stream.kafka.spread import SpreadProducer
from stream.settings import Settings
from tests.faults.proxy import Proxy

_END_TXN = (26).to_bytes(2, "big")


class HoldingProxy(Proxy):
    """Holds one EndTxn, breaks its client's connection, and hands the request on when it is told to."""

    def __init__(self, bootstrap: str) -> None:
        super().__init__(bootstrap)
        self.hold = False
        self.version = -1
        """Of the request that was held."""
        self._release = asyncio.Event()

    def release(self) -> None:
        """Hand it on."""
        self._loop.call_soon_threadsafe(self._release.set)

    async def _takes(self, request: bytes, client: asyncio.StreamWriter, broker: asyncio.StreamWriter) -> bool:
        if not self.hold or request[:2] != _END_TXN:
            return False
        self.hold, self.version = False, int.from_bytes(request[2:4], "big")
        client.transport.abort()
        await self._release.wait()
        broker.write(len(request).to_bytes(4, "big") + request)
        await broker.drain()
        await asyncio.Event().wait()  # for the broker's answer, which ends it
        return True


@pytest.fixture
def topic(broker: str) -> Iterator[str]:
    name = f"late-end-{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": broker})
    admin.create_topics([NewTopic(name, 1, 1)])[name].result(20)
    yield name
    admin.delete_topics([name])[name].result(20)


@pytest.fixture
def proxy(broker: str) -> Iterator[HoldingProxy]:
    with HoldingProxy(broker) as holding:
        yield holding


@pytest.fixture
def settings(proxy: HoldingProxy, topic: str) -> Settings:
    return Settings(app_id=topic, bootstrap=proxy.bootstrap)


def seen(broker: str, topic: str, n: int, wait_s: float) -> list[bytes | None]:
    """What a read_committed reader sees when it has seen `n` records, or has waited."""
    reader = Consumer({"bootstrap.servers": broker, "group.id": "late-end", "isolation.level": "read_committed"})
    found: list[bytes | None] = []
    give_up_s = time.monotonic() + wait_s
    try:
        reader.assign([TopicPartition(topic, 0, 0)])
        while len(found) < n and time.monotonic() < give_up_s:
            found += [m.value() for m in reader.consume(n, timeout=0.1) if m.error() is None]
        return found
    finally:
        reader.close()


def committed_twice(proxy: HoldingProxy, settings: Settings, topic: str) -> TransactionalProducer:
    """A producer with one transaction committed; the first copy of the request is held."""
    producer = TransactionalProducer(settings, 0)
    assert producer.initialise(lambda: True)
    producer.begin()
    producer.send(topic, [b"key"], [b"first"])
    proxy.hold = True
    producer.commit(topic, b"key", b"end of the first")
    assert proxy.version >= 0, "held"
    return producer


def test_brokers_let_a_late_commit_end_the_transaction_after_it(
    broker: str, proxy: HoldingProxy, settings: Settings, topic: str
) -> None:
    """Why `may_commit_again` is needed: half a transaction is seen, and the rest of it fails."""
    producer = committed_twice(proxy, settings, topic)
    assert proxy.version < 5, "from this version on each commit raises the epoch, and the copy would be refused"
    producer.begin()
    producer.send(topic, [b"key"], [b"half"])
    producer.flush()
    assert seen(broker, topic, 3, 1.0) == [b"first", b"end of the first"]
    proxy.release()
    assert seen(broker, topic, 3, 10.0) == [b"first", b"end of the first", b"half"]
    with pytest.raises(TransactionError):
        producer.commit(topic, b"key", b"end of the second")
    producer.close()


def test_a_commit_that_may_come_again_is_noticed_and_a_new_epoch_makes_it_void(
    broker: str, proxy: HoldingProxy, settings: Settings, topic: str
) -> None:
    producer = committed_twice(proxy, settings, topic)
    assert producer.may_commit_again
    producer.close()
    successor = TransactionalProducer(settings, 0)
    assert successor.initialise(lambda: True)
    successor.begin()
    successor.send(topic, [b"key"], [b"half"])
    successor.flush()
    proxy.release()
    assert seen(broker, topic, 3, 2.0) == [b"first", b"end of the first"]
    successor.commit(topic, b"key", b"end of the second")
    assert not successor.may_commit_again
    assert seen(broker, topic, 4, 10.0) == [b"first", b"end of the first", b"half", b"end of the second"]
    successor.close()


def test_a_tool_goes_on_under_a_new_epoch(broker: str, proxy: HoldingProxy, settings: Settings, topic: str) -> None:
    with SpreadProducer(settings, f"{topic}-tool") as producer:
        proxy.hold = True
        with producer.transaction():
            producer.send(topic, 0, [b"key"], [b"first"])
        assert proxy.version >= 0, "held"
        with producer.transaction():
            producer.send(topic, 0, [b"key"], [b"half"])
            producer._producer.flush()
            proxy.release()
            assert seen(broker, topic, 2, 2.0) == [b"first"]
            producer.send(topic, 0, [b"key"], [b"whole"])
        assert seen(broker, topic, 3, 10.0) == [b"first", b"half", b"whole"]
