"""The fault suite: workers, a broker and a shop that publishes; faults at random; then the topics against the oracle.

Everything is drawn from one seed: the order of the faults, where a kill hits, what is published. What the operating
system does in between is not, so a seed repeats the plan, not the run.

A fault counts when it has happened: a kill when the worker has written down that it died at its point, a cut when a
frame has passed before and after. After each, what was published up to then must be applied within `STUCK_S`.
"""

import contextlib
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from random import Random

from stream.broker.embedded import EmbeddedBroker
from stream.core.events import SOURCES
from stream.scoring.model import load
from stream.scoring.shelf import HELD
from tests.e2e import logs
from tests.e2e.harness import Event, Site, wait_until
from tests.faults.crashing_worker import POINTS, SWEEP_POINTS, CrashingWorker, Orders, Remote
from tests.faults.proxy import Proxy
from tests.faults.shop import ALWAYS, BY_SCORE, SETTINGS, SILENT, SILENT_S, Shop
from training.seeded import seeded_model

PARTITIONS = 4
WORKERS = 2
SESSION_TIMEOUT_S = 6.0
STUCK_S = 90.0
"""What is not applied this long after a fault is stuck."""

POINT_S = 15.0
"""How long a worker has to come by the point where it is to die."""

KILL_POINTS = (*POINTS["exactly_once"], *SWEEP_POINTS, "rebalancing", "swapping")
AT_START = ("fencing", "restoring", "taking_over")
"""Points that a worker passes when it takes over."""

POISON = (b"", b"{", b"null", b'{"user_id": 7}', b"\xff\xfe", b'{"kind": "cart_add", "time_ms": "now"}', b"[]" * 5_000)


class Seat:
    """A place for a worker: a name in the group, a disk, orders. Who dies is followed by another."""

    def __init__(self, site: Site, bootstrap: str, number: int, mutation: str = "") -> None:
        self.disk = site.folder / f"disk-{number}"
        self.disk.mkdir(parents=True, exist_ok=True)
        self._orders = site.folder / f"orders-{number}"
        self.remote = Remote(self._orders)
        self._site = site
        self._mutation = mutation
        self._settings = SETTINGS | {
            "instance_id": f"seat-{number}",
            "bootstrap": bootstrap,
            "data_dir": self.disk,
            "store_flush_interval_ms": 3_000,
            "transaction_timeout_ms": 10_000,
            "sweep_interval_ms": 500,
            "sweep_lag_ms": 2_000,
        }
        self.may_fail = 0.0
        """Until when a worker may end of itself, since what it stands on was broken on purpose."""
        self.ended: list[str] = []
        """Logs of workers that ended and should not have."""
        self.worker: CrashingWorker | None = None

    def start(self, mutation: str = "") -> CrashingWorker:
        """A new worker."""
        orders = Orders(mutation=mutation or self._mutation, remote=str(self._orders))
        self.worker = CrashingWorker(self._site, orders, **self._settings)
        return self.worker

    def see_to_it(self) -> CrashingWorker:
        """Whoever sits here; a new one, if the last one is gone."""
        if self.worker is None:
            return self.start()
        code = self.worker.poll()
        if code is None:
            return self.worker
        self._note_end(self.worker, code)
        return self.start()

    def _note_end(self, worker: CrashingWorker, code: int) -> None:
        # SIGTERM ends a process that has not begun to listen to it.
        if code in {0, -signal.SIGKILL, -signal.SIGTERM} or time.monotonic() <= self.may_fail:
            return
        log = worker.log()
        # One that finds no broker when it starts says so and ends; one that has served must live through an outage.
        if "serving partitions" in log or "no answer from Kafka" not in log:
            self.ended.append(f"exit code {code}:\n{log[-3000:]}")

    def break_something(self) -> None:
        """Say that a worker may end of itself for a while."""
        self.may_fail = time.monotonic() + STUCK_S

    def kill(self) -> None:
        """kill -9."""
        if self.worker is not None:
            self.worker.kill()
            self.worker = None

    def stop(self) -> None:
        """SIGTERM."""
        if self.worker is not None and self.worker.poll() is None:
            self._note_end(self.worker, self.worker.stop())
        self.worker = None

    @property
    def tables(self) -> list[Path]:
        """RocksDB's tables on its disk."""
        return sorted(self.disk.rglob("*.sst"))


class Suite:
    """One run. `go` injects, `finish` lets everything be applied; what was found is for `tests.faults.judge`."""

    def __init__(self, folder: Path, seed: int, *, say: Callable[[str], None] = lambda _: None) -> None:
        self.folder = folder
        self.draw = Random(seed)
        self.seed = seed
        self.say = say
        self.faults: Counter[str] = Counter()
        self.points: Counter[str] = Counter()
        self.missed = 0
        """Kills whose point nobody came by in time: they count for nothing."""
        self.recovery_s: list[float] = []
        self.stuck: list[str] = []
        self.models = [seeded_model(seed % 1000 + i) for i in range(HELD + 1)]
        """One more than a worker keeps in memory: published in turn, each has to be loaded."""
        self._n_swaps = 0
        self._extra = 0
        self._stop = threading.Event()
        self._publishing = threading.Lock()
        self._burst: list[tuple[list[Event], bool]] = []
        """What the faults want published, and whether it is good."""
        self._failed: list[BaseException] = []
        self.kinds: dict[str, Callable[[], None]] = {
            "kill": self._kill_at_point,
            "sigterm": self._sigterm,
            "zombie": self._zombie,
            "broker_kill": self._broker_kill,
            "broker_restart": self._broker_restart,
            "join_and_leave": self._join_and_leave,
            "wiped_disk": self._wiped_disk,
            "old_disk": self._old_disk,
            "truncated_file": self._truncated_file,
            "flipped_bits": self._flipped_bits,
            "full_disk": self._full_disk,
            "network_delay": self._network_delay,
            "network_cut": self._network_cut,
            "duplicates": self._duplicates,
            "poison": self._poison,
            "clock_jump": self._clock_jump,
        }

    # --- the run

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Broker, proxy, shop and workers."""
        with (
            EmbeddedBroker(self.folder / "broker") as self.broker,
            Proxy(self.broker.bootstrap) as self.proxy,
        ):
            self.site = Site(self.broker.bootstrap, "", self.folder, partitions=PARTITIONS)
            self.site.publish_campaigns(ALWAYS, BY_SCORE, SILENT)
            self._publish_model()
            self.shop = Shop(self.site, self.seed)
            self.shop.profiles()
            self.seats = [Seat(self.site, self.proxy.bootstrap, i) for i in range(WORKERS)]
            try:
                self._recover(time.monotonic(), of_fault=False)  # consent is there before the first event
                self._load = threading.Thread(target=self._publish, name="load", daemon=True)
                self._load.start()
                yield
            finally:
                self._stop.set()
                for seat in self.seats:
                    seat.kill()

    def end(self) -> None:
        """Publish no more, let everything be applied, stop the workers in order."""
        self._stop.set()
        self._load.join(120)
        self._recover(time.monotonic(), of_fault=False)
        self.shop.logins.again()
        end_s = time.monotonic() + STUCK_S
        while not self.site.has_joined():
            for seat in self.seats:
                seat.see_to_it()
            if time.monotonic() > end_s:
                self.stuck.append("logins, claims or rows on their way are not applied")
                break
        if not self.faults["clock_jump"]:
            self._let_silences_end()
        for seat in self.seats:
            seat.stop()

    def _let_silences_end(self) -> None:
        """Until a sweep has come by everybody's last silence. (Not where a clock was ahead: so are the sweeps then.)"""
        due_ms = time.time_ns() // 1_000_000 + 1_000 * SILENT_S
        end_s = time.monotonic() + STUCK_S
        while not all(record.sweep.swept_ms > due_ms for record in self.site.applied().values()):
            for seat in self.seats:
                seat.see_to_it()
            if time.monotonic() > end_s:
                self.stuck.append(f"sweeps: {self.site.applied()}")
                break
            time.sleep(0.2)

    def plan(self, n: int, only: Collection[str] = ()) -> list[str]:
        """`n` kinds in random order: kills at every point, at least five of every other kind where there is room.

        Args:
            n: faults.
            only: kinds to hunt with, all as likely; none = all, as above.
        """
        if unknown := set(only) - set(self.kinds):
            raise ValueError(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(self.kinds)}")
        if only:
            planned = self.draw.choices(sorted(only), k=n)
        else:
            others = [kind for kind in self.kinds if kind != "kill"]
            each = max(1, min(5, 2 * n // (5 * len(others))))
            planned = others * each if n >= 2 * len(others) else self.draw.sample(others, n // 2)
            quick = ["kill", "kill", "kill", "sigterm", "duplicates", "poison", "clock_jump", "network_cut"]
            n_kills = min(n - len(planned), max(4 * len(KILL_POINTS), n // 3))
            planned += ["kill"] * n_kills
            planned += self.draw.choices(quick, k=n - len(planned))
        self.draw.shuffle(planned)
        n_kills = planned.count("kill")
        points = [*KILL_POINTS] * (n_kills // len(KILL_POINTS) + 1)
        self.draw.shuffle(points)
        self._points_left = points[:n_kills]
        return self._sweeps_before_clocks(planned)

    def _sweeps_before_clocks(self, planned: list[str]) -> list[str]:
        """Kills in sweeps first, clocks that jump behind them: once one was ahead, no sweep may be due for hours."""
        self._points_left.sort(key=lambda point: point in SWEEP_POINTS)  # the last one is the next
        left = sum(point in SWEEP_POINTS for point in self._points_left)
        first: list[str] = []
        rest: list[str] = []
        for kind in planned:
            (first if left and kind != "clock_jump" else rest).append(kind)
            left -= kind == "kill" and left > 0
        self.draw.shuffle(rest)
        return first + rest

    def inject(self, kind: str) -> None:
        """One fault, and what was published up to then applied."""
        began_s = time.monotonic()
        counted = self.faults.total() + self.missed
        self.kinds[kind]()
        if kind != "kill":
            self.faults[kind] += 1
        assert self.faults.total() + self.missed > counted, kind
        if self._failed:
            raise self._failed[0]
        if self.draw.random() < 0.8:  # else the next one comes while this one is not over
            self._recover(began_s)
        self.say(f"{self.faults.total():4d} {kind:15s} {time.monotonic() - began_s:5.1f} s")

    def _recover(self, began_s: float, *, of_fault: bool = True) -> None:
        wanted = {(source, p): end for source in SOURCES for p, end in self.site.ends(source).items()}  # no prefix
        end_s = time.monotonic() + STUCK_S
        while behind := self._behind(wanted):
            for seat in self.seats:
                seat.see_to_it()
            if time.monotonic() > end_s:
                tails = "\n".join(seat.worker.log()[-2000:] for seat in self.seats if seat.worker)
                self.stuck.append(f"{behind}\n{tails}")
                for seat in self.seats:
                    seat.kill()
                return
            time.sleep(0.05)
        if of_fault:
            self.recovery_s.append(time.monotonic() - began_s)

    def _behind(self, wanted: dict[tuple[str, int], int]) -> dict[tuple[str, int], int]:
        applied = self.site.applied_by_now()
        return {tp: end - applied.get(tp, 0) for tp, end in wanted.items() if applied.get(tp, 0) < end}

    def _publish(self) -> None:
        """A piece now and then, and what the faults want published."""
        try:
            while not self._stop.is_set():
                with self._publishing:
                    bursts, self._burst = self._burst, []
                for burst, good in bursts:
                    (self.shop.publish if good else self.shop.publish_broken)(burst)
                self.shop.piece(15)
                if self.shop.pieces % 3 == 0:
                    self.shop.logins.piece()
                self._stop.wait(0.4)
        except BaseException as e:  # noqa: BLE001 shown by the thread that injects
            self._failed.append(e)

    def _publish_model(self) -> None:
        """The next one."""
        data = self.models[self._n_swaps % len(self.models)]
        self._n_swaps += 1
        self.site.publish_model(data, load(data).hex)

    # --- the faults

    def _seat(self) -> Seat:
        seat = self.draw.choice(self.seats)
        seat.see_to_it()
        return seat

    def _kill_at_point(self) -> None:
        point = self._points_left.pop()
        seat = self._seat()
        nth = self.draw.randint(1, 3)
        if point in AT_START:
            seat.kill()
            seat.remote.arm(point, 1)
            worker = seat.start()
        else:
            worker = seat.see_to_it()
            seat.remote.arm(point, 1 if point in {"rebalancing", "swapping"} else nth)
        guest = None
        if point == "swapping":
            self._publish_model()
        if point == "rebalancing":
            guest = self._guest()
        try:
            wait_until(lambda: worker.poll() is not None, point, POINT_S)
        except AssertionError:
            self.missed += 1
        else:
            if worker.crashed_at() == point:
                self.faults["kill"] += 1
                self.points[point] += 1
            else:
                self.missed += 1
        seat.remote.arm("", 0)
        if guest:
            guest.kill()
        seat.see_to_it()

    def _guest(self) -> Seat:
        self._extra += 1
        guest = Seat(self.site, self.proxy.bootstrap, 100 + self._extra)
        guest.start()
        return guest

    def _sigterm(self) -> None:
        seat = self._seat()
        seat.stop()
        time.sleep(self.draw.choice([0, 0, 2]))
        seat.start()

    def _zombie(self) -> None:
        """Asleep while another one takes over; then it wakes up, in the middle of what it was doing."""
        seat = self._seat()
        worker = seat.see_to_it()
        worker.signal(signal.SIGSTOP)
        seat.break_something()
        time.sleep(SESSION_TIMEOUT_S + self.draw.uniform(1, 5))
        worker.signal(signal.SIGCONT)

    def _broker_kill(self) -> None:
        self.broker.kill()
        time.sleep(self.draw.uniform(0, 3))
        self.broker.start()

    def _broker_restart(self) -> None:
        self.broker.stop()
        time.sleep(self.draw.uniform(0, 3))
        self.broker.start()

    def _join_and_leave(self) -> None:
        guest = self._guest()
        time.sleep(self.draw.uniform(1, 6))
        if self.draw.random() < 0.5:
            guest.kill()
        else:
            guest.stop()

    def _wiped_disk(self) -> None:
        seat = self._seat()
        seat.kill()
        shutil.rmtree(seat.disk)
        seat.disk.mkdir()
        seat.start()

    def _old_disk(self) -> None:
        """As it was a while ago, brought back from a copy."""
        seat = self._seat()
        copy = seat.disk.with_suffix(".copy")
        seat.stop()
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(seat.disk, copy)
        seat.start()
        self._recover(time.monotonic(), of_fault=False)
        seat.kill()
        shutil.rmtree(seat.disk)
        copy.rename(seat.disk)
        seat.start()

    def _with_tables(self) -> Seat:
        seat = self._seat()
        seat.stop()  # a store that is closed has all its rows in tables
        seat.break_something()
        return seat

    def _truncated_file(self) -> None:
        seat = self._with_tables()
        for table in self.draw.sample(seat.tables, min(2, len(seat.tables))):
            with table.open("r+b") as file:
                file.truncate(self.draw.randint(0, table.stat().st_size - 1))
        seat.start()

    def _flipped_bits(self) -> None:
        seat = self._with_tables()
        for table in self.draw.sample(seat.tables, min(2, len(seat.tables))):
            content = bytearray(table.read_bytes())
            for _ in range(20):
                content[self.draw.randrange(len(content))] ^= 1 << self.draw.randrange(8)
            table.write_bytes(content)
        seat.start()

    def _full_disk(self) -> None:
        seat = self._seat()
        seat.kill()
        seat.break_something()
        worker = seat.start(mutation="small_disk")
        with contextlib.suppress(AssertionError):
            worker.wait_log("cannot write|No space left", POINT_S)
        seat.kill()
        seat.start()

    def _network_delay(self) -> None:
        self.proxy.delay_s = self.draw.uniform(0.05, 0.5)
        time.sleep(self.draw.uniform(2, 5))
        self.proxy.delay_s = 0.0

    def _network_cut(self) -> None:
        self.proxy.cut()
        time.sleep(self.draw.choice([0.1, 1, 3, SESSION_TIMEOUT_S + 3]))
        self.proxy.mend()

    def _duplicates(self) -> None:
        """Events twice, one right behind the other, and out of order."""
        now_ms = time.time_ns() // 1_000_000
        users = [f"again-{self.faults.total()}-{i}" for i in range(20)]
        log = logs.shop_log(self.draw, 40, users, now_ms, f"d{self.faults.total()}-{now_ms}", duplicates=1)
        self._soon([logs.profile(user, now_ms) for user in users])
        self._soon(log)

    def _poison(self) -> None:
        self._soon(
            [
                Event(self.draw.choice(["clickstream", "orders", "feedback"]), b"user-%d" % i, self.draw.choice(POISON))
                for i in range(20)
            ],
            good=False,
        )

    def _soon(self, events: list[Event], *, good: bool = True) -> None:
        with self._publishing:
            self._burst.append((events, good))

    def _clock_jump(self) -> None:
        self._seat().remote.jump(self.draw.choice([-86_400, -3_600, -30, 0, 30, 3_600, 20 * 3_600]))
