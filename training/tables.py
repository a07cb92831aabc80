"""Files of rows under a header (CSV, plain or .gz), read whole; what is wrong is told by file, line and column."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream.shop.lines import LineSource
from training.errors import TrainingError

Reals = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """Columns of text, and the line of the file where each row stands."""

    name: str
    """Of the file, for messages."""
    columns: dict[str, tuple[str, ...]]
    lines: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.lines)

    def text(self, column: str, allowed: tuple[str, ...] = ()) -> tuple[str, ...]:
        """A column as it stands; with `allowed`, only these values.

        Raises:
            TrainingError: a value is empty or not one of them.
        """
        values = self.columns[column]
        known = frozenset(allowed)
        for line, value in zip(self.lines, values, strict=True):
            if not value:
                raise self.problem(line, column, "is empty")
            if known and value not in known:
                raise self.problem(line, column, f"is {value[:40]!r}, not one of {', '.join(allowed)}")
        return values

    def numbers(self, column: str, least: float = -np.inf, most: float = np.inf) -> Reals:
        """A column of finite numbers, float64 [N], each at least `least` and at most `most`.

        Raises:
            TrainingError: a value is no number, NaN, infinite or out of range.
        """
        values = self.columns[column]
        try:
            found = np.array(values, np.float64)
        except ValueError:
            found = np.array([_number(value) for value in values], np.float64)
        with np.errstate(invalid="ignore"):
            bad = np.flatnonzero(~(np.isfinite(found) & (found >= least) & (found <= most)))
        if len(bad):
            value = values[bad[0]]
            said = "is empty" if not value else f"is {value[:40]!r}, not a number from {least:g} to {most:g}"
            raise self.problem(self.lines[bad[0]], column, said)
        return found

    def flags(self, column: str, no: str = "0", yes: str = "1") -> NDArray[np.bool_]:
        """A column of two values, bool [N].

        Raises:
            TrainingError: a value is another one.
        """
        return np.array(self.text(column, (no, yes))) == yes

    def problem(self, line: int, column: str, said: str) -> TrainingError:
        """What to raise of one value."""
        return TrainingError(f"{self.name}, line {line}, column {column}: {said}")


def read_table(path: str, required: tuple[str, ...]) -> Table:
    """A CSV file with a header that names at least the required columns; `-` is standard input.

    Raises:
        TrainingError: not there, not unpackable, no UTF-8, no rows, a column is missing or named twice, or a row has
            another number of fields than the header.
        OSError: cannot be opened.
    """
    with LineSource(path) as source:
        rows = csv.reader(_decoded(source), strict=True)
        try:
            header = [name.strip() for name in next(rows, [])]
            if source.cut:
                raise TrainingError(source.cut)
            _check_header(source.name, header, required)
            lines, values = [], []
            for row in rows:
                if not row:
                    continue
                if len(row) != len(header):
                    said = f"{len(row)} fields, the header has {len(header)}"
                    raise TrainingError(f"{source.name}, line {rows.line_num}: {said}")
                lines.append(rows.line_num)
                values.append(row)
        except csv.Error as error:
            raise TrainingError(f"{source.name}, line {rows.line_num}: no CSV: {error}") from error
        if source.cut:
            raise TrainingError(source.cut)
        if not values:
            raise TrainingError(f"{source.name}: there are no rows below the header")
    columns = dict(zip(header, (tuple(column) for column in zip(*values, strict=True)), strict=True))
    return Table(source.name, columns, tuple(lines))


def _decoded(source: LineSource) -> Iterator[str]:
    for number, line in source:
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise TrainingError(f"{source.name}, line {number}: is not UTF-8 text: {error.reason}") from error


def _check_header(name: str, header: list[str], required: tuple[str, ...]) -> None:
    if not header:
        raise TrainingError(f"{name}: is empty; expected a header with {', '.join(required)}")
    missing = [column for column in required if column not in header]
    if missing:
        there = ", ".join(header)[:200]
        raise TrainingError(f"{name}, line 1: no column {', '.join(missing)} (there are {there})")
    twice = sorted({column for column in header if header.count(column) > 1})
    if twice:
        raise TrainingError(f"{name}, line 1: the column {', '.join(twice)} stands there twice")


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return float("nan")
