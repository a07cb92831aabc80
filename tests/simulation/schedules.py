"""Schedules one after the other, by seed."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
