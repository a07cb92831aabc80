"""Shows what `stream.broker.runtime.prepare` does: bars on a terminal, lines elsewhere, nothing if nothing is to do."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from stream.broker import jars


@contextmanager
def show_progress() -> Iterator[jars.Progress]:
    """A function to report progress to. All goes to standard error, so that a program's own output stays clean."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bars: dict[str, TaskID] = {}
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:

        def report(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = progress.add_task(what, total=total)
                if not console.is_terminal:
                    console.print(f"{what} (once)", highlight=False)
            progress.update(bars[what], completed=done)

        yield report
