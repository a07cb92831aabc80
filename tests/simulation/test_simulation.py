"""Thousands of schedules of the partition's own code in a minute, and proof that a defect in it would be found.

SIMULATION_SCHEDULES=N runs another number of them, SIMULATION_SEED=N one alone. A schedule that goes wrong shows its
seed and what happened in it; the same seed makes the same schedule.
"""

import contextvars
import hashlib
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stream.core import row
from stream.kafka import hanging, partition, producer, takeover
from stream.kafka.cluster import log_ranges
from stream.kafka.commit import Sent
from stream.kafka.partition import Partition
from stream.kafka.takeover import where_to_go_on
from tests.conftest import ROOT
from tests.simulation.disk import RealDisk
from tests.simulation.schedules import folder, run, run_all

SCHEDULES = int(os.environ.get("SIMULATION_SCHEDULES", "400"))
ALONE = os.environ.get("SIMULATION_SEED")
FOUND_WITHIN = 100
"""Schedules in which a defect that is put in on purpose must show."""


@pytest.fixture
def disks() -> Iterator[Path]:
    with folder() as path:
        yield path


def check(seeds: range, **given: Any) -> None:
    for ran in run_all([int(ALONE)] if ALONE else seeds, **given):
        if ran.said:
            pytest.fail("\n".join([f"SIMULATION_SEED={ran.seed}", *ran.said, *ran.steps]))


def first_found(what: str, disks: Path, **given: Any) -> int:
    """How many schedules it took until one went wrong in a way that `what` matches."""
    for seed in range(FOUND_WITHIN):
        _, said = run(disks, seed, **given)
        if any(re.search(what, line) for line in said):
            return seed + 1
    pytest.fail(f"not found within {FOUND_WITHIN} schedules")


def test_each_offer_is_seen_once_whatever_happens() -> None:
    check(range(SCHEDULES))


def test_nothing_is_lost_at_least_once() -> None:
    check(range(SCHEDULES // 3), guarantee="at_least_once")


def test_brokers_may_lose_the_end_of_a_transaction() -> None:
    check(range(SCHEDULES // 2), loses_markers=True)


def test_with_rocksdb_itself() -> None:
    """The share of schedules that use what the product uses."""
    check(range(10**6, 10**6 + SCHEDULES // 15), disk=RealDisk)


@pytest.mark.long
@pytest.mark.parametrize("first", range(10**5, 10**5 + 5_000, 1_000))
def test_many_more_schedules(first: int) -> None:
    check(range(first, first + 1_000))


@pytest.mark.long
def test_many_more_at_least_once() -> None:
    check(range(10**5, 10**5 + 1_000), guarantee="at_least_once")


@pytest.mark.long
def test_many_more_with_rocksdb_itself() -> None:
    check(range(10**5, 10**5 + 200), disk=RealDisk)


def test_a_seed_makes_the_same_schedule_again(disks: Path) -> None:
    """In this process and in others, whose strings hash differently and whose objects lie elsewhere."""
    found = hashlib.sha256()
    for seed in range(3):
        first, second = (run(disks / name, seed)[0] for name in ("first", "second"))
        assert first.steps == second.steps
        assert len(first.steps) > 10
        assert first.trace() == second.trace()
        found.update(first.trace().encode())
    command = [sys.executable, "-m", "tests.simulation", "3"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=100).stdout
    assert said.split()[-1] == found.hexdigest()[:16]


# --- that it can fail


def test_it_finds_a_fence_that_is_off(disks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A partition goes on from the start of its sources, and rows forget what was applied to them."""
    unpack = row.unpack

    def unfenced(packed: Any) -> Any:
        rows = unpack(packed)
        rows["fence"] = 0
        return rows

    monkeypatch.setattr(row, "unpack", unfenced)
    monkeypatch.setattr(partition, "where_to_go_on", lambda _, *given: where_to_go_on(None, *given))
    assert first_found("duplicated", disks) <= 20


def test_it_finds_two_steps_swapped(disks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store takes rows and applied record before they are committed."""
    send = Partition._send

    def stored_first(self: Partition, sent: Sent) -> int:
        self._store.put(sent.outputs.rows, sent.applied, self.changelog_end)
        self._store.flush()
        return send(self, sent)

    monkeypatch.setattr(Partition, "_send", stored_first)
    assert first_found("lost", disks) <= 20


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody sees that a transaction hangs: to take it for one that brokers forgot makes up for other defects too."""
    monkeypatch.setattr(hanging, "high_watermarks", lambda _admin, tps: dict.fromkeys(tps, 0))


@pytest.mark.usefixtures("blind")
def test_it_finds_owners_that_are_not_fenced(disks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every producer has a transactional id of its own."""
    numbers = itertools.count()
    monkeypatch.setattr(producer, "transactional_id", lambda settings, p: f"{settings.app_id}-{p}-{next(numbers)}")
    assert first_found("duplicated", disks)


@pytest.mark.usefixtures("blind")
def test_it_finds_an_end_that_was_asked_for_too_early(disks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The changelog's end from before the former owner was fenced: what that one committed last is not restored."""
    take_over, ask = Partition._take_over, log_ranges
    early: contextvars.ContextVar[Any] = contextvars.ContextVar("early", default=None)

    def taken_over(self: Partition, cluster: Any, admin: Any, still_ours: Callable[[], bool]) -> bool:
        topics = [(self._settings.changelog, self.number)]
        early.set(ask(admin, topics))
        return take_over(self, cluster, admin, still_ours)

    monkeypatch.setattr(Partition, "_take_over", taken_over)
    monkeypatch.setattr(takeover, "log_ranges", lambda admin, tps: ask(admin, tps) | early.get())
    assert first_found("duplicated", disks)


@pytest.mark.usefixtures("blind")
def test_it_finds_brokers_that_do_not_wait_for_markers(disks: Path) -> None:
    """An id that is initialised while its last transaction is being committed: its markers come after the restore."""
    assert first_found("duplicated", disks, waits_for_markers=False)


def test_it_finds_a_lost_end_that_nobody_looks_for(disks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store keeps what the changelog lost."""
    monkeypatch.setattr(takeover, "confirm", lambda *_: None)
    assert first_found("lost", disks, loses_markers=True)


@pytest.mark.usefixtures("blind")
def test_it_finds_a_lost_end_that_is_left_open(disks: Path) -> None:
    """What hangs is seen with the next commit, after its events were applied again."""
    assert first_found("duplicated", disks, loses_markers=True)


def test_it_finds_a_commit_that_comes_again(disks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """librdkafka repeated a commit, and its first copy ends the next transaction in its midst."""
    monkeypatch.setattr(producer, "REPEATED_S", float("inf"))
    assert first_found("duplicated", disks)
