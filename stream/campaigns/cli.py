"""`python -m stream campaigns`: validate, publish, list, pause and delete campaigns."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import click

from stream.campaigns import publish as plans
from stream.campaigns.control import Shop, compile_campaigns
from stream.campaigns.files import load
from stream.campaigns.problems import Problem
from stream.campaigns.schema import document_schema
from stream.errors import OfferstreamError
from stream.kafka.topics import publish_control, read_control
from stream.settings import Settings

INVALID = 2
"""Exit code where a document or a command is wrong; 1 is for a broker or topic that is not as needed."""

_DEFAULTS = Settings()
Command = TypeVar("Command", bound=Callable[..., object])


class Target(NamedTuple):
    """Where campaigns are published."""

    bootstrap: str
    topic: str


def _options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_target_options: Callable[[Command], Command] = _options(
    click.option(
        "--bootstrap", envvar="KAFKA_BOOTSTRAP", default=_DEFAULTS.bootstrap, show_default=True, show_envvar=True,
        help="Kafka brokers, host:port.",
    ),
    click.option(
        "--topic-prefix", envvar="OFFERSTREAM_TOPIC_PREFIX", default=_DEFAULTS.topic_prefix, show_envvar=True,
        help="Put before the topic's name.",
    ),
)  # fmt: skip
_currency_option: Callable[[Command], Command] = _options(
    click.option(
        "--currency", envvar="OFFERSTREAM_CURRENCY", default=_DEFAULTS.currency, show_default=True, show_envvar=True,
        help="The shop's; campaigns in others are refused.",
    )
)  # fmt: skip
_timezone_option: Callable[[Command], Command] = _options(
    click.option(
        "--timezone", envvar="OFFERSTREAM_TIMEZONE", default=_DEFAULTS.timezone, show_default=True, show_envvar=True,
        help="The shop's: its dates.", callback=lambda _ctx, _param, value: _zone(value),
    )
)  # fmt: skip
_files_argument = click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise click.BadParameter(f"there is no time zone {name!r}") from error
    return name


@click.group(
    epilog="""\b
Examples:
  python -m stream campaigns validate docs/examples/campaigns/*.yaml
  python -m stream campaigns apply docs/examples/campaigns/cart-nudge.yaml
  python -m stream campaigns list
  python -m stream campaigns pause cart-nudge
"""
)
def campaigns() -> None:
    """Campaigns: who may get which offers. docs/campaigns.md has every field."""


@campaigns.command()
@_files_argument
@_currency_option
def validate(files: tuple[Path, ...], currency: str) -> None:
    """Say everything that is wrong with campaign files; exit code 2 if anything is."""
    documents = _load(files, currency)
    for document in documents:
        click.echo(f"{document['id']}: version {document['version']} is valid")


@campaigns.command()
@_files_argument
@_currency_option
@_timezone_option
@_target_options
def apply(files: tuple[Path, ...], currency: str, timezone: str, bootstrap: str, topic_prefix: str) -> None:
    """Publish campaign files; workers take them over within seconds. All files or none."""
    documents = _load(files, currency)
    target = _target(bootstrap, topic_prefix)
    records = _read(target)
    changes, refusals = plans.plan_apply(documents, records, Shop(timezone, currency), _now_ms())
    if refusals:
        _refuse([f"{id_}: {problem}" for id_, problem in refusals], "nothing was published")
    _send(target, changes)


@campaigns.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@_currency_option
@_timezone_option
@_target_options
def list_(as_json: bool, currency: str, timezone: str, bootstrap: str, topic_prefix: str) -> None:
    """List what is published, in the order in which workers ask; invalid records too."""
    records = _read(_target(bootstrap, topic_prefix))
    in_force, refused = compile_campaigns(records, Shop(timezone, currency))
    lines = [
        {
            "id": campaign.id,
            "version": campaign.version,
            "state": "paused" if campaign.paused else "dry_run" if campaign.dry_run else "active",
            "priority": campaign.priority,
            "name": campaign.name,
        }
        for campaign in in_force.campaigns
    ]
    lines += [{"id": refusal.id, "state": "invalid", "name": refusal.message} for refusal in refused]
    if as_json:
        for line in lines:
            click.echo(json.dumps(line))
        return
    if not lines:
        click.echo("no campaign is published")
    for line in lines:
        version, priority = line.get("version", "-"), line.get("priority", "-")
        click.echo(f"{line['id']:24} {version!s:>7}  {line['state']:8} {priority!s:>8}  {line['name']}")


@campaigns.command()
@click.argument("campaign_id")
@_target_options
def show(campaign_id: str, bootstrap: str, topic_prefix: str) -> None:
    """Print a published campaign as JSON."""
    records = _read(_target(bootstrap, topic_prefix))
    record = _change(plans.read_record, campaign_id, records)
    click.echo(json.dumps(record, ensure_ascii=False, indent=2))


@campaigns.command()
@click.argument("campaign_id")
@_target_options
def pause(campaign_id: str, bootstrap: str, topic_prefix: str) -> None:
    """Stop a campaign at once; `resume` puts it back."""
    target = _target(bootstrap, topic_prefix)
    _send(target, [_change(plans.pause, campaign_id, _read(target), _now_ms())])


@campaigns.command()
@click.argument("campaign_id")
@_target_options
def resume(campaign_id: str, bootstrap: str, topic_prefix: str) -> None:
    """Take back `pause`."""
    target = _target(bootstrap, topic_prefix)
    _send(target, [_change(plans.resume, campaign_id, _read(target), _now_ms())])


@campaigns.command()
@click.argument("campaign_id")
@_target_options
def delete(campaign_id: str, bootstrap: str, topic_prefix: str) -> None:
    """Delete a campaign, also one whose record cannot be read."""
    target = _target(bootstrap, topic_prefix)
    records = _read(target)
    if campaign_id not in records:
        _change(plans.read_record, campaign_id, records)
    _publish(target, {campaign_id: None})
    click.echo(f"{campaign_id}: deleted")


@campaigns.command()
def schema() -> None:
    """Print the JSON Schema of campaign files."""
    click.echo(json.dumps(document_schema(), indent=2))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _target(bootstrap: str, topic_prefix: str) -> Target:
    return Target(bootstrap, f"{topic_prefix}campaigns")


def _load(files: tuple[Path, ...], currency: str) -> list[dict[str, Any]]:
    """Documents of all files, if all are valid; else every complaint, and out."""
    documents: list[dict[str, Any]] = []
    complaints: list[str] = []
    for file in files:
        try:
            loaded = load(file, currency)
        except OSError as error:
            complaints.append(f"{file}: {error.strerror}")
            continue
        documents += loaded.documents
        complaints += map(str, loaded.faults)
    ids = [document["id"] for document in documents]
    complaints += [f"{id_}: {Problem(('id',), 'given twice')}" for id_ in sorted({i for i in ids if ids.count(i) > 1})]
    if complaints:
        _refuse(complaints, f"{len(complaints)} complaint{'s' if len(complaints) > 1 else ''}")
    return documents


def _refuse(complaints: list[str], closing: str) -> None:
    for complaint in complaints:
        click.echo(complaint, err=True)
    click.echo(closing, err=True)
    sys.exit(INVALID)


Answer = TypeVar("Answer")


def _read(target: Target) -> dict[str, bytes]:
    """What is published, by id."""
    with _said():
        records = read_control(target.bootstrap, target.topic)
    return {key.decode("utf-8", "replace"): record.value for key, record in records.items() if record.value is not None}


def _publish(target: Target, records: Mapping[str, bytes | None]) -> None:
    with _said():
        publish_control(target.bootstrap, target.topic, {key.encode(): value for key, value in records.items()})


@contextmanager
def _said() -> Iterator[None]:
    """What the broker cannot do is said, and the exit code is 1."""
    try:
        yield
    except OfferstreamError as error:
        raise click.ClickException(str(error)) from error


def _change(change: Callable[..., Answer], *arguments: object) -> Answer:
    try:
        return change(*arguments)
    except plans.ChangeError as error:
        raise click.UsageError(str(error)) from error


def _send(target: Target, changes: list[plans.Change]) -> None:
    records = {change.id: change.value for change in changes if change.value is not None}
    if records:
        _publish(target, records)
    for change in changes:
        click.echo(f"{change.id}: {change.what}")
