"""A schedule: workers, brokers and a group in one process, everything that happens drawn from a seed.

The workers run `stream.kafka.partitions` and all below it as the product does; what stands in for Faust around it
(`Worker`) gives them batches and assignments in the order of the draw: old ones, twice, in the middle of a take-over.
"""

import asyncio
import shutil
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from stream.errors import PartitionError
from stream.kafka import applied
from stream.kafka.cluster import CONTROL, INPUTS, OUTPUTS
from stream.kafka.outside import Outside
from stream.kafka.partitions import Flow, Partitions
from stream.kafka.shared import Shared
from stream.kafka.transport import EventBatch
from stream.settings import Settings
from stream.topology import answer_silence, process
from tests.simulation.broker import Broker, Record, State
from tests.simulation.clients import Network
from tests.simulation.disk import Disk, RealDisk
from tests.simulation.loop import OWNER, Loop
from tests.simulation.shop import IN_FORCE, METRICS, Log, shop_of

PARTITIONS = 2
SEATS = 3
STEPS_MAX = 30_000
BATCH_ROWS = 4


@dataclass(frozen=True)
class Plan:
    """What the group tells a member."""

    generation: int
    wanted: frozenset[int]
    standbys: frozenset[int]


class Worker:
    """A process: the product's partitions, and around them what Faust and our transport do for them."""

    def __init__(self, world: "World", seat: int) -> None:
        self.world = world
        self.seat = seat
        self.dead = False
        self.asleep = False
        self._draw = world.draw
        self._plan = Plan(0, frozenset(), frozenset())
        self._told = asyncio.Event()
        self._flowing = False
        self._held: set[int] = set()
        self._at: dict[tuple[int, str], int] = {}
        settings = world.settings(seat)
        self._source_of = {settings.topic(name): name for name in INPUTS}
        token = OWNER.set(self)
        try:
            network: Any = world.network
            databases: Any = world.disks[seat]
            self.partitions = Partitions(
                Shared(
                    settings,
                    METRICS,
                    ThreadPoolExecutor(1),
                    process,
                    answer_silence,
                    self._fatal,
                    Outside(databases, network.producer, network.consumer, network.admin),
                ),
                Flow(self._held.add, self._go_on),
            )
            self._tasks = [world.loop.create_task(run) for run in (self._take_over(), self._feed())]
        finally:
            OWNER.reset(token)

    def __repr__(self) -> str:
        return f"worker {self.seat}"

    def _fatal(self, error: BaseException) -> None:
        self.world.note(f"{self} ends: {error!r}")
        if not isinstance(error, PartitionError):
            self.world.bugs.append(f"{self}: " + "".join(traceback.format_exception(error))[-1500:])
        self.dead = True
        self.world.loop.call_soon(self.world.bury, self)

    # --- the group

    def hear(self, plan: Plan) -> None:
        """Be told of a new generation; what is in work is finished first, if there is time."""
        self._plan = plan
        self._flowing = False
        token = OWNER.set(self)
        try:
            self.world.loop.create_task(self._drain(plan))
        finally:
            OWNER.reset(token)

    async def _drain(self, plan: Plan) -> None:
        try:
            if self._draw.random() < 0.7:
                await self.partitions.drain()
        except Exception as e:  # noqa: BLE001 Faust would end
            self._fatal(e)
        if plan is self._plan:
            self._told.set()

    async def _take_over(self) -> None:
        while True:
            await self._told.wait()
            self._told.clear()
            plan = self._plan
            try:
                complete = await self.partitions.take_over(set(plan.wanted), lambda p=plan: p is self._plan)  # type: ignore[misc]
            except Exception as e:  # noqa: BLE001 as `stream.kafka.table`: it ends the process
                self._fatal(e)
                return
            if complete and plan is self._plan:
                self._held.clear()
                self._seek(plan.wanted)
                self._flowing = True
                self.world.note(f"{self} serves {sorted(plan.wanted)} of generation {plan.generation}")
                await self.partitions.stand_by(set(plan.standbys))

    # --- the flow of events

    def _seek(self, numbers: frozenset[int]) -> None:
        for tp, offset in self.partitions.positions().items():
            if tp.partition in numbers:
                self._at[tp.partition, self._source_of[tp.topic]] = offset

    async def _go_on(self, number: int) -> None:
        if self._flowing:
            self._seek(frozenset({number}))
            self._held.discard(number)

    async def _feed(self) -> None:
        draw, loop = self._draw, self.world.loop
        while True:
            await loop.after_steps(draw.randint(1, 6))
            lives = self.partitions.lives()
            flowing = [p for p in sorted(lives) if p not in self._held and (p, INPUTS[0]) in self._at]
            if not self._flowing or not flowing or self.asleep or self.world.at_rest:
                continue
            number = draw.choice(flowing)
            records = self._fetch(number)
            if not records:
                continue
            spans = {source: (some[0].offset, some[-1].offset + 1) for source, some in records.items()}
            batch = EventBatch(number, records, draw.random() < 0.5, spans, lives[number])
            if draw.random() < 0.2:  # it waits in a queue, while the world turns
                await loop.after_steps(draw.randint(1, 20))
            await self.partitions.apply(batch, IN_FORCE)

    def _fetch(self, number: int) -> dict[str, Any]:
        draw, left, found = self._draw, BATCH_ROWS, {}
        for source in INPUTS:
            at = self._at[number, source]
            if draw.random() < 0.02:
                at += draw.randint(1, 3)  # what lies between is lost on its way
            if draw.random() < 0.05:
                at = max(0, at - draw.randint(1, 4))  # delivered again
            records = self.world.shop.records(source, number)[at : at + min(left, draw.randint(0, BATCH_ROWS))]
            if records:
                found[source] = records
                left -= len(records)
                self._at[number, source] = at + len(records)
        return found


class World:
    """One schedule, see `run`."""

    def __init__(
        self,
        seed: int,
        folder: Path,
        log: Log,
        *,
        guarantee: str = "exactly_once",
        waits_for_markers: bool = True,
        disk: Callable[[], Disk | RealDisk] = Disk,
    ) -> None:
        """Nothing happens yet.

        Args:
            seed: of everything that is drawn.
            folder: for the workers' disks.
            log: what is published.
            guarantee: the setting. At least once nobody is fenced: there is one worker at a time.
            waits_for_markers: see `Broker`.
            disk: makes the disk of a worker.
        """
        self.seed = seed
        self.draw = Random(seed)
        self.loop = Loop(self.draw, STEPS_MAX)
        self.broker = Broker(waits_for_markers=waits_for_markers)
        self.bugs: list[str] = []
        self.steps: list[str] = []
        self.log, self.shop = log, shop_of(log)
        self._folder = folder
        # Nothing between: how many bytes a row has depends on the time of its offers, and that is the real one.
        self._pending_bytes = self.draw.choice([0, 10**9])
        self._guarantee = guarantee
        self._marker_share = self.draw.choice([1.0, 0.2, 0.05])
        """Of the steps, those in which a marker may come that is to be written."""
        self.at_rest = False
        """Nothing is published any more, nor delivered again."""
        self._generation = 0
        self._plans: dict[Worker, Plan] = {}
        self._fences = guarantee == "exactly_once"
        self._make_disk = disk
        self.disks = [disk() for _ in range(SEATS if self._fences else 1)]
        self._old: dict[int, Disk | RealDisk] = {}
        settings = self.settings(0)
        names = [*map(settings.topic, (*INPUTS, *OUTPUTS, *CONTROL)), settings.changelog]
        counts = {name: 1 if name in CONTROL else PARTITIONS for name in names}
        self.network = Network(self.broker, self.draw, {name: f"id-{name}" for name in names}, counts)
        for source in INPUTS:
            for p in range(PARTITIONS):
                records = self.shop.records(source, p)
                self.broker.append((settings.topic(source), p), [Record(r.key, r.value, ()) for r in records])
        self.workers: list[Worker] = []

    def settings(self, seat: int) -> Settings:
        """Of the worker in a seat."""
        return Settings(
            app_id="app",
            guarantee=self._guarantee,
            partitions=PARTITIONS,
            data_dir=self._folder / str(seat),
            hot_rows=BATCH_ROWS,  # less than there are users: rows go to the store and come back
            batch_rows=BATCH_ROWS,
            store_pending_bytes=self._pending_bytes,
            commit_interval_ms=0,
            decision_sample=1.0,
            offer_max_age_ms=10**13,
        )

    def note(self, what: str) -> None:
        """For whoever reads a schedule that went wrong."""
        self.steps.append(f"{self.loop.steps:6d} {what}")

    # --- what happens outside of the processes

    def _events(self) -> list[Callable[[], None]]:
        broker = self.broker
        found: list[Callable[[], None]] = [
            lambda name=name, log=log: self._mark(name, log)  # type: ignore[misc]
            for name, log in broker.markers()
            if self.draw.random() < self._marker_share
        ]
        found += [lambda i=i: self._arrive(i) for i in range(len(broker.late))]  # type: ignore[misc]
        found += [lambda w=w: w.hear(self._plans.pop(w)) for w in self._plans if not w.asleep]  # type: ignore[misc]
        if self.draw.random() < 0.002:
            found += [
                lambda name=name: self._give_up(name)  # type: ignore[misc]
                for name, of in broker.ids.items()
                if of.state is State.ONGOING
            ]
        return found

    def _mark(self, name: str, log: tuple[str, int]) -> None:
        self.note(f"marker of {name} in {log}")
        self.broker.mark(name, log)

    def _arrive(self, i: int) -> None:
        what, request = self.broker.late.pop(i)
        self.note(f"late: {what}")
        try:
            request()
        except Exception as e:  # noqa: BLE001 nobody waits for the answer
            self.note(f"refused: {e!r}")

    def _give_up(self, name: str) -> None:
        self.note(f"the transaction of {name} took too long")
        self.broker.give_up(name)

    # --- faults

    def _alive(self) -> list[Worker]:
        return [w for w in self.workers if not w.dead]

    def start(self, seat: int) -> None:
        """A worker in a seat that is empty."""
        self.note(f"worker {seat} starts")
        self.workers.append(Worker(self, seat))

    def bury(self, worker: Worker) -> None:
        """A worker is dead; another takes its seat."""
        worker.dead = True
        self._plans.pop(worker, None)
        if worker not in self.workers:
            return
        self.loop.bury(worker)
        self.workers.remove(worker)
        self.disks[worker.seat].killed(self.draw)
        self.start(worker.seat)
        self.rebalance()

    def rebalance(self) -> None:
        """A new generation of whoever is awake. Each hears of it in its own time: nobody waits for the others."""
        members = [w for w in self._alive() if not w.asleep]
        if not members:
            return
        self._generation += 1
        of = {p: self.draw.choice(members) for p in range(PARTITIONS)}
        beside = {p: self.draw.choice(members) for p in range(PARTITIONS)}
        for w in members:
            wanted = frozenset(p for p, owner in of.items() if owner is w)
            self._plans[w] = Plan(self._generation, wanted, frozenset(p for p, o in beside.items() if o is w) - wanted)
        self.note(f"generation {self._generation}: {of}, beside {beside}")

    def _kill(self) -> None:
        worker = self.draw.choice(self._alive())
        self.note(f"{worker} is killed")
        self.bury(worker)

    def _sleep(self) -> None:
        awake = [w for w in self._alive() if not w.asleep]
        if len(awake) > 1:
            worker = self.draw.choice(awake)
            worker.asleep = True
            self._plans.pop(worker, None)
            self.note(f"{worker} falls asleep")
            self.rebalance()

    def _wake(self) -> None:
        for worker in self._alive():
            if worker.asleep:
                worker.asleep = False
                self.note(f"{worker} wakes up")
                self.rebalance()
                return

    def _wipe(self) -> None:
        worker = self.draw.choice(self._alive())
        self.note(f"the disk of {worker} is wiped")
        self.disks[worker.seat].killed(self.draw)
        self.disks[worker.seat] = self._make_disk()
        shutil.rmtree(self.settings(worker.seat).data_dir, ignore_errors=True)
        self.bury(worker)

    def _old_disk(self) -> None:
        """The first time: a copy is made. The second time: it is brought back."""
        worker = self.draw.choice(self._alive())
        seat = worker.seat
        if seat not in self._old:
            self._old[seat] = self.disks[seat].copied()
            self._old[seat].killed(self.draw)
        else:
            self.disks[seat].killed(self.draw)
            self.note(f"an old disk of {worker} is brought back")
            self.disks[seat] = self._old.pop(seat)
            self.bury(worker)

    def _flush(self) -> None:
        """RocksDB flushes when it sees fit."""
        self.draw.choice(self.disks).flush(self.draw)

    # --- the story

    def applied(self) -> bool:
        """Whether all that was published is."""
        for p in range(PARTITIONS):
            last = None
            for _, record in self.broker.committed((self.settings(0).changelog, p)):
                if record.key == applied.KEY:
                    last = record.value
            if last is None:
                return False
            sources = applied.decode(last).sources
            if any(sources[s].next_offset < len(self.shop.records(s, p)) for s in INPUTS):
                return False
        return True

    async def _story(self, n_faults: int) -> None:
        for seat in range(len(self.disks)):
            self.start(seat)
        self.rebalance()
        faults = [self._kill, self._kill, self.rebalance, self.rebalance, self._sleep, self._wake, self._wake,
                  self._flush, self._flush, self._wipe, self._old_disk]  # fmt: skip
        for _ in range(n_faults):
            await self.loop.after_steps(self.draw.randint(3, 120))
            self.draw.choice(faults)()
        while any(w.asleep for w in self.workers):
            self._wake()
        self.rebalance()
        while not self.applied():
            await self.loop.after_steps(60)
        self.note("all is applied")
        self.at_rest = True
        while any(of.state is not State.EMPTY for of in self.broker.ids.values()):
            await self.loop.after_steps(20)

    def run(self, n_faults: int) -> None:
        """Run the schedule to its end.

        Raises:
            StuckError: it has none.
        """
        loop = self.loop
        loop.world = self._events
        asyncio.set_event_loop(None)
        try:
            loop.run_until_complete(loop.create_task(self._story(n_faults)))
        finally:
            loop.world = list
            loop.steps_max *= 2  # what ends now may need some
            for worker in self.workers:
                worker.dead = True
                loop.bury(worker)
            loop.run_until_complete(asyncio.sleep(0))
            loop.run_until_complete(asyncio.sleep(0))
            for disk in self.disks:
                disk.killed(self.draw)
            loop.close()
