"""What a worker's partitions do when the group hands them round: kept, dropped, taken over anew, abandoned."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from faust.types import TP

from stream.kafka import sweep
from stream.kafka.cluster import INPUTS
from stream.kafka.partitions import Flow, Partitions
from stream.kafka.producer import BulkProducer
from stream.kafka.transport import EventBatch
from stream.topology import process
from tests.e2e import expect
from tests.e2e.harness import Event, Site
from tests.kafka.test_partition import NOTHING, Room, clicks


@pytest.fixture
def site(broker: str, topic_prefix: str, tmp_path: Path) -> Site:
    return Site(broker, topic_prefix, tmp_path, partitions=1)


def partitions_of(room: Room) -> Partitions:
    async def go_on(_: int) -> None:
        pass

    return Partitions(room.shared, Flow(lambda _: None, go_on))


def batch(room: Room, partitions: Partitions, events: list[Event], first: int, **more: bool) -> EventBatch:
    return room.batch(events, first, **more)._replace(life=partitions.lives()[0])


def ours() -> bool:
    return True


def test_positions_of_what_is_open(site: Site) -> None:
    async def story() -> None:
        room = Room(site)
        partitions = partitions_of(room)
        assert partitions.positions() == partitions.committable() == {}
        assert await partitions.take_over({0}, ours)
        at_zero = {TP(site.settings.topic(source), 0): 0 for source in INPUTS}
        assert partitions.positions() == partitions.committable() == at_zero
        clicked = TP(site.settings.topic("clickstream"), 0)
        await partitions.apply(batch(room, partitions, clicks(5), 0, more_waits=True), NOTHING)
        assert partitions.positions() == at_zero | {clicked: 5}
        await partitions.drain()
        assert partitions.committable() == at_zero | {clicked: 5}
        assert partitions.rows_hot() == 5
        assert await partitions.take_over(set(), ours)
        assert len(partitions) == 0
        assert partitions.positions() == {}
        await partitions.close()

    asyncio.run(story())


def test_nothing_is_swept_between_a_drain_and_what_follows(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A partition that was drained may be another worker's already."""
    monkeypatch.setattr(sweep, "_QUIET_S", 0.0)

    async def story() -> None:
        partitions = partitions_of(Room(site, sweep_interval_ms=100, sweep_lag_ms=0))
        await partitions.take_over({0}, ours)

        async def swept_ms() -> int:
            await asyncio.sleep(0.2)
            await partitions.sweep(lambda: NOTHING)
            return partitions[0]._sweep.state.swept_ms

        begin_ms = await swept_ms()
        later_ms = await swept_ms()
        assert later_ms > begin_ms > 0
        await partitions.drain()
        assert await swept_ms() == later_ms
        await partitions.take_over({0}, ours)
        assert await swept_ms() > later_ms
        await partitions.close()

    asyncio.run(story())


def test_a_partition_that_stays_keeps_its_rows(site: Site) -> None:
    async def story() -> None:
        room = Room(site)
        partitions = partitions_of(room)
        await partitions.take_over({0}, ours)
        first = partitions[0]
        await partitions.apply(batch(room, partitions, clicks(5), 0), NOTHING)
        await partitions.drain()
        assert await partitions.take_over({0}, ours)
        assert partitions[0] is first
        # Somebody else owned it meanwhile and wrote rows: what is in memory is old.
        other = BulkProducer(site.settings, 0)
        other.send(site.settings.changelog, [b"user-x"], [next(iter(site.packed_rows().values()))])
        other.flush()
        other.close()
        assert await partitions.take_over({0}, ours)
        assert partitions[0] is not first
        assert partitions.rows_stored() >= 6
        await partitions.close()

    asyncio.run(story())


def test_nothing_is_taken_over_for_a_generation_that_is_gone(site: Site) -> None:
    async def story() -> None:
        partitions = partitions_of(Room(site))
        assert not await partitions.take_over({0}, lambda: False)
        assert len(partitions) == 0

    asyncio.run(story())


def test_a_partition_that_is_not_drained_in_time_is_abandoned_uncommitted(site: Site) -> None:
    """The group does not wait for ever: the batch in work is forgotten here and read again by the next owner."""

    def slow(*args: Any) -> Any:
        time.sleep(2)
        return process(*args)

    async def story() -> None:
        room = Room(site, drain_timeout_ms=200)
        vars(room.shared)["process"] = slow
        partitions = partitions_of(room)
        await partitions.take_over({0}, ours)
        applying = asyncio.create_task(partitions.apply(batch(room, partitions, clicks(5), 0), NOTHING))
        await asyncio.sleep(0.3)
        began_s = time.monotonic()
        await partitions.drain()
        assert time.monotonic() - began_s < 4
        assert len(partitions) == 0
        await applying
        assert site.applied() == {}
        assert not room.fatal
        await partitions.close()

    asyncio.run(story())
    with site.worker() as worker:
        site.wait_applied([worker])
    expect.check_all(site, [])


def test_a_drain_that_a_take_over_has_overtaken_gives_nothing_up(site: Site) -> None:
    """Nobody would take over again what it dropped: the group has long told whose the partition is."""
    let_go = threading.Event()

    def slow(*args: Any) -> Any:
        assert let_go.wait(60)
        return process(*args)

    async def story() -> None:
        room = Room(site, drain_timeout_ms=3_000)
        vars(room.shared)["process"] = slow
        partitions = partitions_of(room)
        await partitions.take_over({0}, ours)
        kept = partitions[0]
        applying = asyncio.create_task(partitions.apply(batch(room, partitions, clicks(5), 0), NOTHING))
        await asyncio.sleep(0.1)
        draining = asyncio.create_task(partitions.drain())
        await asyncio.sleep(0.1)
        assert await partitions.take_over({0}, ours)
        assert not draining.done()
        await draining
        assert partitions[0] is kept
        let_go.set()
        await applying
        await partitions.drain()
        assert partitions.committable()[TP(site.settings.topic("clickstream"), 0)] == 5
        assert not room.fatal
        await partitions.close()

    asyncio.run(story())


def test_a_batch_whose_task_is_cancelled_is_applied_whole_and_once(site: Site) -> None:
    """That does not stop the thread that computes: what it did is committed, and read again it is fenced."""

    def slow(*args: Any) -> Any:
        time.sleep(1)
        return process(*args)

    async def story() -> None:
        room = Room(site)
        vars(room.shared)["process"] = slow
        partitions = partitions_of(room)
        await partitions.take_over({0}, ours)
        one = batch(room, partitions, clicks(5), 0)
        applying = asyncio.create_task(partitions.apply(one, NOTHING))
        await asyncio.sleep(0.3)
        applying.cancel()
        await asyncio.gather(applying, return_exceptions=True)
        assert applying.cancelled()
        await partitions.drain()
        assert partitions[0].committed["clickstream"] == 5
        await partitions.apply(one, NOTHING)
        await partitions.drain()
        assert room.count("applied") == 5
        assert not room.fatal
        await partitions.close()

    asyncio.run(story())
    expect.check_all(site, [])
