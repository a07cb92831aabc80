"""How far a replay is: a bar on a terminal, a line now and then elsewhere."""

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from stream.shop.lines import LineSource
from stream.shop.publish import Publisher

SHOWN_EVERY_S = 0.2
LINE_EVERY_S = 10.0


def say(console: Console, text: str) -> None:
    """One line of plain text, however long."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


class ReadingBar:
    """Bytes read, events published; a bar on a terminal, else a line now and then."""

    def __init__(self, console: Console, what: str, source: LineSource, publisher: Publisher) -> None:
        self._console, self._what, self._source, self._publisher = console, what, source, publisher
        self._started_s = self._shown_s = time.monotonic()
        self._before = publisher.published.total()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[counts]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID = self._progress.add_task(what, total=source.bytes_total or None, counts="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def show(self, *, last: bool = False) -> None:
        """Bring the bar up to date, not more often than an eye needs."""
        now_s = time.monotonic()
        every_s = SHOWN_EVERY_S if self._console.is_terminal else LINE_EVERY_S
        if now_s - self._shown_s < every_s and not last:
            return
        self._shown_s = now_s
        n = self._publisher.published.total() - self._before
        counts = f"{n:,} published, {n / max(now_s - self._started_s, 1e-3):,.0f}/s"
        self._progress.update(self._task, completed=self._source.bytes_read, counts=counts)
        if not self._console.is_terminal:
            say(self._console, f"{self._what}: {counts}")
