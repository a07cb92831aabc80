"""A worker that kills itself (SIGKILL, its own process) at a named point, on the n-th time that it comes by.

The product has no hooks for this: methods are wrapped here, then the worker's own command runs. Before it dies it
writes the point's name to a file, so that a test knows that it died there and of nothing else.

Workers are forked from a server process that has imported everything already (`multiprocessing`'s forkserver): imports
are most of what fifty starts cost.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

from stream import topology
from stream.app import worker_command
from stream.core import row
from stream.kafka import partition, transport
from stream.kafka.emit import Outputs
from stream.kafka.partition import Partition
from stream.kafka.producer import BulkProducer
from stream.kafka.store import Store
from stream.scoring.model import Model
from stream.settings import Settings
from tests.e2e.harness import LateError, Site, Worker

_Method = Callable[..., Any]


class Crash:
    """Dies on the n-th call."""

    def __init__(self, point: str, nth: int, file: str) -> None:
        self.point = point
        self._left = nth
        self._lock = threading.Lock()
        self._dying = threading.Lock()
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)

    def due(self) -> bool:
        """Count a call; whether it is the one."""
        with self._lock:
            self._left -= 1
            return self._left == 0

    def die(self) -> NoReturn:
        """Say where, and be gone: nothing is flushed, closed or unwound."""
        if self._dying.acquire(blocking=False):
            os.write(self._file, self.point.encode())
            os.fsync(self._file)
            os.kill(os.getpid(), signal.SIGKILL)
        while True:  # a second thread that comes by
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
    send: _Method = vars(partition)["send_at_least_once"]
    flush = BulkProducer.flush
    state = threading.local()

    def wrapped_send(sent: Any, producer: BulkProducer, *more: Any) -> int:
        state.producer, state.n = producer, 0
        try:
            return send(sent, producer, *more)
        finally:
            state.producer = None

    def wrapped_flush(self: BulkProducer) -> None:
        flush(self)
        if self is getattr(state, "producer", None):
            state.n += 1
            if state.n == which and crash.due():
                crash.die()

    vars(partition)["send_at_least_once"] = wrapped_send
    BulkProducer.flush = wrapped_flush  # type: ignore[method-assign]


_ARM: dict[str, Callable[[Crash], None]] = {
    # some offers and decisions are out
    "outputs_half_sent": lambda crash: crash.half("decisions"),
    # all of them, no row
    "outputs_sent": lambda crash: flushes_of_commit(crash, 1),
    # some rows are ahead of the applied record
    "rows_half_sent": lambda crash: crash.half("-rows-changelog"),
    # all of them
    "rows_sent": lambda crash: flushes_of_commit(crash, 2),
    # the changelog knows, the store does not
    "applied_sent": lambda crash: crash.after(BulkProducer, "send_last"),
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
POINTS = tuple(_ARM)


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


def run(orders: Orders, file: str, log: str, environment: Mapping[str, str]) -> None:
    """Be the worker: in a fresh process."""
    log_file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log_file, 1)
    os.dup2(log_file, 2)
    os.environ.clear()
    os.environ.update(environment)
    arm = _ARM | {"rows_sent_first": rows_first}
    if orders.mutation == "unfenced":
        without_row_fence()
    if orders.mutation.startswith("raise_in_"):
        setattr(topology, orders.mutation.removeprefix("raise_in_"), lambda *_: 1 // 0)
    if orders.mutation == "slow":
        slowly(topology, "absorb", 0.02)
    if orders.point:
        arm[orders.point](Crash(orders.point, orders.nth, file))
    sys.argv = ["worker"]
    worker_command()


_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([__name__])


class CrashingWorker(Worker):
    """A worker under orders."""

    def __init__(self, site: Site, orders: Orders, **settings: Any) -> None:
        self._log = site.folder / f"crashing-{self.next_number()}.log"
        self._file = self._log.with_suffix(".crashed")
        self._fork = _FORKS.Process(
            target=run, args=(orders, str(self._file), str(self._log), site.environment(**settings)), daemon=True
        )
        self._fork.start()
        self.pid = self._fork.pid or 0

    def crashed_at(self) -> str:
        """The point that it wrote before it died; nothing if it did not."""
        return self._file.read_text() if self._file.exists() else ""

    def poll(self) -> int | None:
        return self._fork.exitcode

    def wait(self, timeout_s: float) -> int:
        self._fork.join(timeout_s)
        if self._fork.exitcode is None:
            raise LateError(f"the worker still runs after {timeout_s:.0f} s:\n{self.log()}")
        return self._fork.exitcode

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._fork.kill()
        self._fork.join()
