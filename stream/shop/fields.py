"""Cells of recorded logs as values, and what a reader yields: events, lines left out on purpose and broken lines.

One line is one record: a quoted cell cannot hold a line end. A line that cannot be read is an answer, `Broken`, never
an exception.
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import NamedTuple, TypeVar

from stream.errors import SettingsError
from stream.kafka.codec import Click, Customer, Feedback, Order, Redemption
from stream.shop.lines import LINE_BYTES_MAX, Line

SourceValue = Click | Order | Feedback | Redemption | Customer
"""What a producer publishes to a source topic."""

MONEY_MINOR_MAX = 10**12
QUANTITY_MAX = 10**6
ORDER_LINES_MAX = 500
ID_BYTES_MAX = 128


class Event(NamedTuple):
    """A record to publish: the key is the value's `user_id`."""

    line: int
    source: str
    value: SourceValue


class LeftOut(NamedTuple):
    """A line that is well formed and is not published, by the rules of its format."""

    line: int
    reason: str


class Broken(NamedTuple):
    """A line that cannot be read."""

    line: int
    reason: str
    detail: str


T = TypeVar("T")
Item = Event | LeftOut | Broken
Reader = Callable[[Iterable[Line], str], Iterator[Item]]
"""(lines, currency that amounts are published in) -> items in the order of the lines."""


class BadLineError(ValueError):
    """Caught by every reader: becomes a `Broken`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
_NUMBER = re.compile(r"[+-]?\d{1,20}(\.\d{0,20})?([eE][+-]?\d{1,3})?", re.ASCII)
_SIMPLE_AMOUNT = re.compile(r"(\d{1,8})(?:\.(\d{1,4}))?", re.ASCII)
_DIGITS = re.compile(r"\d{1,20}", re.ASCII)
_UTC_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def text_of(line: bytes) -> str:
    """The line as text.

    Raises:
        BadLineError: too long, not UTF-8, or with control characters.
    """
    if len(line) > LINE_BYTES_MAX:
        raise BadLineError("too_long", f"longer than {LINE_BYTES_MAX} bytes")
    try:
        text = line.decode()
    except UnicodeDecodeError as e:
        raise BadLineError("not_utf8", f"byte {e.start + 1} is not UTF-8") from None
    if found := _CONTROL.search(text):
        raise BadLineError("binary", f"control character {found[0]!r} at column {found.start() + 1}")
    return text


def cells_of(line: bytes, n: int, delimiter: str = ",") -> list[str]:
    """The `n` cells of a CSV line; 0 takes any number.

    Raises:
        BadLineError: not readable as text, or another number of cells.
    """
    text = text_of(line)
    if '"' in text:
        try:
            cells = next(csv.reader([text], delimiter=delimiter, strict=True))
        except (csv.Error, StopIteration) as e:
            raise BadLineError("quotes", f"{e}") from None
    else:
        cells = text.split(delimiter)
    if n and len(cells) != n:
        raise BadLineError("cut" if len(cells) < n else "columns", f"{len(cells)} columns where {n} are expected")
    return cells


def digits(text: str, column: str) -> str:
    """`text`, if it is a number of decimal digits (ids of the recorded logs are).

    Raises:
        BadLineError: anything else.
    """
    if not _DIGITS.fullmatch(text):
        raise BadLineError("type", f"{column}: {text[:40]!r} is not a whole number")
    return text


def whole(text: str, column: str, least: int, most: int) -> int:
    """A whole number within bounds; "2.0" is one.

    Raises:
        BadLineError: not a number, not whole, out of bounds.
    """
    number = decimal(text, column)
    if number != number.to_integral_value():
        raise BadLineError("type", f"{column}: {text[:40]!r} is not a whole number")
    if not least <= number <= most:
        raise BadLineError("range", f"{column}: {text[:40]} is not within {least} to {most}")
    return int(number)


def minor(text: str, column: str, decimals: int = 2) -> int:
    """An amount of money in minor units, exactly: "35.79" is 3579.

    Raises:
        BadLineError: no number, negative, too large, or with a fraction of a minor unit.
    """
    if simple := _SIMPLE_AMOUNT.fullmatch(text):  # nearly all are: a third of the time
        units, fraction = simple[1], simple[2] or ""
        if len(fraction) <= decimals:
            return int(units + fraction.ljust(decimals, "0"))
    amount = decimal(text, column).scaleb(decimals)
    if amount != amount.to_integral_value():
        raise BadLineError("amount", f"{column}: {text[:40]} has more than {decimals} decimals")
    if not 0 <= amount <= MONEY_MINOR_MAX:
        raise BadLineError("range", f"{column}: {text[:40]} is not within 0 to {MONEY_MINOR_MAX} minor units")
    return int(amount)


def decimal(text: str, column: str) -> Decimal:
    """A decimal number, exactly.

    Raises:
        BadLineError: no number.
    """
    try:
        if _NUMBER.fullmatch(text):
            return Decimal(text)
    except InvalidOperation:  # an exponent beyond what the context holds
        pass
    raise BadLineError("type", f"{column}: {text[:40]!r} is not a number")


def one_of(text: str, column: str, meaning: Mapping[str, T]) -> T:
    """What `text` stands for.

    Raises:
        BadLineError: nothing.
    """
    if text not in meaning:
        raise BadLineError("kind", f"{column}: {text[:40]!r} is none of {', '.join(meaning)}")
    return meaning[text]


def utc_ms(text: str, column: str, suffix: str = "") -> int:
    """Milliseconds since the epoch of "2019-10-01 00:00:00" and the suffix, taken as UTC.

    Raises:
        BadLineError: no such time.
    """
    try:
        moment = text.removesuffix(suffix)
        if _UTC_TIME.fullmatch(moment) and text.endswith(suffix):
            return milliseconds(datetime.fromisoformat(moment).replace(tzinfo=UTC))
    except ValueError:
        pass
    raise BadLineError("time", f"{column}: {text[:40]!r} is not a time like 2019-10-01 00:00:00{suffix}")


def milliseconds(moment: datetime) -> int:
    """Whole milliseconds since the epoch of an aware time."""
    return (moment - _EPOCH) // _MILLISECOND


def broken(line: int, error: BadLineError) -> Broken:
    """The item that says why a line cannot be read."""
    return Broken(line, error.reason, str(error))


def columns_of(lines: Iterator[Line], wanted: tuple[str, ...], name: str, delimiter: str = ",") -> dict[str, int]:
    """Place of each column, by the header.

    Raises:
        SettingsError: the first line is no header with all wanted columns, or there is no line.
    """
    header = next(lines, None)
    if header is None:
        raise SettingsError(f"{name}: the input is empty; expected a header with {', '.join(wanted)}")
    try:
        names = cells_of(header[1].removeprefix(b"\xef\xbb\xbf"), 0, delimiter)
    except BadLineError as e:
        raise SettingsError(f"{name}: line 1 is no header ({e}); expected {', '.join(wanted)}") from None
    missing = [w for w in wanted if w not in names]
    if missing:
        found = ", ".join(names)[:200]
        raise SettingsError(
            f"{name}: the header lacks {', '.join(missing)}; expected {', '.join(wanted)}; found {found}"
        )
    if len(set(names)) < len(names):
        raise SettingsError(f"{name}: the header names a column twice: {', '.join(names)[:200]}")
    return {column: i for i, column in enumerate(names)}


def short(text: str, column: str, bytes_max: int = ID_BYTES_MAX) -> str:
    """`text`, if it is short enough for an id.

    Raises:
        BadLineError: it is not.
    """
    if len(text.encode()) > bytes_max:
        raise BadLineError("range", f"{column}: longer than {bytes_max} bytes")
    return text
