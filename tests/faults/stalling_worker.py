"""A worker that stalls or fails at a named place: its methods are wrapped, then the worker's own command runs."""

import asyncio
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stream import topology
from stream.app import worker_command
from stream.kafka import intake, takeover, transport
from stream.kafka.control import Control
from stream.kafka.emit import Emitter
from stream.kafka.lag import Lag
from stream.kafka.partition import Partition
from stream.kafka.table import TakeOver
from tests.e2e.harness import LateError, Site, Worker

FOREVER_S = 10**6


def hang(*_: Any, **__: Any) -> Any:
    """Never come back: for what runs in a thread."""
    time.sleep(FOREVER_S)


async def fetch_nothing(*_: Any, **__: Any) -> dict[Any, Any]:
    """As a consumer that has stopped for good."""
    await asyncio.sleep(0.2)
    return {}


async def forget(self: TakeOver, *_: Any, **__: Any) -> None:
    """As a rebalance whose end nobody is told of."""
    self.completed.clear()


def without_partition_one(fetch: Callable[..., Any]) -> Callable[..., Any]:
    """As a consumer that has forgotten one of its partitions."""

    async def fetched(*args: Any, **kwargs: Any) -> Any:
        found = await fetch(*args, **kwargs)
        return {tp: records for tp, records in found.items() if tp.partition != 1}

    return fetched


STALLS: dict[str, Callable[[], None]] = {
    # commits stop, processing goes on
    "commit": lambda: setattr(Partition, "_send", hang),
    # the consumer stops
    "fetch": lambda: setattr(transport.ConsumerThread, "_fetch_records", fetch_nothing),
    # the consumer stops for one partition
    "one partition": lambda: setattr(
        transport.ConsumerThread, "_fetch_records", without_partition_one(transport.ConsumerThread._fetch_records)
    ),
    # the one compute thread is stuck
    "compute": lambda: setattr(topology, "absorb", hang),
    # recovery never ends
    "restore": lambda: setattr(takeover, "restore", hang),
    # a rebalance never ends
    "rebalance": lambda: setattr(TakeOver, "on_rebalance", forget),
}


def fails(owner: Any, name: str, nth: int = 1) -> Callable[[str], None]:
    """Raise what nobody expects, the n-th time, and note it."""

    def arm(file: str) -> None:
        method = getattr(owner, name)
        calls = 0

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls < nth:
                return method(*args, **kwargs)
            Path(file).touch()
            raise KeyError("nobody expects this")

        setattr(owner, name, wrapped)

    return arm


FAILURES: dict[str, Callable[[str], None]] = {
    "fetch": fails(transport.ConsumerThread, "_fetch_records"),
    "bundle": fails(transport, "bundle"),
    "decode": fails(intake, "decode"),
    "absorb": fails(topology, "absorb"),
    "emit": fails(Emitter, "emit"),
    "snapshot": fails(Partition, "_snapshot"),
    "send": fails(Partition, "_send"),
    "keep": fails(Partition, "_keep"),
    "take over": fails(Partition, "_take_over"),
    "group offsets": fails(transport.Consumer, "_filter_committable_offsets"),
    "control": fails(Control, "_take", nth=2),
    "sample": fails(Lag, "look"),
}


def run(kind: str, place: str, file: str, log: str, environment: Mapping[str, str]) -> None:
    """Be the worker: in a fresh process."""
    log_file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log_file, 1)
    os.dup2(log_file, 2)
    os.environ.clear()
    os.environ.update(environment)
    if kind == "stall":
        STALLS[place]()
    else:
        FAILURES[place](file)
    sys.argv = ["worker"]
    worker_command()


_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.faults.crashing_worker", __name__])


class StallingWorker(Worker):
    """A worker that is to stall ("stall") or fail ("fail") at a place."""

    def __init__(self, site: Site, kind: str, place: str, **settings: Any) -> None:
        site.folder.mkdir(parents=True, exist_ok=True)
        self._log = site.folder / f"stalling-{self.next_number()}.log"
        self._file = self._log.with_suffix(".failed")
        self._fork = _FORKS.Process(
            target=run, args=(kind, place, str(self._file), str(self._log), site.environment(**settings)), daemon=True
        )
        self._fork.start()
        self.pid = self._fork.pid or 0

    def failed(self) -> bool:
        """Whether it has come by that place."""
        return self._file.exists()

    def poll(self) -> int | None:
        return self._fork.exitcode

    def wait(self, timeout_s: float) -> int:
        self._fork.join(timeout_s)
        if self._fork.exitcode is None:
            raise LateError(f"the worker still runs after {timeout_s:.0f} s:\n{self.log()}")
        return self._fork.exitcode

    def kill(self) -> None:
        self._fork.kill()
        self._fork.join()
