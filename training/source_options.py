"""`--events` and what goes with it: the options, and the events that they mean."""

import re
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from stream.scoring.artefact import ModelRefused
from stream.scoring.model import Model, load
from training.errors import TrainingError

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


def read(console: Console, events: str, format_: str | None, currency: str, topic_prefix: str) -> Any:  # noqa: ANN401
    """The `EventLog` of a source, its counts told on the console.

    Raises:
        TrainingError: there is no event in it.
    """
    from training.archive import MANIFEST, is_archive
    from training.sources import read_archive, read_file, read_topics

    path = Path(events)
    if format_ is None and not _is_broker(events) and not is_archive(path):
        what = "neither a file nor a broker (host:port)"
        if path.exists():
            what = f"no archive: it has no {MANIFEST}" if path.is_dir() else "a file: say what it is by --format"
        raise click.UsageError(f"--events {events} is {what}")
    with progress_bar(console) as progress:
        reading = progress.add_task("reading", total=None)

        def advanced(done: int, total: int) -> None:
            progress.update(reading, completed=done, total=total or None)

        if format_ is None and is_archive(path):
            log, counts = read_archive(path, currency, advanced)
        elif format_ is None:
            log, counts = read_topics(events, topic_prefix, currency, advanced)
        else:
            log, counts = read_file(events, format_, currency, advanced)
    console.print(
        f"{counts.events} events of {len(log.users)} users; {counts.dead} refused, {counts.broken} broken lines, "
        f"{counts.left_out} left out"
    )
    if counts.first_problem:
        console.print(f"the first that was not usable: {counts.first_problem}", style="yellow", markup=False)
    if not len(log.events):
        raise TrainingError("there are no events to learn from")
    return log


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
