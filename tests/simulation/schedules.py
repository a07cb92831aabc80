"""Schedules, by seed: one here, or many in as many processes as there are cores."""

import logging
import multiprocessing
import os
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tests.simulation.loop import StuckError
from tests.simulation.shop import Log, judge
from tests.simulation.world import PARTITIONS, World

FAULTS = 6
LOGS = 8
EVENTS = 8

_MEMORY = Path("/dev/shm")


@contextmanager
def folder() -> Iterator[Path]:
    """For workers' disks: in memory where there is such a place. What workers say of faults is thousands of lines."""
    logging.disable(logging.CRITICAL)
    try:
        with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as path:
            yield Path(path)
    finally:
        logging.disable(logging.NOTSET)


def run(disks: Path, seed: int, **given: Any) -> tuple[World, list[str]]:
    """One schedule, and what is wrong with it."""
    once = given.get("guarantee", "exactly_once") == "exactly_once"
    world = World(seed, disks / str(seed), Log(seed % LOGS, EVENTS, PARTITIONS), **given)
    try:
        world.run(FAULTS)
    except StuckError as e:
        return world, [str(e), *world.bugs]
    return world, judge(world.broker, world.log, world.settings(0), once=once, bits=seed % 10 == 0) + world.bugs


class Ran(NamedTuple):
    """What came of a schedule."""

    seed: int
    said: list[str]
    """What is wrong with it."""
    steps: list[str]
    drawn: int
    trace: str


def _one(seed: int, **given: Any) -> Ran:
    with folder() as disks:
        world, said = run(disks, seed, **given)
    return Ran(seed, said, world.steps if said else [], world.loop.drawn, world.trace())


def run_all(seeds: Iterable[int], **given: Any) -> Iterator[Ran]:
    """Each of them, in the order of `seeds`."""
    processes = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), processes) as pool:
        yield from pool.map(partial(_one, **given), seeds, chunksize=8)
