"""`--events` and what goes with it: the options, and the events that they mean."""

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from stream.scoring.artefact import ModelRefused
from stream.scoring.model import Model, load
from training.errors import TrainingError
from training.log import Counts

# ruff: noqa: PLC0415  pyarrow and the decoder are imported where they are used

events_option = click.option(
    "--events",
    required=True,
    metavar="SOURCE",
    help="A broker (host:port), the folder of an archive, or with --format a recorded log.",
)
format_option = click.option(
    "--format", "format_", metavar="NAME", help="Of the recorded log; or the path of a mapping file (.yaml)."
)
currency_option = click.option(
    "--currency", envvar="OFFERSTREAM_CURRENCY", default="", help="Of amounts (OFFERSTREAM_CURRENCY)."
)
processes_option = click.option(
    "--processes",
    type=click.IntRange(1, 1_024),
    help="Absorb in so many processes.  [default: by the number of events, at most one a core]",
)
dask_option = click.option(
    "--dask",
    metavar="ADDRESS",
    default="",
    help="Absorb on the Dask cluster with its scheduler at host:port. Workers read an archive under the same path.",
)


def read(console: Console, events: str, format_: str | None, currency: str, topic_prefix: str) -> Any:  # noqa: ANN401
    """The `EventLog` of a source, its counts told on the console.

    Raises:
        TrainingError: there is no event in it.
    """
    archived = _is_archive(events, format_)
    from training.sources import read_archive, read_file, read_topics

    with _reading(console) as advanced:
        if archived:
            log, counts = read_archive(Path(events), currency, advanced)
        elif format_ is None:
            log, counts = read_topics(events, topic_prefix, currency, advanced)
        else:
            log, counts = read_file(events, format_, currency, advanced)
    _tell(console, counts, len(log.users))
    return log


def read_built(
    console: Console,
    events: str,
    format_: str | None,
    currency: str,
    topic_prefix: str,
    horizon_ms: int,
    processes: int | None,
    dask: str,
) -> Any:  # noqa: ANN401
    """The `Built` of a source, absorbed where the options say.

    Raises:
        click.UsageError: both processes and Dask.
        TrainingError: as `training.parts`.
    """
    if processes is not None and dask:
        raise click.UsageError("--processes and --dask: the one absorbs on this machine, the other on a cluster")
    archived = _is_archive(events, format_)
    from training.archive import read_manifest
    from training.parts import Where, of_archive, of_log

    where = Where(processes or 0, dask)
    if archived:
        manifest = read_manifest(Path(events))
        with _reading(console) as advanced:
            built, counts = of_archive(Path(events), currency, horizon_ms, where, advanced, manifest)
        _tell(console, counts, built.users)
        return built
    log = read(console, events, format_, currency, topic_prefix)
    with _reading(console, "absorbing") as advanced:
        return of_log(log, horizon_ms, where, advanced)


def _is_archive(events: str, format_: str | None) -> bool:
    from training.archive import MANIFEST, is_archive

    path = Path(events)
    archived = format_ is None and is_archive(path)
    if format_ is None and not archived and not _is_broker(events):
        what = "neither a file nor a broker (host:port)"
        if path.exists():
            what = f"no archive: it has no {MANIFEST}" if path.is_dir() else "a file: say what it is by --format"
        raise click.UsageError(f"--events {events} is {what}")
    return archived


@contextlib.contextmanager
def _reading(console: Console, what: str = "reading") -> Iterator[Callable[[int, int], None]]:
    """A bar, and what moves it."""
    with progress_bar(console) as progress:
        reading = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(reading, completed=done, total=total or None)


def _tell(console: Console, counts: Counts, n_users: int) -> None:
    console.print(
        f"{counts.events} events of {n_users} users; {counts.dead} refused, {counts.broken} broken lines, "
        f"{counts.left_out} left out"
    )
    if counts.first_problem:
        console.print(f"the first that was not usable: {counts.first_problem}", style="yellow", markup=False)
    if not counts.events:
        raise TrainingError("there are no events to learn from")


def _is_broker(text: str) -> bool:
    return all(re.fullmatch(r"[^\s:/,]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", part.strip()) for part in text.split(","))


def progress_bar(console: Console) -> Progress:
    """What is under way, and for how long."""
    return Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console)


def model_file(path: Path) -> Model:
    """The model in a file.

    Raises:
        TrainingError: workers would refuse it; the file is named.
        OSError: it cannot be read.
    """
    return model_of(path, path.read_bytes())


def model_of(path: Path, data: bytes) -> Model:
    """The model in the bytes of a file that was read.

    Raises:
        TrainingError: as `model_file`.
    """
    try:
        return load(data)
    except ModelRefused as refused:
        raise TrainingError(f"{path}: {refused}") from refused
