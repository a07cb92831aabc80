"""Thousands of schedules of the partition's own code in a minute, and proof that a defect in it would be found.

SIMULATION_SCHEDULES=N runs another number of them, SIMULATION_SEED=N one alone. A schedule that goes wrong shows its
seed and what happened in it; the same seed makes the same schedule.
"""

import contextvars
import itertools
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stream.core import row
from stream.kafka import partition, producer
from stream.kafka.cluster import log_ranges
from stream.kafka.commit import Sent
from stream.kafka.partition import Partition
from stream.kafka.takeover import Position
from tests.simulation.disk import RealDisk
from tests.simulation.loop import StuckError
from tests.simulation.shop import Log, judge
from tests.simulation.world import PARTITIONS, World

SCHEDULES = int(os.environ.get("SIMULATION_SCHEDULES", "150"))
ALONE = os.environ.get("SIMULATION_SEED")
FAULTS = 6
LOGS = 8
FOUND_WITHIN = 100
"""Schedules in which a defect that is put in on purpose must show."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What workers say of faults is thousands of lines."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def run(folder: Path, seed: int, **given: Any) -> tuple[World, list[str]]:
    """One schedule, and what is wrong with it."""
    once = given.get("guarantee", "exactly_once") == "exactly_once"
    world = World(seed, folder / str(seed), Log(seed % LOGS, 8, PARTITIONS), **given)
    try:
        world.run(FAULTS)
    except StuckError as e:
        return world, [str(e), *world.bugs]
    return world, judge(world.broker, world.log, world.settings(0), once=once, bits=seed % 10 == 0) + world.bugs


def check(folder: Path, seeds: range, **given: Any) -> None:
    for seed in [int(ALONE)] if ALONE else seeds:
        world, said = run(folder, seed, **given)
        if said:
            pytest.fail("\n".join([f"SIMULATION_SEED={seed}", *said, *world.steps]))


def first_found(what: str, folder: Path, **given: Any) -> int:
    """How many schedules it took until one went wrong in a way that `what` matches."""
    for seed in range(FOUND_WITHIN):
        _, said = run(folder, seed, **given)
        if any(re.search(what, line) for line in said):
            return seed + 1
    pytest.fail(f"not found within {FOUND_WITHIN} schedules")


def test_each_offer_is_seen_once_whatever_happens(tmp_path: Path) -> None:
    check(tmp_path, range(SCHEDULES))


def test_nothing_is_lost_at_least_once(tmp_path: Path) -> None:
    check(tmp_path, range(SCHEDULES // 3), guarantee="at_least_once")


def test_with_rocksdb_itself(tmp_path: Path) -> None:
    """The share of schedules that use what the product uses."""
    check(tmp_path, range(10**6, 10**6 + SCHEDULES // 15), disk=RealDisk)


@pytest.mark.long
def test_many_more_schedules(tmp_path: Path) -> None:
    check(tmp_path, range(10**5, 10**5 + 5_000))
    check(tmp_path, range(10**5, 10**5 + 1_000), guarantee="at_least_once")
    check(tmp_path, range(10**5, 10**5 + 200), disk=RealDisk)


def test_a_seed_makes_the_same_schedule_again(tmp_path: Path) -> None:
    for seed in range(3):
        first, second = (run(tmp_path / name, seed)[0] for name in ("first", "second"))
        assert first.steps == second.steps
        assert len(first.steps) > 10


# --- that it can fail


def test_it_finds_a_fence_that_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A partition goes on from the start of its sources, and rows forget what was applied to them."""
    unpack = row.unpack

    def unfenced(packed: Any) -> Any:
        rows = unpack(packed)
        rows["fence"] = 0
        return rows

    monkeypatch.setattr(row, "unpack", unfenced)
    monkeypatch.setattr(
        partition, "where_to_go_on", lambda *given: Position(0, {source: log[0] for source, log in given[4].items()})
    )
    assert first_found("duplicated", tmp_path) <= 20


def test_it_finds_two_steps_swapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store takes rows and applied record before they are committed."""
    send = Partition._send

    def stored_first(self: Partition, sent: Sent) -> int:
        self._store.put(sent.outputs.rows, sent.applied, self.changelog_end)
        self._store.flush()
        return send(self, sent)

    monkeypatch.setattr(Partition, "_send", stored_first)
    assert first_found("lost", tmp_path) <= 20


def test_it_finds_owners_that_are_not_fenced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every producer has a transactional id of its own."""
    numbers = itertools.count()
    monkeypatch.setattr(producer, "transactional_id", lambda settings, p: f"{settings.app_id}-{p}-{next(numbers)}")
    assert first_found("duplicated", tmp_path)


def test_it_finds_an_end_that_was_asked_for_too_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The changelog's end from before the former owner was fenced: what that one committed last is not restored."""
    take_over, ask = Partition._take_over, log_ranges
    early: contextvars.ContextVar[Any] = contextvars.ContextVar("early", default=None)

    def taken_over(self: Partition, cluster: Any, admin: Any, still_ours: Callable[[], bool]) -> bool:
        topics = [(self._settings.changelog, self.number)]
        early.set(ask(admin, topics))
        return take_over(self, cluster, admin, still_ours)

    monkeypatch.setattr(Partition, "_take_over", taken_over)
    monkeypatch.setattr(partition, "log_ranges", lambda admin, tps: ask(admin, tps) | early.get())
    assert first_found("duplicated", tmp_path)


def test_it_finds_brokers_that_do_not_wait_for_markers(tmp_path: Path) -> None:
    """An id that is initialised while its last transaction is being committed: its markers come after the restore."""
    assert first_found("duplicated", tmp_path, waits_for_markers=False)
