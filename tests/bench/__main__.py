"""`python -m tests.bench`: see docs/bench.md."""

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from stream.broker.embedded import EmbeddedBroker, check_reachable
from stream.broker.errors import BrokerError
from stream.errors import OfferstreamError
from stream.settings import GUARANTEES
from tests.bench import decide, report
from tests.bench.jobs import FULL, QUICK, Bench
from tests.bench.kafka import Kafka
from tests.bench.load import PublishError
from tests.bench.measure import OutputError
from tests.bench.program import ProgramError

JOBS = ("few", "many", "streams", "decide")

PARTITIONS = 4
WIDTH_FILE = 160
"""Columns where the output goes to a file."""

VAR = report.ROOT / "var"


@contextmanager
def broker(folder: Path) -> Iterator[Kafka]:
    """KAFKA_BOOTSTRAP's, else an embedded one of this run's own."""
    given = os.environ.get("KAFKA_BOOTSTRAP")
    if given:
        check_reachable(given)
        with Kafka(given, PARTITIONS, None) as kafka:
            yield kafka
        return
    with (
        EmbeddedBroker(folder / "broker") as embedded,
        Kafka(embedded.bootstrap, PARTITIONS, embedded.data / "kafka") as kafka,
    ):
        yield kafka


@click.command()
@click.option("--quick", is_flag=True, help="Less of everything, a few minutes: whether it runs, not how fast.")
@click.option("--seed", default=1, show_default=True, help="Of events, users and models.")
@click.option(
    "--peer/--no-peer",
    default=True,
    show_default=True,
    help="Also measure the peers.",
)
@click.option(
    "--jobs",
    type=click.Choice(JOBS),
    multiple=True,
    default=JOBS,
    show_default=True,
    help="Parts of it, in this order; repeatable.",
)
@click.option(
    "--guarantee",
    type=click.Choice(GUARANTEES),
    multiple=True,
    default=("at_least_once", "exactly_once"),
    show_default=True,
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default=VAR / "bench.json", show_default=True)
def main(*, quick: bool, seed: int, peer: bool, jobs: tuple[str, ...], guarantee: tuple[str, ...], out: Path) -> None:
    """Measure the whole job on a real broker against plain Faust and, where a JDK is there, Kafka Streams."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH_FILE)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else the programs would go on without us
    sizes = QUICK if quick else FULL
    console.print(f"{report.machine()}; commit {report.commit()}; seed {seed}; n = {sizes.events:,} events")
    if set(jobs) == {"decide"}:  # needs no broker
        finish(decide.measure(seed), seed, out, console)
        return
    VAR.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=VAR))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    rows = []
    try:
        with broker(folder) as kafka, Progress(*columns, console=console) as bars:
            bench = Bench(kafka, folder, sizes, seed, bars, guarantee, peers=peer)
            rows = bench.rows
            if "few" in jobs:
                bench.few_users()
            if "many" in jobs:
                bench.many_users()
            if "streams" in jobs:
                bench.streams()
            if "decide" in jobs:
                rows += decide.measure(seed)
    except (BrokerError, OfferstreamError, ProgramError, PublishError, OutputError) as error:
        if rows:  # what was measured until then is shown, and not written
            report.show({"machine": report.machine(), "commit": report.commit(), "seed": seed, "rows": rows}, console)
        console.print(f"bench: {error}", markup=False, highlight=False)
        sys.exit(1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    finish(rows, seed, out, console)


def finish(rows: list[dict[str, Any]], seed: int, out: Path, console: Console) -> None:
    """Write and show what was measured."""
    result = {
        "machine": report.machine(),
        "commit": report.commit(),
        "seed": seed,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "rows": rows,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")
    report.show(result, console)
    console.print(f"written to {out}")


if __name__ == "__main__":
    main()
