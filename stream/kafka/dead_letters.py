"""`python -m stream dead-letters`: look at events that were refused, and send them again."""

import base64
import functools
import json
from collections import Counter, deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar, cast

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stream.kafka.admin import settings_from, settings_options
from stream.kafka.codec import DeadReason
from stream.kafka.topics import Record, Topics
from stream.settings import Settings

SHOWN_BYTES_MAX = 2000
"""Of a value, on the terminal; --json has all of it."""


class Refused(NamedTuple):
    """A record of dead-letters."""

    partition: int  # of dead-letters
    offset: int
    key: bytes | None
    value: bytes | None  # cut
    headers: dict[str, str]


REDRIVEN = "redriven"
"""Reason of a record that is no letter, but says that one was re-driven: see `stream.kafka.redrive`."""

ORIGIN = ("topic", "partition", "offset", "timestamp")
"""Headers that say which record was refused. A topic that was made anew has other timestamps at its offsets."""


def origin(letter: Refused) -> tuple[str | None, ...]:
    """Which record was refused: the same for all letters about it, and for the marker that it was re-driven."""
    return tuple(letter.headers.get(name) for name in (*ORIGIN, "sha256"))


class Filter(NamedTuple):
    """Which dead letters are meant; None: all."""

    reason: str | None = None
    topic: str | None = None
    field: str | None = None
    partition: int | None = None
    """Of the source topic."""
    since_ms: int | None = None
    until_ms: int | None = None
    """When it was published: from then, and before then."""
    at: str | None = None
    """ "partition:offset" in dead-letters."""

    def takes(self, letter: Refused) -> bool:
        """Whether one of them is."""
        if letter.headers.get("reason") == REDRIVEN or self.at not in (None, f"{letter.partition}:{letter.offset}"):
            return False
        partition = None if self.partition is None else str(self.partition)
        wanted = (("reason", self.reason), ("topic", self.topic), ("field", self.field), ("partition", partition))
        return (
            all(text is None or letter.headers.get(name) == text for name, text in wanted)
            and (self.since_ms is None or _time_ms(letter) >= self.since_ms)
            and (self.until_ms is None or _time_ms(letter) < self.until_ms)
        )


def read(bootstrap: str, topic: str) -> Iterator[Refused]:
    """Every dead letter there is now, partition by partition as they come.

    Raises:
        SetupError: no broker answers, or the topic is missing.
    """
    with Topics(bootstrap) as topics:
        for _, records in topics.read(topics.places([topic])):
            yield from map(refused, records)


def refused(record: Record) -> Refused:
    """A record of dead-letters, as it is talked about here."""
    headers = {name: (value or b"").decode("utf-8", "backslashreplace") for name, value in record.headers}
    return Refused(record.partition, record.offset, record.key, record.value, headers)


class Found(NamedTuple):
    """What a look at dead-letters found."""

    letters: list[Refused]
    """The last of those that are wanted, by the time of their records."""
    counts: Counter[str]
    """How many are wanted, by reason."""
    redriven: set[tuple[str | None, ...]]
    """`origin` of whatever was re-driven."""


def newest(letters: Iterator[Refused], wanted: Filter, limit: int) -> Found:
    """The last `limit` of those that are wanted."""
    kept: dict[int, deque[Refused]] = {}
    counts: Counter[str] = Counter()
    redriven = set()
    for letter in letters:
        if wanted.takes(letter):
            counts[letter.headers.get("reason", "")] += 1
            kept.setdefault(letter.partition, deque(maxlen=limit)).append(letter)
        elif letter.headers.get("reason") == REDRIVEN:
            redriven.add(origin(letter))
    every = sorted((letter for some in kept.values() for letter in some), key=_time_ms)
    return Found(every[-limit:], counts, redriven)


def _time_ms(letter: Refused) -> int:
    text = letter.headers.get("timestamp", "")
    return int(text) if text.isdecimal() and len(text) < 16 else 0  # anybody may have written it


def _json(letter: Refused, found: Found, *, with_value: bool) -> str:
    line: dict[str, Any] = {"partition": letter.partition, "offset": letter.offset, "headers": letter.headers}
    line["redriven"] = origin(letter) in found.redriven
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


_MOMENTS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S"]


def _filters(command: Command) -> Command:
    """Which letters; the command gets one `wanted` for all."""

    @functools.wraps(command)
    def with_filter(
        *,
        reason: str | None,
        topic: str | None,
        field: str | None,
        partition: int | None,
        since: datetime | None,
        until: datetime | None,
        bootstrap: str | None,
        topic_prefix: str | None,
        **rest: Any,  # noqa: ANN401 the command's own
    ) -> object:
        settings = settings_from(bootstrap=bootstrap, topic_prefix=topic_prefix)
        if topic and not topic.startswith(settings.topic_prefix):
            topic = settings.topic(topic)
        wanted = Filter(reason, topic, field, partition, _ms(since), _ms(until), rest.pop("at", None))
        return command(settings, wanted, **rest)

    decorated: Any = with_filter
    for option in (
        click.option("--until", type=click.DateTime(_MOMENTS), help="Published before this (UTC)."),
        click.option("--since", type=click.DateTime(_MOMENTS), help="Published at this moment or later (UTC)."),
        click.option("--partition", type=click.IntRange(0), help="Only from this partition of the source topic."),
        click.option("--field", help="Only this field, such as $.time_ms."),
        click.option("--topic", help="Only from this source topic."),
        click.option("--reason", type=click.Choice([str(reason) for reason in DeadReason]), help="Only this reason."),
    ):
        decorated = option(decorated)
    return cast("Command", settings_options(decorated))


def _ms(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.replace(tzinfo=UTC).timestamp() * 1000)


_output = (
    click.option("--json", "as_json", is_flag=True, help="One JSON object a line."),
    click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="The newest so many."),
)


@click.group(
    name="dead-letters",
    epilog="""\b
Examples:
  python -m stream dead-letters list
  python -m stream dead-letters list --topic orders --reason field_missing --since 2026-11-20
  python -m stream dead-letters show --field '$.time_ms' --limit 1
  python -m stream dead-letters show --json | jq -r .value
  python -m stream dead-letters redrive --reason currency --topic orders
""",
)
def dead_letters() -> None:
    """Events that were refused: bytes, reason and where they came from."""


@dead_letters.command("list")
@_filters
@_output[0]
@_output[1]
def list_(settings: Settings, wanted: Filter, limit: int, as_json: bool) -> None:
    """One line each, the newest last, and how many there are by reason."""
    found = newest(read(settings.bootstrap, settings.topic("dead-letters")), wanted, limit)
    if as_json:
        for letter in found.letters:
            click.echo(_json(letter, found, with_value=False))
        return
    table = Table("at", "published (UTC)", "from", "reason", "field", "key", "re-driven")
    for letter in found.letters:
        headers = letter.headers
        source = ":".join(headers.get(name, "?") for name in ("topic", "partition", "offset"))
        shown = [f"{letter.partition}:{letter.offset}", _clock(_time_ms(letter)), source]
        shown += [headers.get("reason", ""), headers.get("field", ""), printable(letter.key)]
        shown += ["yes" if origin(letter) in found.redriven else ""]
        table.add_row(*(Text(printable(cell), overflow="fold") for cell in shown))
    console = Console()
    console.print(table)
    by_reason = ", ".join(f"{name} {n}" for name, n in found.counts.most_common())
    console.print(f"{found.counts.total()} dead letters" + (f": {by_reason}" if by_reason else ""), markup=False)


@dead_letters.command()
@click.argument("at", required=False, metavar="[PARTITION:OFFSET]")
@_filters
@_output[0]
@_output[1]
def show(settings: Settings, wanted: Filter, limit: int, as_json: bool) -> None:
    """Headers, key and value, of one (as `list` names it) or of those that the filters leave."""
    found = newest(read(settings.bootstrap, settings.topic("dead-letters")), wanted, limit)
    if not found.letters:
        _nothing_there(wanted)
    for letter in found.letters:
        if as_json:
            click.echo(_json(letter, found, with_value=True))
            continue
        click.echo(f"{letter.partition}:{letter.offset}  published {_clock(_time_ms(letter))} UTC")
        for name, text in letter.headers.items():
            click.echo(f"  {printable(name)}: {printable(text)}")
        click.echo(f"  re-driven: {'yes' if origin(letter) in found.redriven else 'no'}")
        click.echo(f"  key: {printable(letter.key)}")
        value = letter.value
        rest = f" ... ({len(value) - SHOWN_BYTES_MAX} bytes more)" if value and len(value) > SHOWN_BYTES_MAX else ""
        click.echo(f"  value: {printable(value and value[:SHOWN_BYTES_MAX])}{rest}\n")


def _nothing_there(wanted: Filter) -> None:
    if wanted.at is not None:
        raise click.UsageError(f"no dead letter at {wanted.at}; `dead-letters list` names them in its first column")


@dead_letters.command("redrive")
@click.argument("at", required=False, metavar="[PARTITION:OFFSET]")
@_filters
@click.option("--all", "every", is_flag=True, help="All that workers would take now, without a filter.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
def redrive_(settings: Settings, wanted: Filter, every: bool, dry_run: bool) -> None:
    """Send refused events to their topics again, when the cause is gone: a setting, a version, a partitioner.

    Each is sent once, however often and by however many this is called, and whatever crashes. What workers would
    refuse again stays, and is counted.
    """
    from stream.kafka.redrive import redrive  # noqa: PLC0415 it brings the decoder

    if wanted == Filter() and not every:
        raise click.UsageError("name one, or a filter, or --all")
    done = redrive(settings, wanted, dry_run=dry_run)
    if not (done.sent or done.left or done.before):
        _nothing_there(wanted)
    for verb, counts in (
        ("would be re-driven" if dry_run else "re-driven", done.sent),
        ("left, workers would refuse them again", done.left),
    ):
        by_reason = ", ".join(f"{name} {n}" for name, n in counts.most_common())
        click.echo(f"{counts.total()} {verb}" + (f": {by_reason}" if by_reason else ""))
    click.echo(f"{done.before} were re-driven before")


def _clock(time_ms: int) -> str:
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return str(time_ms)
