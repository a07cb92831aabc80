"""A worker that kills itself (SIGKILL, its own process) at a named point, on the n-th time that it comes by.

The product has no hooks for this: methods are wrapped here, then the worker's own command runs. Before it dies it
writes the point's name to a file, so that a test knows that it died there and of nothing else.

Workers are forked from a server process that has imported everything already (`multiprocessing`'s forkserver): imports
are most of what fifty starts cost.
"""

import ctypes
import mmap
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from stream import topology
from stream.app import worker_command
from stream.core import row
from stream.kafka import partition, producer, transport
from stream.kafka.commit import AtLeastOnce, ExactlyOnce, Sent
from stream.kafka.emit import Outputs
from stream.kafka.partition import Partition
from stream.kafka.producer import BulkProducer, TransactionalProducer
from stream.kafka.store import Store
from stream.kafka.sweep import Sweep
from stream.kafka.table import TakeOver
from stream.kafka.takeover import where_to_go_on
from stream.scoring import shelf
from stream.scoring.model import Model
from stream.settings import Settings
from tests.e2e.harness import Site
from tests.faults.forked_worker import ForkedWorker, settle_in

_Method = Callable[..., Any]


class Remote:
    """Orders that a test can change while the worker runs: a few bytes of memory that both have in a file."""

    _LAYOUT = struct.Struct("=qqq")  # wall clock ahead by so many ns; point to die at, -1 for none; calls until then

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(self._LAYOUT.pack(0, -1, 0))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), self._LAYOUT.size)

    def _get(self) -> tuple[int, int, int]:
        found: tuple[int, int, int] = self._LAYOUT.unpack(self._memory[:])
        return found

    def arm(self, point: str, nth: int) -> None:
        """Die at the `nth` time from now; "" for never."""
        at = list(_ARM).index(point) if point else -1
        self._memory[:] = self._LAYOUT.pack(self._get()[0], at, nth)

    def jump(self, by_s: float) -> None:
        """Set the worker's wall clock to be ahead, or behind."""
        self._memory[:] = self._LAYOUT.pack(int(by_s * 1e9), *self._get()[1:])

    def due(self, point: int) -> bool:
        """Count a call at a point; whether to die there."""
        ahead_ns, armed, left = self._get()
        if armed != point:
            return False
        self._memory[:] = self._LAYOUT.pack(ahead_ns, armed, left - 1)
        return left == 1

    def shift_clock(self) -> None:
        """Let Python's wall clock follow."""
        now_ns = time.time_ns
        time.time_ns = lambda: now_ns() + self._get()[0]
        time.time = lambda: time.time_ns() / 1e9


class Crash:
    """Dies on the n-th call; or when a remote says so."""

    def __init__(
        self, point: str, nth: int, file: str, remote: Remote | None = None, *, fall_asleep: bool = False
    ) -> None:
        self.point = point
        self._fall_asleep = fall_asleep
        self._left = nth
        self._remote = remote
        self._index = list(_ARM).index(point) if remote else -1
        self._lock = threading.Lock()
        self._dying = threading.Lock()
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)

    def due(self) -> bool:
        """Count a call; whether it is the one."""
        with self._lock:
            if self._remote:
                return self._remote.due(self._index)
            self._left -= 1
            return self._left == 0

    def die(self) -> None:
        """Say where, and be gone: nothing is flushed, closed or unwound. Who only falls asleep goes on afterwards."""
        if self._dying.acquire(blocking=False):
            os.write(self._file, self.point.encode())
            os.fsync(self._file)
            os.kill(os.getpid(), signal.SIGSTOP if self._fall_asleep else signal.SIGKILL)
        while not self._fall_asleep:  # a second thread that comes by
            time.sleep(1)

    def after(self, owner: Any, name: str, when: Callable[..., bool] = lambda *_: True) -> None:
        """Die when a method of `owner` has returned."""
        method: _Method = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            if when(*args) and self.due():
                self.die()
            return result

        setattr(owner, name, wrapped)

    def half(self, topic_suffix: str) -> None:
        """Die when the broker has half of the records that are sent at once to a topic."""
        send = BulkProducer.send

        def wrapped(producer: BulkProducer, topic: str, keys: Any, values: Any) -> None:
            keys, values = list(keys), list(values)
            if topic.endswith(topic_suffix) and len(keys) > 1 and self.due():
                send(producer, topic, keys[: len(keys) // 2], values[: len(keys) // 2])
                producer.flush()
                self.die()
            send(producer, topic, keys, values)

        BulkProducer.send = wrapped  # type: ignore[method-assign,assignment]

    def within(self, owner: Any, name: str, after_s: float) -> None:
        """Die while a method of `owner` is running."""
        method: _Method = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if self.due():
                threading.Timer(after_s, self.die).start()
                method(*args, **kwargs)
                self.die()  # it was quicker
            return method(*args, **kwargs)

        setattr(owner, name, wrapped)


def flushes_of_commit(crash: Crash, which: int) -> None:
    """Die when the `which`-th flush of a commit's bulk producer has returned: 1 = outputs, 2 = rows."""
    send = AtLeastOnce.send
    flush = BulkProducer.flush
    state = threading.local()

    def wrapped_send(self: AtLeastOnce, sent: Sent) -> int:
        state.producer, state.n = self._producer, 0
        try:
            return send(self, sent)
        finally:
            state.producer = None

    def wrapped_flush(self: BulkProducer) -> None:
        flush(self)
        if self is getattr(state, "producer", None):
            state.n += 1
            if state.n == which and crash.due():
                crash.die()

    AtLeastOnce.send = wrapped_send  # type: ignore[method-assign]
    BulkProducer.flush = wrapped_flush  # type: ignore[method-assign]


def before_commit(crash: Crash) -> None:
    """Die when the brokers have everything of a transaction but the word that it is committed."""
    commit = TransactionalProducer.commit

    def wrapped(self: TransactionalProducer, topic: str, key: bytes, value: bytes) -> int:
        if crash.due():
            self.send(topic, [key], [value])
            self.flush()
            crash.die()
        return commit(self, topic, key, value)

    TransactionalProducer.commit = wrapped  # type: ignore[method-assign]


def from_sweep(outputs: Outputs) -> bool:
    """Whether an offer that a sweep made is among them."""
    return any(b'"topic":"sweep"' in offer for offer in outputs.offers)


_AT_LEAST_ONCE: dict[str, Callable[[Crash], None]] = {
    # all offers and decisions are out, no row
    "outputs_sent": lambda crash: flushes_of_commit(crash, 1),
    # all rows are ahead of the applied record
    "rows_sent": lambda crash: flushes_of_commit(crash, 2),
    # the changelog knows, the store does not
    "applied_sent": lambda crash: crash.after(BulkProducer, "send_last"),
}
_EXACTLY_ONCE: dict[str, Callable[[Crash], None]] = {
    # the former owners are fenced, nothing is restored
    "fencing": lambda crash: crash.after(TransactionalProducer, "initialise"),
    # a transaction is open, nothing is in it
    "begun": lambda crash: crash.after(TransactionalProducer, "begin"),
    # everything is in it
    "transaction_sent": before_commit,
    # while the brokers commit it
    "committing": lambda crash: crash.within(TransactionalProducer, "commit", after_s=0.004),
    # the changelog knows, the store does not
    "committed": lambda crash: crash.after(ExactlyOnce, "send"),
}
_ALWAYS: dict[str, Callable[[Crash], None]] = {
    # some offers and decisions are out
    "outputs_half_sent": lambda crash: crash.half("decisions"),
    # some rows
    "rows_half_sent": lambda crash: crash.half("-rows-changelog"),
    # the store knows, the group's offsets do not
    "stored": lambda crash: crash.after(Partition, "_keep"),
    # within the store: RocksDB has it, not durable
    "store_written": lambda crash: crash.after(Store, "write"),
    # while RocksDB flushes
    "store_flushing": lambda crash: crash.within(Store, "flush", after_s=0.001),
    # while offsets are committed to the group
    "source_committing": lambda crash: crash.after(
        transport.Consumer, "_filter_committable_offsets", lambda self, _: bool(self.partitions.committable())
    ),
    # some of the changelog is in the store
    "restoring": lambda crash: crash.after(Store, "replay"),
    # restored, not open yet
    "taking_over": lambda crash: crash.after(partition, "where_to_go_on"),
    # a batch is half absorbed
    "absorbing": lambda crash: crash.after(topology, "absorb"),
    # a batch is absorbed and half scored
    "scoring": lambda crash: crash.after(Model, "score"),
    # rows of cold users are being read
    "admitting": lambda crash: crash.after(Store, "get"),
}
_IN_SWEEP: dict[str, Callable[[Crash], None]] = {
    # a turn has answered silences, nothing of it is sent
    "swept": lambda crash: crash.after(Sweep, "turn", lambda _, open_, *__: from_sweep(open_.outputs)),
    # what a turn found is committed, the next one has not begun
    "sweep_committed": lambda crash: crash.after(Partition, "_keep", lambda _, sent, *__: from_sweep(sent.outputs)),
    # silences are found, their users' rows are not taken into memory yet
    "sweep_scanned": lambda crash: crash.after(Store, "scan"),
}
_WHEN_TOLD: dict[str, Callable[[Crash], None]] = {
    # partitions are revoked, nothing is drained
    "rebalancing": lambda crash: crash.after(TakeOver, "on_partitions_revoked"),
    # another model is loaded, not in force
    "swapping": lambda crash: crash.after(shelf, "load"),
}
_ARM = _AT_LEAST_ONCE | _EXACTLY_ONCE | _ALWAYS | _IN_SWEEP | _WHEN_TOLD
POINTS = {
    "at_least_once": (*_ALWAYS, *_AT_LEAST_ONCE),
    "exactly_once": (*_ALWAYS, *_EXACTLY_ONCE),
}
"""What a worker comes by of its own accord, by guarantee."""
SWEEP_POINTS = tuple(_IN_SWEEP)
"""The same, where a campaign waits for silences."""


def rows_first(crash: Crash) -> None:
    """Break rule 21: rows go out before offers and decisions. Die between the two."""
    send = Outputs.send

    def wrapped(self: Outputs, producer: BulkProducer, settings: Settings) -> None:
        producer.send(settings.changelog, self.rows.keys(), self.rows.values())
        producer.flush()
        if self.rows and crash.due():
            crash.die()
        send(self, producer, settings)

    Outputs.send = wrapped  # type: ignore[method-assign]


def without_row_fence() -> None:
    """Break rule 21 again: rows forget, as they are read, what was applied to them."""
    unpack = row.unpack

    def unfenced(packed: Any) -> Any:
        rows = unpack(packed)
        rows["fence"] = 0
        return rows

    row.unpack = unfenced


def store_first(crash: Crash) -> None:
    """Swap two steps of rule 13: the store takes rows and applied record before they are committed. Die between."""
    send = Partition._send

    def wrapped(self: Partition, sent: Sent) -> int:
        if sent.outputs.rows and crash.due():
            self._store.put(sent.outputs.rows, sent.applied, self.changelog_end)
            self._store.flush()
            crash.die()
        return send(self, sent)

    Partition._send = wrapped  # type: ignore[method-assign]


def without_applied_record() -> None:
    """Break the fence under transactions: a partition goes on from the start of its sources, and rows forget theirs."""
    vars(partition)["where_to_go_on"] = lambda _, *given: where_to_go_on(None, *given)
    without_row_fence()


def without_fencing() -> None:
    """Break rule 1: every producer has a transactional id of its own."""
    vars(producer)["transactional_id"] = lambda settings, number: f"{settings.app_id}-{number}-{os.getpid()}"


def on_a_small_disk(folder: str) -> None:
    """Give this process a disk of half a megabyte: a tmpfs in a user and mount namespace of its own, without root.

    Raises:
        OSError: the system does not allow it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    new_user_and_mounts = 0x10000000 | 0x00020000
    if libc.unshare(new_user_and_mounts) or libc.mount(b"tmpfs", folder.encode(), b"tmpfs", 0, b"size=512k"):
        raise OSError(ctypes.get_errno(), "no namespace of its own")


def slowly(owner: Any, name: str, by_s: float) -> None:
    """Make a method take longer."""
    method: _Method = getattr(owner, name)

    def wrapped(*args: Any) -> Any:
        time.sleep(by_s)
        return method(*args)

    setattr(owner, name, wrapped)


class Orders(NamedTuple):
    """How a worker is to end, if it is, and what is wrong with it besides, if anything."""

    point: str = ""
    nth: int = 1
    mutation: str = ""
    remote: str = ""
    """File of a `Remote`."""
    fall_asleep: bool = False
    """SIGSTOP at the point instead of SIGKILL: the test wakes it up, or does not."""


def run(orders: Orders, file: str, log: str, environment: Mapping[str, str]) -> None:
    """Be the worker: in a fresh process."""
    settle_in(log, environment)
    arm = _ARM | {"rows_sent_first": rows_first, "stored_first": store_first}
    if orders.mutation == "unfenced":
        without_row_fence()
    if orders.mutation == "from_the_start":
        without_applied_record()
    if orders.mutation == "no_fencing":
        without_fencing()
    if orders.mutation == "small_disk":
        on_a_small_disk(environment["OFFERSTREAM_DATA_DIR"])
    if orders.mutation.startswith("raise_in_"):
        setattr(topology, orders.mutation.removeprefix("raise_in_"), lambda *_: 1 // 0)
    if orders.mutation == "slow":
        slowly(topology, "absorb", 0.02)
    if orders.remote:
        remote = Remote(Path(orders.remote))
        remote.shift_clock()
        for point, wrap in _ARM.items():
            wrap(Crash(point, 0, file, remote))
    if orders.point:
        arm[orders.point](Crash(orders.point, orders.nth, file, fall_asleep=orders.fall_asleep))
    sys.argv = ["worker"]
    worker_command()


class CrashingWorker(ForkedWorker):
    """A worker under orders."""

    def __init__(self, site: Site, orders: Orders, **settings: Any) -> None:
        log = site.folder / f"crashing-{self.next_number()}.log"
        self._file = log.with_suffix(".crashed")
        super().__init__(log, run, orders, str(self._file), str(log), site.environment(**settings))

    def crashed_at(self) -> str:
        """The point that it wrote before it died; nothing if it did not."""
        return self._file.read_text() if self._file.exists() else ""
