"""A worker that stalls or fails at a named place: its methods are wrapped, then the worker's own command runs."""

import asyncio
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
from tests.e2e.harness import Site
from tests.faults.forked_worker import ForkedWorker, settle_in

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


def loses_batches(getmany: Callable[..., Any]) -> Callable[..., Any]:
    """As Faust may when the flow stops while a batch waits: of the first thirty every third is lost."""
    seen = 0

    async def lossy(*args: Any, **kwargs: Any) -> Any:
        nonlocal seen
        async for found in getmany(*args, **kwargs):
            seen += 1
            if seen % 3 or seen > 30:
                yield found

    return lossy


def loses_polls(fetch: Callable[..., Any]) -> Callable[..., Any]:
    """What the consumer brings is lost: of the first ten times that it brings something, every other."""
    brought = 0

    async def lossy(*args: Any, **kwargs: Any) -> Any:
        nonlocal brought
        found = await fetch(*args, **kwargs)
        brought += bool(found)
        return {} if brought <= 10 and brought % 2 else found

    return lossy


LOSSES: dict[str, Callable[[], None]] = {
    "batches": lambda: setattr(transport.Consumer, "getmany", loses_batches(transport.Consumer.getmany)),
    "polls": lambda: setattr(
        transport.ConsumerThread, "_fetch_records", loses_polls(transport.ConsumerThread._fetch_records)
    ),
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
    settle_in(log, environment)
    if kind == "stall":
        STALLS[place]()
    elif kind == "lose":
        LOSSES[place]()
    else:
        FAILURES[place](file)
    sys.argv = ["worker"]
    worker_command()


class StallingWorker(ForkedWorker):
    """A worker that is to stall ("stall"), fail ("fail") or lose what it reads ("lose") at a place."""

    def __init__(self, site: Site, kind: str, place: str, **settings: Any) -> None:
        log = site.folder / f"stalling-{self.next_number()}.log"
        self._file = log.with_suffix(".failed")
        super().__init__(log, run, kind, place, str(self._file), str(log), site.environment(**settings))

    def failed(self) -> bool:
        """Whether it has come by that place."""
        return self._file.exists()
