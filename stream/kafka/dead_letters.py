"""`python -m stream dead-letters`: look at events that were refused."""

import base64
import json
from collections import Counter, deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stream.kafka.admin import settings_from, settings_options
from stream.kafka.codec import DeadReason
from stream.kafka.topics import Record, Topics

SHOWN_BYTES_MAX = 2000
"""Of a value, on the terminal; --json has all of it."""


class Refused(NamedTuple):
    """A record of dead-letters."""

    partition: int  # of dead-letters
    offset: int
    key: bytes | None
    value: bytes | None  # cut
    headers: dict[str, str]


class Filter(NamedTuple):
    """Which dead letters are meant; None: all."""

    reason: str | None
    topic: str | None
    field: str | None
    at: str | None = None  # "partition:offset" in dead-letters

    def takes(self, refused: Refused) -> bool:
        """Whether one of them is."""
        if self.at is not None and self.at != f"{refused.partition}:{refused.offset}":
            return False
        wanted = (("reason", self.reason), ("topic", self.topic), ("field", self.field))
        return all(text is None or refused.headers.get(name) == text for name, text in wanted)


def read(bootstrap: str, topic: str) -> Iterator[Refused]:
    """Every dead letter there is now, partition by partition as they come.

    Raises:
        SetupError: no broker answers, or the topic is missing.
    """
    with Topics(bootstrap) as topics:
        for _, records in topics.read(topics.places([topic])):
            yield from map(_refused, records)


def _refused(record: Record) -> Refused:
    headers = {name: (value or b"").decode("utf-8", "backslashreplace") for name, value in record.headers}
    return Refused(record.partition, record.offset, record.key, record.value, headers)


def newest(letters: Iterator[Refused], wanted: Filter, limit: int) -> tuple[list[Refused], Counter[str]]:
    """The last `limit` of those that are wanted, by the time of their records, and how many there are by reason."""
    kept: dict[int, deque[Refused]] = {}
    counts: Counter[str] = Counter()
    for letter in letters:
        if wanted.takes(letter):
            counts[letter.headers.get("reason", "")] += 1
            kept.setdefault(letter.partition, deque(maxlen=limit)).append(letter)
    every = sorted((letter for some in kept.values() for letter in some), key=_time_ms)
    return every[-limit:], counts


def _time_ms(letter: Refused) -> int:
    return int(letter.headers.get("timestamp", "0"))


def _json(letter: Refused, *, with_value: bool) -> str:
    line: dict[str, Any] = {"partition": letter.partition, "offset": letter.offset, "headers": letter.headers}
    line |= _bytes_field("key", letter.key)
    if with_value:
        line |= _bytes_field("value", letter.value)
    return json.dumps(line)


def _bytes_field(name: str, content: bytes | None) -> dict[str, str | None]:
    """The bytes as text where they are UTF-8, else in base64 under another name: nothing is guessed."""
    if content is None:
        return {name: None}
    try:
        return {name: content.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(content).decode()}


def printable(content: bytes | str | None) -> str:
    """Text that cannot drive a terminal: what does not print is escaped."""
    if content is None:
        return "null"
    text = content.decode("utf-8", "backslashreplace") if isinstance(content, bytes) else content
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


# --- command line -----------------------------------------------------------------------------------------------------

Command = TypeVar("Command", bound=Callable[..., object])


def _filters(command: Command) -> Command:
    for option in (
        click.option("--json", "as_json", is_flag=True, help="One JSON object a line."),
        click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="The newest so many."),
        click.option("--field", help="Only this field, such as $.time_ms."),
        click.option("--topic", help="Only from this source topic."),
        click.option("--reason", type=click.Choice([str(reason) for reason in DeadReason]), help="Only this reason."),
    ):
        command = option(command)
    return settings_options(command)


@click.group(
    name="dead-letters",
    epilog="""\b
Examples:
  python -m stream dead-letters list
  python -m stream dead-letters list --topic orders --reason field_missing
  python -m stream dead-letters show --field '$.time_ms' --limit 1
  python -m stream dead-letters show --json | jq -r .value
""",
)
def dead_letters() -> None:
    """Events that were refused: bytes, reason and where they came from."""


@dead_letters.command("list")
@_filters
def list_(
    bootstrap: str | None,
    topic_prefix: str | None,
    reason: str | None,
    topic: str | None,
    field: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """One line each, the newest last, and how many there are by reason."""
    letters, counts = _newest(bootstrap, topic_prefix, Filter(reason, topic, field), limit)
    if as_json:
        for letter in letters:
            click.echo(_json(letter, with_value=False))
        return
    table = Table("at", "published (UTC)", "from", "reason", "field", "key")
    for letter in letters:
        headers = letter.headers
        source = ":".join(headers.get(name, "?") for name in ("topic", "partition", "offset"))
        shown = [f"{letter.partition}:{letter.offset}", _clock(_time_ms(letter)), source]
        shown += [headers.get("reason", ""), headers.get("field", ""), printable(letter.key)]
        table.add_row(*(Text(printable(cell), overflow="fold") for cell in shown))
    console = Console()
    console.print(table)
    by_reason = ", ".join(f"{name} {n}" for name, n in counts.most_common())
    console.print(f"{counts.total()} dead letters" + (f": {by_reason}" if counts else ""), markup=False)


@dead_letters.command()
@click.argument("at", required=False, metavar="[PARTITION:OFFSET]")
@_filters
def show(
    at: str | None,
    bootstrap: str | None,
    topic_prefix: str | None,
    reason: str | None,
    topic: str | None,
    field: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Headers, key and value, of one (as `list` names it) or of those that the filters leave."""
    letters, _ = _newest(bootstrap, topic_prefix, Filter(reason, topic, field, at), limit)
    if at is not None and not letters:
        raise click.UsageError(f"no dead letter at {at}; `dead-letters list` names them in its first column")
    for letter in letters:
        if as_json:
            click.echo(_json(letter, with_value=True))
            continue
        click.echo(f"{letter.partition}:{letter.offset}  published {_clock(_time_ms(letter))} UTC")
        for name, text in letter.headers.items():
            click.echo(f"  {printable(name)}: {printable(text)}")
        click.echo(f"  key: {printable(letter.key)}")
        value = letter.value
        rest = f" ... ({len(value) - SHOWN_BYTES_MAX} bytes more)" if value and len(value) > SHOWN_BYTES_MAX else ""
        click.echo(f"  value: {printable(value and value[:SHOWN_BYTES_MAX])}{rest}\n")


def _newest(
    bootstrap: str | None, topic_prefix: str | None, wanted: Filter, limit: int
) -> tuple[list[Refused], Counter[str]]:
    settings = settings_from(bootstrap=bootstrap, topic_prefix=topic_prefix)
    if wanted.topic and not wanted.topic.startswith(settings.topic_prefix):
        wanted = wanted._replace(topic=settings.topic(wanted.topic))
    return newest(read(settings.bootstrap, settings.topic("dead-letters")), wanted, limit)


def _clock(time_ms: int) -> str:
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return str(time_ms)
