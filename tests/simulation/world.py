"""A schedule: workers, brokers and a group in one process, everything that happens drawn from a seed.

The workers run `stream.kafka.partitions` and all below it as the product does; what stands in for Faust around it
(`Worker`) gives them batches and assignments in the order of the draw: old ones, twice, in the middle of a take-over.
"""

import asyncio
import hashlib
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

from stream.kafka import applied
from stream.kafka.cluster import CONTROL, INPUTS, OUTPUTS
from stream.settings import Settings
from tests.simulation.broker import Broker, Late, Record, State
from tests.simulation.clients import Network
from tests.simulation.disk import Disk, RealDisk
from tests.simulation.loop import Loop
from tests.simulation.shop import Log, shop_of
from tests.simulation.worker import Plan, Worker

PARTITIONS = 2
SEATS = 3
STEPS_MAX = 30_000
BATCH_ROWS = (2, 8, 8)
"""Of a schedule one of them, and as many rows in memory. With 2, less than a partition has users: rows go to the store
and come back."""
WATCHED_SHARE = 0.02
"""Of the steps, those in which the watchdog looks whether a worker stands still."""
LOOKED_SHARE = 0.02
"""Of the steps, those in which a worker may look whether its commits are seen."""
GIVEN_UP_SHARE = 0.006
"""Of the steps, those in which the coordinator may give up a transaction that is open."""


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
        loses_markers: bool = False,
        disk: Callable[[], Disk | RealDisk] = Disk,
    ) -> None:
        """Nothing happens yet.

        Args:
            seed: of everything that is drawn.
            folder: for the workers' disks.
            log: what is published.
            guarantee: the setting. At least once nobody is fenced: there is one worker at a time.
            waits_for_markers: see `Broker`.
            loses_markers: see `Broker.lose_markers`, which is one of the faults then.
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
        self.batch_rows = self.draw.choice(BATCH_ROWS)
        self._pending_bytes = self.draw.choice([0, 1000, 10**9])
        self._guarantee = guarantee
        self._loses_markers = loses_markers
        self._marker_share = self.draw.choice([1.0, 0.2, 0.05])
        """Of the steps, those in which a marker may come that is to be written."""
        self._late_share = self.draw.choice([1.0, 0.1, 0.05] if guarantee == "exactly_once" else [1.0])
        """Of the steps, those in which a request may come whose sender does not wait for it. At least once they come
        soon: nothing keeps what a dead worker sent from coming behind what its successor sent."""
        self.at_rest = False
        """Nothing is published any more, nor delivered again."""
        self._generation = 0
        self._plans: dict[Worker, Plan] = {}
        self._fences = guarantee == "exactly_once"
        self._make_disk = disk
        self._settings = [self._settings_of(seat) for seat in range(SEATS)]
        self.disks = [disk() for _ in range(SEATS if self._fences else 1)]
        self._old: dict[int, Disk | RealDisk] = {}
        settings = self.settings(0)
        names = [*map(settings.topic, (*INPUTS, *OUTPUTS, *CONTROL)), settings.changelog]
        counts = {name: 1 if name in CONTROL else PARTITIONS for name in names}
        self.network = Network(self.broker, self.draw, counts)
        for source in INPUTS:
            for p in range(PARTITIONS):
                records = self.shop.records(source, p)
                self.broker.append((settings.topic(source), p), [Record(r.key, r.value, ()) for r in records])
        self.workers: list[Worker] = []

    def settings(self, seat: int) -> Settings:
        """Of the worker in a seat."""
        return self._settings[seat]

    def _settings_of(self, seat: int) -> Settings:
        return Settings(
            app_id="app",
            guarantee=self._guarantee,
            partitions=PARTITIONS,
            data_dir=self._folder / str(seat),
            hot_rows=self.batch_rows,
            batch_rows=self.batch_rows,
            store_pending_bytes=self._pending_bytes,
            commit_interval_ms=0,
            decision_sample=1.0,
            offer_max_age_ms=10**13,
        )

    def trace(self) -> str:
        """A hash of all that happened: the notes, and every record of every log."""
        found = hashlib.sha256("\n".join(self.steps).encode())
        for log, records in sorted(self.broker.logs.items()):
            found.update(repr((log, [(r.key, r.value, r.headers, r.is_marker) for r in records])).encode())
        return found.hexdigest()[:16]

    def note(self, what: str) -> None:
        """For whoever reads a schedule that went wrong."""
        self.steps.append(f"{self.loop.steps:6d} {what}")

    # --- what happens outside of the processes

    def _events(self) -> list[Callable[[], None]]:
        broker = self.broker
        found: list[Callable[[], None]] = [
            partial(self._mark, name, log) for name, log in broker.markers() if self.draw.random() < self._marker_share
        ]
        found += [partial(self._arrive, late) for late in broker.late if self.draw.random() < self._late_share]
        found += [partial(self._tell, w) for w in self._plans if not w.asleep]
        if not self.at_rest:
            found += [w.poll for w in self.workers if w.may_poll()]
        if self.draw.random() < WATCHED_SHARE:
            found += [partial(self._restart, w) for w in self.workers if w.stands_still()]
        if self._loses_markers:
            found += [w.look for w in self.workers if self.draw.random() < LOOKED_SHARE and not w.asleep]
        if self.draw.random() < GIVEN_UP_SHARE:
            found += [partial(self._give_up, name) for name, of in broker.ids.items() if of.state is State.ONGOING]
        return found

    def _mark(self, name: str, log: tuple[str, int]) -> None:
        self.note(f"marker of {name} in {log}")
        self.broker.mark(name, log)

    def _tell(self, worker: Worker) -> None:
        worker.hear(self._plans.pop(worker))

    def _arrive(self, late: Late) -> None:
        self.broker.late.remove(late)
        what, request = late
        self.note(f"late: {what}")
        try:
            request()
        except Exception as e:  # noqa: BLE001 nobody waits for the answer
            self.note(f"refused: {e!r}")

    def _restart(self, worker: Worker) -> None:
        self.note(f"{worker} stands still and is restarted")
        self.bury(worker)

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

    def _lose_markers(self) -> None:
        self.note("markers that are not written yet are lost")
        self.broker.lose_markers()

    # --- the story

    def applied(self) -> bool:
        """Whether all that was published is, and nothing is owed."""
        for p in range(PARTITIONS):
            last = None
            for _, record in self.broker.committed((self.settings(0).changelog, p)):
                if record.key == applied.KEY:
                    last = record.value
            if last is None:
                return False
            stands = applied.decode(last)
            behind = any(stands.sources[s].next_offset < len(self.shop.records(s, p)) for s in INPUTS)
            if behind or stands.owed:
                return False
        return True

    async def _story(self, n_faults: int) -> None:
        for seat in range(len(self.disks)):
            self.start(seat)
        self.rebalance()
        faults = [self._kill] * 2 + [self.rebalance] * 4 + [self._wake] * 2 + [self._flush] * 2
        faults += [self._sleep, self._wipe, self._old_disk] + [self._lose_markers] * 4 * self._loses_markers
        for _ in range(n_faults):
            await self.loop.after_steps(self.draw.randint(3, 60))
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
        self.broker.commit_what_hangs()

    def run(self, n_faults: int) -> None:
        """Run the schedule to its end.

        Raises:
            StuckError: it has none.
        """
        loop = self.loop
        loop.world = self._events
        asyncio.set_event_loop(None)
        story = loop.create_task(self._story(n_faults))
        try:
            with loop.clock():
                loop.run_until_complete(story)
        finally:
            story.cancel()
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
