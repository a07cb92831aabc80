"""However a log is divided and wherever its parts are absorbed, the data set is the same bytes."""

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import dask
import numpy as np
import pytest
from click.testing import CliRunner
from distributed import LocalCluster
from hypothesis import given
from hypothesis import strategies as st

from stream.core.events import Kind
from stream.kafka.partitioner import partitions
from stream.kafka.topics import Record
from tests.training.elsewhere import end_this_process, name_or_die, refuse
from training import archive, parallel
from training.archive import Manifest, read_manifest
from training.cli import cli
from training.dataset import Built, Dataset, absorbed, build, built, whole
from training.erasures import Erasures
from training.errors import TrainingError
from training.log import EventLog
from training.parallel import on_dask, on_processes
from training.parts import Where, divided, of_archive, of_log
from training.sources import read_archive

HOUR_MS = 3_600_000
START_MS = 1_700_000_000_000
N_PARTITIONS = 4
MakeLog = Callable[..., EventLog]


def silent(_done: int, _total: int) -> None:
    pass


def same(one: Dataset, other: Dataset) -> None:
    for name in Dataset._fields:
        left, right = getattr(one, name), getattr(other, name)
        assert left.dtype == right.dtype, name
        assert left.shape == right.shape, name
        assert left.tobytes() == right.tobytes(), name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of four partitions: views and orders, some records twice, some that no worker can read."""
    path = tmp_path_factory.mktemp("parts") / "archive"
    path.mkdir()
    ends = {topic: [0] * N_PARTITIONS for topic in archive.ARCHIVED}
    manifest = Manifest(N_PARTITIONS, ends)
    rng = np.random.default_rng(4)
    places: dict[tuple[str, int], list[Record]] = {}
    for n in range(4_000):
        user, time_ms = f"user-{rng.integers(150)}", START_MS + 60_000 * n
        said = {"event_id": f"e{n - (n % 50 == 1)}", "user_id": user, "time_ms": time_ms, "kind": "product_view"}
        topic = "clickstream"
        if rng.random() < 0.2:
            topic = "orders"
            said |= {"kind": "placed", "order_id": f"o{n}", "total_minor": 100, "currency": "EUR"}
        partition = int(partitions([user.encode()], N_PARTITIONS)[0])
        records = places.setdefault((topic, partition), [])
        value = b"not json" if n % 1_000 == 10 else json.dumps(said).encode()
        records.append(Record(topic, partition, user.encode(), value, len(records), time_ms, []))
    for (topic, partition), records in places.items():
        archive._write_range(path, manifest, topic, partition, records, Erasures({}, [], []))
    assert all(sum(ends[topic]) for topic in ("clickstream", "orders"))
    return path


@pytest.fixture(scope="module")
def expected(folder: Path) -> Built:
    """Of one process, which reads it as a whole."""
    return built(read_archive(folder, "EUR", silent)[0], HOUR_MS)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as made,
    ):
        yield made


@given(of=st.lists(st.integers(0, 9), min_size=1, max_size=60), n_parts=st.integers(1, 12))
def test_parts_hold_every_event_of_their_users_in_order(make: MakeLog, of: list[int], n_parts: int) -> None:
    names, row = np.unique(of, return_inverse=True)
    users = [b"%d" % name for name in names]
    events = make(seed=1, n_users=3, n_events=len(of)).events[: len(of)]
    parts = divided(EventLog(users, row, events), n_parts)
    assert [user for part in parts for user in part.users] == users
    assert len(parts) <= n_parts
    for part in parts:
        theirs = np.isin(row, [users.index(user) for user in part.users])
        assert part.events.tobytes() == events[theirs].tobytes()
        assert [part.users[at] for at in part.row] == [users[at] for at in row[theirs]]


@pytest.mark.parametrize("n_parts", [1, 2, 7, 20])
def test_parts_make_the_bytes_of_the_whole(log: EventLog, n_parts: int) -> None:
    events = log.events.copy()
    events["kind"][log.row >= 100] = Kind.PROFILE  # users, and parts, without a step
    events["event_id"][7::9] = events["event_id"][6::9]  # duplicates, where they are of one user
    changed = EventLog(log.users, log.row, events)
    parts = [absorbed(part, HOUR_MS) for part in divided(changed, n_parts)]
    assert n_parts * 0.7 <= len(parts) <= n_parts
    same(whole(parts, HOUR_MS), build(changed, HOUR_MS))


@pytest.mark.slow
def test_processes_make_the_bytes_of_one(log: EventLog, folder: Path, expected: Built) -> None:
    told: list[tuple[int, int]] = []
    made = of_log(log, HOUR_MS, Where(processes=2), lambda done, total: told.append((done, total)))
    same(made.dataset, build(log, HOUR_MS))
    assert made[1:] == (HOUR_MS, len(log.events), len(log.users))
    assert told[0] == (0, len(log.events))
    assert told[-1] == (len(log.events), len(log.events))
    manifest = read_manifest(folder)
    alone, counts = read_archive(folder, "EUR", silent)
    for processes in (0, 1, 2):
        of_parts = of_archive(folder, "EUR", HOUR_MS, Where(processes=processes), silent, manifest)
        same(of_parts[0].dataset, expected.dataset)
        assert of_parts[0][1:] == expected[1:] == (HOUR_MS, len(alone.events), len(alone.users))
        assert of_parts[1] == counts
    assert counts.dead == 4


@pytest.mark.slow
def test_what_is_wrong_in_a_process_is_said(folder: Path, tmp_path: Path) -> None:
    manifest = read_manifest(folder)
    short = manifest._replace(end={topic: [end + 1 for end in ends] for topic, ends in manifest.end.items()})
    with pytest.raises(TrainingError, match="a file is missing"):
        of_archive(folder, "EUR", HOUR_MS, Where(processes=2), silent, short)
    with pytest.raises(TrainingError, match="sees no archive"):
        of_archive(tmp_path, "EUR", HOUR_MS, Where(processes=1), silent, manifest)
    with pytest.raises(TrainingError, match="--processes"):
        on_processes(end_this_process, [1, 2, 3], 2, lambda _n: None)


@pytest.mark.slow
def test_dask_makes_the_bytes_of_one_process(
    cluster: LocalCluster, log: EventLog, folder: Path, expected: Built, tmp_path: Path
) -> None:
    address = cluster.scheduler_address
    of_parts, counts = of_archive(folder, "EUR", HOUR_MS, Where(dask=address), silent, read_manifest(folder))
    same(of_parts.dataset, expected.dataset)
    assert of_parts[1:] == expected[1:]
    assert counts == read_archive(folder, "EUR", silent)[1]
    same(of_log(log, HOUR_MS, Where(dask=address), silent).dataset, build(log, HOUR_MS))
    with pytest.raises(TrainingError, match="a file is missing"):
        on_dask(refuse, [1], address, lambda _n: None)
    # What one worker had begun when it was lost, another does again.
    marks = [tmp_path / f"{n}" for n in range(6)]
    marks[0].touch()
    assert on_dask(name_or_die, marks, address, lambda _n: None) == [mark.name for mark in marks]
    with pytest.raises(TrainingError, match="several workers died"):
        on_dask(end_this_process, [1], address, lambda _n: None)


@pytest.mark.slow
def test_a_cluster_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "WAIT_S", 1.0)
    monkeypatch.setattr(parallel, "NO_WORKER_S", 1.0)
    with socket.socket() as bound:  # taken, and nobody listens
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(TrainingError, match=r"no Dask scheduler answers at 127\.0\.0\.1:\d+ within 1 s"):
            on_dask(refuse, [1], f"127.0.0.1:{bound.getsockname()[1]}", lambda _n: None)
    with (
        LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as empty,
        pytest.raises(TrainingError, match="has no worker; start some: `dask worker"),
    ):
        on_dask(refuse, [1], empty.scheduler_address, lambda _n: None)


def test_one_of_both(tmp_path: Path) -> None:
    args = ["run", "--events", "b:9092", "--out", str(tmp_path), "--processes", "2", "--dask", "c:8786"]
    result = CliRunner().invoke(cli, args)
    assert result.exit_code == 2
    assert "--processes and --dask" in result.output
