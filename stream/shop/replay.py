"""`python -m stream replay`: recorded logs as events. docs/replay.md says what becomes of each column."""

import dataclasses
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import xxhash
from rich.console import Console

from stream.errors import OfferstreamError, SettingsError
from stream.kafka.codec import Customer
from stream.settings import Settings, from_environment
from stream.shop.fields import Broken, Event, LeftOut, Reader
from stream.shop.formats import FORMATS
from stream.shop.lines import LineSource
from stream.shop.mapping import load_mapping
from stream.shop.progress import ReadingBar, say
from stream.shop.publish import Publisher

BROKEN_SHOWN_MAX = 20
USERS_REMEMBERED_MAX = 2_000_000
"""Users whose consent was published. Beyond that many they are forgotten, and a consent may be published again."""

STALE_MARGIN_MS = 1_000
EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class Pace:
    """When an event is due: in recorded time over `speed`, or `rate` a second; at once where both are 0."""

    speed: float = 0
    rate: float = 0

    def due_s(self, n: int, recorded_ms: int) -> float:
        """Seconds after the start at which the n-th event is due, `recorded_ms` after the first by the log's clock."""
        if self.rate:
            return n / self.rate
        return recorded_ms / 1000 / self.speed if self.speed else 0


@dataclass(frozen=True)
class Plan:
    """What to replay, and how."""

    path: str
    format: str
    reader: Reader
    currency: str
    pace: Pace = Pace()
    times_now: bool = False
    """Event times are those of publication, so that offers are made; else the recorded ones."""
    consent: bool = True
    stale_ms: int = 0
    """With --no-offers: an event is published when it is older than this."""

    @property
    def read_twice(self) -> bool:
        """Whether the input can be: a file can, standard input and pipes cannot."""
        return self.path != "-" and Path(self.path).is_file()


@dataclass
class Report:
    """What happened; `summary` is what --json writes."""

    lines: int = 0
    consents: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    input_cut: str = ""
    interrupted: bool = False
    undelivered: int = 0
    wall_s: float = 0


class Replay:
    """One replay: reads, waits, publishes, counts."""

    def __init__(self, plan: Plan, publisher: Publisher, console: Console) -> None:
        self.plan = plan
        self.report = Report()
        self.publisher = publisher
        self.console = console
        self._asked: set[int] = set()
        self._start_s = time.time()
        self._first_ms: int | None = None
        self._events = 0

    def run(self) -> None:
        """Publish consents, then events, and wait until Kafka has them.

        A file is read twice, so that all consents are out before the first event; from standard input each user's
        consent goes just before the first event. Ctrl-C ends it; what was published stays published.

        Raises:
            DeliveryError: Kafka did not take something.
            SettingsError: the input is not of the format.
            OSError: the file cannot be read.
        """
        started_s = time.monotonic()
        try:
            if self.plan.consent and self.plan.read_twice:
                with self._items("consents") as items:
                    for item in items:
                        if isinstance(item, Event):
                            self._consent(item)
                self.publisher.flush()
            self._start_s = time.time()
            with self._items("events") as items:
                for item in items:
                    self._take(item)
            self.publisher.flush()
        except KeyboardInterrupt:
            self.report.interrupted = True
            self.report.undelivered = self.publisher.abandon(5.0)
        self.report.wall_s = time.monotonic() - started_s

    def _take(self, item: Event | LeftOut | Broken) -> None:
        report = self.report
        if isinstance(item, LeftOut):
            report.left_out[item.reason] += 1
        elif isinstance(item, Broken):
            report.broken[item.reason] += 1
            if report.broken.total() <= BROKEN_SHOWN_MAX:
                say(self.console, f"line {item.line}: {item.reason}: {item.detail}")
        else:
            self._publish(item)

    def _publish(self, event: Event) -> None:
        plan, value = self.plan, event.value
        if plan.stale_ms and not self._wait_until_stale(value.time_ms):
            self.report.left_out["later than now (--no-offers)"] += 1
            return
        if self.plan.consent and not self.plan.read_twice:
            self._consent(event)
        if self._first_ms is None:
            self._first_ms = value.time_ms
        due_s = plan.pace.due_s(self._events, value.time_ms - self._first_ms)
        self._events += 1
        while (wait_s := self._start_s + due_s - time.time()) > 0:
            time.sleep(min(wait_s, 0.05))
            self.publisher.wait(0)
        if plan.times_now:
            value.time_ms = int((self._start_s + due_s if plan.pace.speed else time.time()) * 1000)
        self.publisher.publish(event.source, value)

    def _wait_until_stale(self, time_ms: int) -> bool:
        """Whether an event is history, waiting for it if it soon will be."""
        if time_ms > time.time() * 1000:
            return False
        while (wait_s := (time_ms + self.plan.stale_ms) / 1000 - time.time()) > 0:
            time.sleep(min(wait_s, 0.05))
            self.publisher.wait(0)
        return True

    def _consent(self, event: Event) -> None:
        user = event.value.user_id
        fingerprint = xxhash.xxh3_64_intdigest(user.encode())
        if fingerprint in self._asked:
            return
        if len(self._asked) >= USERS_REMEMBERED_MAX:
            self._asked.clear()
        self._asked.add(fingerprint)
        time_ms = int(time.time() * 1000) if self.plan.times_now else event.value.time_ms
        consent = Customer(
            event_id=f"{self.plan.format}:{event.line}:consent", user_id=user, time_ms=time_ms, consent=True
        )
        self.publisher.publish("customers", consent)
        self.report.consents += 1

    @contextmanager
    def _items(self, what: str) -> Iterator[Iterator[Event | LeftOut | Broken]]:
        """The input's items, with a progress bar over them."""
        with LineSource(self.plan.path) as source, ReadingBar(self.console, what, source, self.publisher) as bar:

            def lines() -> Iterator[tuple[int, bytes]]:
                for line in source:
                    self.report.lines = line[0]
                    bar.show()
                    yield line

            yield self.plan.reader(lines(), self.plan.currency)
            bar.show(last=True)
            self.report.input_cut = source.cut


class _Speed(click.ParamType):
    name = "N|max"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401
        """0 for max."""
        if value == "max":
            return 0.0
        try:
            speed = float(value)
        except ValueError:
            speed = 0.0
        if not 0 < speed < 1e9:
            self.fail(f"{value!r} is neither max nor a number above 0", param, ctx)
        return speed


def plan_from(
    settings: Settings,
    path: str,
    format_: str,
    pace: Pace,
    *,
    times_now: bool = False,
    consent: bool = True,
    offers: bool = True,
    currency: str = "",
) -> tuple[Plan, str]:
    """What to replay, and what the user should know about its currency ("" if nothing).

    Raises:
        SettingsError: no such format or file, a mapping file is wrong, or the options contradict each other.
    """
    if times_now and not offers:
        raise SettingsError("--no-offers loads history, --times now makes it the present: choose one")
    if format_ in FORMATS:
        reader, of_file = FORMATS[format_]
        name = format_
    elif format_.endswith((".yaml", ".yml")):
        mapping = load_mapping(Path(format_))
        reader, of_file, name = mapping.read, mapping.currency, mapping.name
    else:
        known = ", ".join(FORMATS)
        raise SettingsError(f"--format {format_}: known are {known}, and mapping files (*.yaml, see docs/replay.md)")
    if path != "-" and (not Path(path).exists() or Path(path).is_dir()):
        raise SettingsError(f"{path}: no such file")
    currency = currency or settings.currency
    note = (
        f"amounts are {of_file} in the file and are published as {currency}, not converted: a worker takes one "
        "currency, that of OFFERSTREAM_CURRENCY"
        if of_file and of_file != currency
        else ""
    )
    stale_ms = 0 if offers else settings.offer_max_age_ms + STALE_MARGIN_MS
    return Plan(path, name, reader, currency, pace, times_now, consent, stale_ms), note


def summary(replay_: Replay) -> dict[str, Any]:
    """What --json writes."""
    report, plan = replay_.report, replay_.plan
    by_topic = dict(sorted(replay_.publisher.published.items()))
    return {
        "file": plan.path,
        "format": plan.format,
        "currency": plan.currency,
        "times": "now" if plan.times_now else "recorded",
        "lines": report.lines,
        "events_published": sum(by_topic.values()) - report.undelivered,
        "by_topic": by_topic,
        "consents": report.consents,
        "left_out": dict(report.left_out),
        "broken": report.broken.total(),
        "broken_by_reason": dict(report.broken),
        "input_cut": report.input_cut,
        "interrupted": report.interrupted,
        "undelivered": report.undelivered,
        "wall_s": round(report.wall_s, 3),
    }


def finish(replay_: Replay, json_path: Path | None) -> int:
    """Show the summary, write it, and say with which code to end: 0 all read, 1 nothing or not all, 130 interrupted."""
    result = summary(replay_)
    console = replay_.console
    if result["broken"] > BROKEN_SHOWN_MAX:
        say(console, f"... and {result['broken'] - BROKEN_SHOWN_MAX:,} more broken lines")
    for reason, n in result["left_out"].items():
        say(console, f"left out: {n:,} lines: {reason}")
    topics = ", ".join(f"{topic} {n:,}" for topic, n in result["by_topic"].items()) or "nothing"
    say(console, f"published: {topics}; broken lines: {result['broken']:,}; {result['wall_s']:.1f} s")
    if json_path:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    if result["undelivered"]:
        say(console, f"not delivered when it ended: {result['undelivered']:,}")
    if result["interrupted"]:
        return EXIT_INTERRUPTED
    if result["input_cut"]:
        say(console, result["input_cut"])
        return 1
    if result["broken"] and not result["events_published"]:
        say(console, f"no line could be read: is this a {result['format']} file? See docs/replay.md")
        return 1
    return 0


@click.command(
    epilog="""\b
Examples:
  python -m stream replay log.csv.gz --format taobao
  python -m stream replay shop.csv --format mapping.yaml --times now --rate 200
  zcat log.csv.gz | python -m stream replay - --format rees46 --no-offers

docs/replay.md says what the formats are, and how a mapping file is written.
"""
)
@click.argument("file")
@click.option("--format", "format_", required=True, help=f"{', '.join(FORMATS)}, or a mapping file (*.yaml).")
@click.option("--speed", type=_Speed(), help="Times recorded time, or max (default).")
@click.option("--rate", type=click.FloatRange(0, 1e9, min_open=True), help="Events a second, instead of --speed.")
@click.option(
    "--times",
    type=click.Choice(["recorded", "now"]),
    default="recorded",
    help="Event times: as recorded (too old for offers), or those of publication, so that offers are made.",
)
@click.option("--no-offers", is_flag=True, help="Load history: publish only what is too old for an offer.")
@click.option("--no-consent", is_flag=True, help="Do not publish each user's consent first.")
@click.option("--currency", default="", help="Of the published amounts; default OFFERSTREAM_CURRENCY.")
@click.option("--bootstrap", default="", help="Kafka brokers; default KAFKA_BOOTSTRAP.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the summary there.")
def replay(
    file: str,
    format_: str,
    speed: float | None,
    rate: float | None,
    times: str,
    no_offers: bool,
    no_consent: bool,
    currency: str,
    bootstrap: str,
    json_path: Path | None,
) -> None:
    """Publish the recorded log FILE (plain or .gz; - is standard input) as events.

    Lines that cannot be read are counted and shown with their number; they do not stop the replay.
    """
    console = Console(stderr=True)
    try:
        if speed is not None and rate is not None:
            raise SettingsError("--speed and --rate exclude each other")
        settings = from_environment()
        if bootstrap:
            settings = dataclasses.replace(settings, bootstrap=bootstrap)
        plan, note = plan_from(
            settings,
            file,
            format_,
            Pace(speed or 0, rate or 0),
            times_now=times == "now",
            consent=not no_consent,
            offers=not no_offers,
            currency=currency,
        )
        if note:
            say(console, note)
        replay_ = Replay(plan, Publisher(settings, linger_ms=5), console)
        try:
            replay_.run()
        except OfferstreamError:
            replay_.report.undelivered = replay_.publisher.abandon(0)
            finish(replay_, json_path)
            raise
    except OfferstreamError as e:
        say(console, f"Error: {e}")
        sys.exit(e.exit_code)
    except OSError as e:
        say(console, f"Error: {e}")
        sys.exit(1)
    sys.exit(finish(replay_, json_path))
