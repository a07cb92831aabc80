"""What the protocol takes for granted of Kafka and librdkafka, on the real broker; and partitions that rely on it."""

import asyncio
import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from stream.errors import DeliveryError, FencedError, TransactionError
from stream.kafka.cluster import log_ranges
from stream.kafka.partitions import FAILURES_PER_MINUTE_MAX, Flow, Partitions
from stream.kafka.producer import TransactionalProducer
from stream.kafka.topics import Topics
from tests.e2e import expect
from tests.e2e.harness import Site, wait_until
from tests.faults.proxy import Proxy
from tests.kafka.test_partition import NOTHING, Room, batch_of, clicks


@pytest.fixture
def site(broker: str, topic_prefix: str, tmp_path: Path) -> Site:
    return Site(broker, topic_prefix, tmp_path, partitions=1)


def always() -> bool:
    return True


def opened(site: Site, transaction_timeout_ms: int = 15_000) -> TransactionalProducer:
    producer = TransactionalProducer(
        dataclasses.replace(site.settings, transaction_timeout_ms=transaction_timeout_ms), 0
    )
    assert producer.initialise(always)
    return producer


def last_stable_offset(site: Site) -> int:
    client = AdminClient({"bootstrap.servers": site.settings.bootstrap, "log_level": 0})
    return log_ranges(client, [(site.settings.changelog, 0)])[site.settings.changelog, 0][1]


def offers(site: Site) -> list[bytes | None]:
    return [record.value for record in site.out("offers")]


def write(site: Site, producer: TransactionalProducer, value: bytes) -> None:
    producer.begin()
    producer.send(site.settings.topic("offers"), [b"k"], [value])


def test_a_marker_follows_the_last_record_and_the_log_is_stable_behind_it(site: Site) -> None:
    """So the end of a commit is the offset of its applied record and two, to the restore and to who stays owner."""
    producer = opened(site)
    for i in range(3):
        write(site, producer, b"%d" % i)
        producer.send(site.settings.changelog, [b"u"] * 5, [b"row"] * 5)
        offset = producer.commit(site.settings.changelog, b"\xff", b"applied")
        assert offset == 7 * i + 5
        wait_until(lambda: last_stable_offset(site) > offset, "the marker", 5)  # noqa: B023
        assert last_stable_offset(site) == offset + 2
    assert offers(site) == [b"0", b"1", b"2"]
    producer.close()


def test_the_last_to_initialise_writes_and_nobody_else(site: Site) -> None:
    """A zombie with an open transaction, one that begins a new one, one in the middle of its commit."""
    zombies = [opened(site)]
    write(site, zombies[0], b"open")
    zombies[0]._producer.flush(5)  # the broker has it
    idle, owner = opened(site), opened(site)
    zombies.append(idle)
    assert last_stable_offset(site) == 0  # nothing of the open one holds the log back
    with pytest.raises(FencedError, match="partition 0"):
        zombies[0].commit(site.settings.changelog, b"\xff", b"zombie")
    write(site, idle, b"late")
    with pytest.raises(FencedError):
        idle.commit(site.settings.changelog, b"\xff", b"zombie")
    write(site, owner, b"owner")
    owner.commit(site.settings.changelog, b"\xff", b"owner")
    with pytest.raises(DeliveryError):  # for good
        idle.begin()
    assert offers(site) == [b"owner"]
    assert [r.value for r in site.read(site.settings.changelog)] == [b"owner"]
    for producer in (*zombies, owner):
        producer.close()


def test_what_a_dead_owner_left_open_is_aborted_by_its_time_out(site: Site) -> None:
    """Where nobody takes over, readers wait that long and no longer."""
    producer = opened(site, transaction_timeout_ms=2_000)
    write(site, producer, b"never")
    producer._producer.flush(5)
    other = TransactionalProducer(dataclasses.replace(site.settings, app_id="other"), 0)
    assert other.initialise(always)
    write(site, other, b"behind it")
    other.commit(site.settings.topic("decisions"), b"k", b"v")
    assert site.read(site.settings.topic("offers")) == []  # held back: the log is stable up to the open transaction
    end_s = time.monotonic() + 60  # the broker looks every 10 s
    while offers(site) != [b"behind it"]:
        assert time.monotonic() < end_s
        time.sleep(0.5)
    with pytest.raises(TransactionError):  # it looks like a zombie, though nobody took over
        producer.commit(site.settings.changelog, b"\xff", b"late")
    producer.close()
    other.close()


@pytest.mark.parametrize("cut_s", [0.0, 0.002, 0.01])
def test_a_commit_that_is_cut_off_is_asked_for_until_it_is_sure(site: Site, cut_s: float) -> None:
    """Neither yes nor no, for three seconds; then the brokers say what happened, and it happened once."""
    with Proxy(site.settings.bootstrap) as proxy:
        producer = TransactionalProducer(dataclasses.replace(site.settings, bootstrap=proxy.bootstrap), 0)
        assert producer.initialise(always)
        write(site, producer, b"once")
        producer._producer.flush(5)
        timers = [threading.Timer(after_s, act) for after_s, act in ((cut_s, proxy.cut), (3 + cut_s, proxy.mend))]
        for timer in timers:
            timer.start()
        offset = producer.commit(site.settings.changelog, b"\xff", b"applied")
        for timer in timers:
            timer.join()
        producer.close()
    assert offers(site) == [b"once"]
    assert [(r.offset, r.value) for r in site.read(site.settings.changelog)] == [(offset, b"applied")]


def test_a_commit_waits_until_the_queue_has_room_for_its_last_record(site: Site) -> None:
    """Much was sent and the brokers are slow: no reason to throw it all away."""
    with Proxy(site.settings.bootstrap) as proxy:
        producer = TransactionalProducer(dataclasses.replace(site.settings, bootstrap=proxy.bootstrap), 0)
        assert producer.initialise(always)
        producer.begin()
        proxy.cut()
        producer.send(site.settings.changelog, [b"u%d" % i for i in range(63)], [bytes(520 << 10)] * 63)
        with pytest.raises(BufferError):  # or nothing is shown here
            producer._producer.produce(site.settings.changelog, bytes(100 << 10))
        timer = threading.Timer(1, proxy.mend)
        timer.start()
        offset = producer.commit(site.settings.changelog, b"\xff", bytes(100 << 10))
        timer.join()
        producer.close()
    assert offset == 63
    assert len(site.read(site.settings.changelog)) == 64


def test_initialising_is_given_up_when_it_is_not_wanted(site: Site) -> None:
    producer = TransactionalProducer(dataclasses.replace(site.settings, bootstrap="127.0.0.1:1"), 0)
    asked: list[int] = []

    def twice() -> bool:
        asked.append(1)
        return len(asked) <= 2

    assert not producer.initialise(twice)
    assert len(asked) == 3
    producer.close()


def test_without_a_broker_it_is_an_error_in_the_end(site: Site) -> None:
    settings = dataclasses.replace(site.settings, bootstrap="127.0.0.1:1", delivery_timeout_ms=1_000)
    producer = TransactionalProducer(settings, 0)
    with pytest.raises(TransactionError, match="partition 0"):
        producer.initialise(always)
    producer.close()


class Owner:
    """A worker's partitions, and what was asked of the flow of their events."""

    def __init__(self, room: Room) -> None:
        self.held: list[int] = []
        self.gone_on = asyncio.Event()
        self.partitions = Partitions(room.shared, Flow(self.held.append, self._go_on))

    async def _go_on(self, _: int) -> None:
        self.gone_on.set()


def test_a_partition_that_was_fenced_is_taken_over_anew(site: Site) -> None:
    """What it had computed is forgotten; batches fetched before are not applied; it goes on where its rows stand."""

    async def story() -> None:
        room = Room(site, session_timeout_ms=6_000)
        owner = Owner(room)
        partitions = owner.partitions
        assert await partitions.take_over({0}, always)
        life = partitions.lives()[0]
        first, second = (room.batch(clicks(5, 5 * i), 5 * i)._replace(life=life) for i in range(2))
        await partitions.apply(first, NOTHING)
        await partitions.drain()
        other = opened(site)
        await partitions.apply(second, NOTHING)
        await asyncio.wait_for(owner.gone_on.wait(), 30)
        assert owner.held == [0]
        assert partitions.lives()[0] != life
        assert partitions[0].read["clickstream"] == 5
        await partitions.apply(second, NOTHING)  # waited in a queue
        assert partitions[0].read["clickstream"] == 5
        await partitions.apply(second._replace(life=partitions.lives()[0]), NOTHING)
        await partitions.drain()
        assert partitions[0].committed["clickstream"] == 10
        await partitions.close()
        other.close()
        assert not room.fatal
        assert room.metrics.registry.get_sample_value("offerstream_transactions_failed_total") == 1
        assert room.metrics.registry.get_sample_value("offerstream_restoring") == 0

    asyncio.run(story())
    expect.check_all(site, [])


def test_a_partition_that_fails_while_others_are_taken_over_is_taken_over_too(
    broker: str, topic_prefix: str, tmp_path: Path
) -> None:
    """It was to stay, and its last commit fails: the take-over is not done until it is there again."""
    site = Site(broker, topic_prefix, tmp_path, partitions=2)

    async def story() -> None:
        room = Room(site, commit_interval_ms=60_000)
        partitions = Owner(room).partitions
        assert await partitions.take_over({0}, always)
        first = partitions[0]
        site.publish(clicks(10))
        with Topics(site.settings.bootstrap) as topics:
            ((_, records),) = topics.read([(site.settings.topic("clickstream"), 0)])
        await partitions.apply(batch_of({"clickstream": records}, more_waits=True, life=first.life), NOTHING)
        other = opened(site)
        taken, _ = await asyncio.gather(partitions.take_over({0, 1}, always), partitions.drain())
        assert first.failed
        assert taken
        assert set(partitions.lives()) == {0, 1}
        assert partitions[0].read["clickstream"] == 0
        await partitions.close()
        other.close()
        assert not room.fatal

    asyncio.run(story())


def test_brokers_that_are_silent_during_a_take_over_cost_no_process(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For longer than one question waits: a leader that was killed has no successor for some 10 s."""
    monkeypatch.setattr("stream.kafka.cluster.REQUEST_TIMEOUT_S", 1.0)
    fence = TransactionalProducer.initialise
    timers: list[threading.Timer] = []
    with Proxy(site.settings.bootstrap) as proxy:

        def then_silence(self: TransactionalProducer, still_wanted: Callable[[], bool]) -> bool:
            done = fence(self, still_wanted)
            if not timers:
                proxy.cut()
                timers.append(threading.Timer(4, proxy.mend))
                timers[0].start()
            return done

        monkeypatch.setattr(TransactionalProducer, "initialise", then_silence)

        async def story() -> None:
            partitions = Owner(Room(site, bootstrap=proxy.bootstrap)).partitions
            assert await partitions.take_over({0}, always)
            assert partitions.lives()[0] > 1
            await partitions.close()

        asyncio.run(story())
        timers[0].join()


@pytest.mark.parametrize("moved_on", ["before", "after"])
def test_a_zombie_lets_go(site: Site, tmp_path: Path, moved_on: str) -> None:
    """Whom the group has left out takes nothing over again: whether it knows when its commit fails, or soon after."""

    async def story() -> None:
        room = Room(site)
        zombie = Owner(room)
        ours = True
        await zombie.partitions.take_over({0}, lambda: ours)
        batch = room.batch(clicks(5), 0)._replace(life=zombie.partitions.lives()[0])
        owner = Owner(Room(site, data_dir=tmp_path / "another disk"))
        await owner.partitions.take_over({0}, always)
        ours = moved_on == "after"
        await zombie.partitions.apply(batch, NOTHING)
        await zombie.partitions.drain()
        ours = False
        await owner.partitions.apply(batch, NOTHING)
        await owner.partitions.drain()
        assert owner.partitions[0].committed["clickstream"] == 5
        assert zombie.partitions.positions() == zombie.partitions.committable() == {}
        await asyncio.sleep(4)
        assert zombie.partitions.lives() == {}
        assert not zombie.gone_on.is_set()
        assert owner.partitions.lives()
        for one in (zombie, owner):
            await one.partitions.close()
        assert not room.fatal

    asyncio.run(story())
    expect.check_all(site, [])


def test_a_failure_that_does_not_pass_ends_the_process(site: Site) -> None:
    async def story() -> None:
        room = Room(site)
        owner = Owner(room)
        await owner.partitions.take_over({0}, always)

        def refuse(*_: object) -> None:
            raise TransactionError("refused")

        batch = room.batch(clicks(1), 0)
        while not room.fatal:
            partition = owner.partitions[0]
            vars(partition)["_send"] = refuse
            owner.gone_on.clear()
            await owner.partitions.apply(batch._replace(life=partition.life), NOTHING)
            await owner.partitions.drain()
            assert partition.failed
            if not room.fatal:
                await asyncio.wait_for(owner.gone_on.wait(), 20)
        told = f"partition 0: {FAILURES_PER_MINUTE_MAX + 1} transactions failed within a minute, lately: refused"
        assert told in str(room.fatal[0])
        await owner.partitions.close()

    asyncio.run(story())


def test_one_failure_of_each_of_many_partitions_does_not_end_the_process(
    broker: str, topic_prefix: str, tmp_path: Path
) -> None:
    """As in an outage of the brokers."""
    n = FAILURES_PER_MINUTE_MAX + 2
    site = Site(broker, topic_prefix, tmp_path, partitions=n)

    async def story() -> None:
        room = Room(site)
        owner = Owner(room)
        await owner.partitions.take_over(set(range(n)), always)
        before = owner.partitions.lives()
        for number in range(n):
            owner.partitions[number].fail(TransactionError("refused"))
        for _ in range(300):
            if owner.partitions.lives().keys() == before.keys():
                break
            await asyncio.sleep(0.1)
        assert owner.partitions.lives().keys() == before.keys()
        assert min(owner.partitions.lives().values()) > max(before.values())
        assert not room.fatal
        await owner.partitions.close()

    asyncio.run(story())
