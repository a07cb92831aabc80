"""A data set in parts: users do not see each other, so each part of them is absorbed by itself, anywhere.

An archive is divided by partition, and a part is read, decoded and absorbed where it is made. Any other log was read
already and is divided by user. Put together, parts give the bytes that one process makes of the whole.
"""

import itertools
import socket
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stream.scoring.artefact import features_hash
from training.archive import Manifest, is_archive
from training.dataset import Built, Dataset, absorbed, whole
from training.errors import TrainingError
from training.log import Counts, EventLog, total_of
from training.parallel import cores, on_dask, on_processes
from training.sources import Progress, read_archived_partition, records_of

PART_EVENTS = 250_000
"""Of a log that is divided by user: what is sent to another process at once, and how often progress is told."""
WORTH_A_PROCESS = 500_000
"""Events: the two seconds that starting another process takes are won back by then."""


class Where(NamedTuple):
    """Where parts are absorbed."""

    processes: int = 0
    """Of this machine; 0: one for each WORTH_A_PROCESS events, at most one a core."""
    dask: str = ""
    """Address of a Dask scheduler, whose workers do it instead; "" is none."""


class _Archived(NamedTuple):
    """A partition of an archive."""

    archive: Path
    currency: str
    manifest: Manifest
    partition: int


class _Job(NamedTuple):
    part: EventLog | _Archived
    horizon_ms: int
    features: str
    """The hash of the features of whoever asks."""


class _Absorbed(NamedTuple):
    dataset: Dataset
    events: int
    users: int
    counts: Counts


def of_archive(
    archive: Path, currency: str, horizon_ms: int, where: Where, progress: Progress, manifest: Manifest
) -> tuple[Built, Counts]:
    """The data set of an archive.

    Args:
        archive: its folder.
        currency: as for `read_archive`.
        horizon_ms: how far ahead a purchase counts.
        where: the parts are made. Dask's workers read the folder under the same path.
        progress: told offsets.
        manifest: how far to read.

    Raises:
        TrainingError: as `read_archive`, `build`, `on_processes` and `on_dask`.
    """
    sizes = [records_of(manifest, partition) for partition in range(manifest.partitions)]
    archive = archive.resolve()
    parts = [_Archived(archive, currency, manifest, partition) for partition in range(manifest.partitions)]
    return _built(parts, sizes, horizon_ms, where, progress)


def of_log(log: EventLog, horizon_ms: int, where: Where, progress: Progress) -> Built:
    """The data set of a log that was read.

    Args:
        log: all events, in the order in which they apply.
        horizon_ms: how far ahead a purchase counts.
        where: the parts are made.
        progress: told events.

    Raises:
        TrainingError: as `build`, `on_processes` and `on_dask`.
    """
    n_processes = _processes(where, len(log.events))
    alone = not len(log.events) or (not where.dask and n_processes == 1)
    parts = [log] if alone else divided(log, max(-(-len(log.events) // PART_EVENTS), n_processes))
    return _built(parts, [len(part.events) for part in parts], horizon_ms, where, progress)[0]


def divided(log: EventLog, n_parts: int) -> list[EventLog]:
    """A log in parts of about as many events, users one after the other as in the log, none in two.

    Args:
        log: at least one event, in the order in which they apply.
        n_parts: so many parts, or fewer where users are few.
    """
    n_events = np.bincount(log.row, minlength=len(log.users))
    # A user belongs to the part in which its first event falls, were users laid one after the other.
    share = len(log.events) / n_parts
    part = ((np.cumsum(n_events) - n_events) // share).astype(np.int64)
    cuts = [*np.flatnonzero(np.diff(part, prepend=-1)).tolist(), len(log.users)]
    by_row = np.argsort(log.row, kind="stable")
    ends = np.cumsum(n_events)
    found = []
    for first, end in itertools.pairwise(cuts):
        at = np.sort(by_row[ends[first] - n_events[first] : ends[end - 1]])
        found.append(EventLog(log.users[first:end], log.row[at] - first, log.events[at]))
    return found


def _processes(where: Where, n_events: int) -> int:
    return where.processes or max(1, min(cores(), n_events // WORTH_A_PROCESS))


def _built(
    parts: list[EventLog] | list[_Archived], sizes: list[int], horizon_ms: int, where: Where, progress: Progress
) -> tuple[Built, Counts]:
    jobs = [_Job(part, horizon_ms, features_hash()) for part in parts]
    total = sum(sizes)
    progress(0, total)

    def on_done(n_parts: int) -> None:
        progress(total * n_parts // len(jobs), total)

    made = (
        on_dask(_absorb, jobs, where.dask, on_done)
        if where.dask
        else on_processes(_absorb, jobs, _processes(where, total), on_done)
    )
    counts = total_of([one.counts for one in made])
    dataset = whole([one.dataset for one in made], horizon_ms)
    return Built(dataset, horizon_ms, sum(one.events for one in made), sum(one.users for one in made)), counts


def _absorb(job: _Job) -> _Absorbed:
    """One part; runs in another process, or on another machine."""
    if features_hash() != job.features:
        raise TrainingError(
            f"{socket.gethostname()} makes other features: its workers need the same version of this package"
        )
    part = job.part
    if isinstance(part, _Archived):
        if not is_archive(part.archive):
            raise TrainingError(
                f"{socket.gethostname()} sees no archive at {part.archive}: it must lie on a file system that every "
                "worker has under this path; or absorb here, by --processes"
            )
        log, counts = read_archived_partition(*part)
    else:
        log, counts = part, Counts(len(part.events), 0, 0, 0, "")
    return _Absorbed(absorbed(log, job.horizon_ms), len(log.events), len(log.users), counts)
