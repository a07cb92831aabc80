"""`python -m stream campaigns`: validate, simulate, publish, list, pause and delete campaigns."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import click

from stream.campaigns import publish as plans
from stream.campaigns.control import Shop, compile_campaigns
from stream.campaigns.options import (
    currency_option,
    files_argument,
    load_documents,
    refuse,
    target_options,
    timezone_option,
)
from stream.campaigns.problems import suggest
from stream.campaigns.schema import document_schema
from stream.campaigns.simulate_cli import simulate
from stream.errors import OfferstreamError
from stream.kafka.topics import publish_control, read_control

READY = Path(__file__).parent / "ready"


class Target(NamedTuple):
    """Where campaigns are published."""

    bootstrap: str
    topic: str


@click.group(
    epilog="""\b
Examples:
  python -m stream campaigns ready retention > retention.yaml
  python -m stream campaigns validate retention.yaml
  python -m stream campaigns simulate retention.yaml --events log.csv --format rees46
  python -m stream campaigns apply retention.yaml
  python -m stream campaigns list
  python -m stream campaigns pause retention
"""
)
def campaigns() -> None:
    """Campaigns: who may get which offers. docs/campaigns.md has every field."""


@campaigns.command()
@files_argument
@currency_option
def validate(files: tuple[Path, ...], currency: str) -> None:
    """Say everything that is wrong with campaign files; exit code 2 if anything is."""
    documents = load_documents(files, currency)
    for document in documents:
        click.echo(f"{document['id']}: version {document['version']} is valid")


@campaigns.command()
@files_argument
@currency_option
@timezone_option
@target_options
def apply(files: tuple[Path, ...], currency: str, timezone: str, bootstrap: str, topic_prefix: str) -> None:
    """Publish campaign files; workers take them over within seconds. All files or none."""
    documents = load_documents(files, currency)
    target = _target(bootstrap, topic_prefix)
    records = _read(target)
    changes, refusals = plans.plan_apply(documents, records, Shop(timezone, currency), _now_ms())
    if refusals:
        refuse([f"{id_}: {problem}" for id_, problem in refusals], "nothing was published")
    _send(target, changes)


@campaigns.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@currency_option
@timezone_option
@target_options
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
@target_options
def show(campaign_id: str, bootstrap: str, topic_prefix: str) -> None:
    """Print a published campaign as JSON."""
    records = _read(_target(bootstrap, topic_prefix))
    record = _change(plans.read_record, campaign_id, records)
    click.echo(json.dumps(record, ensure_ascii=False, indent=2))


@campaigns.command()
@click.argument("campaign_id")
@target_options
def pause(campaign_id: str, bootstrap: str, topic_prefix: str) -> None:
    """Stop a campaign at once; `resume` puts it back."""
    target = _target(bootstrap, topic_prefix)
    _send(target, [_change(plans.pause, campaign_id, _read(target), _now_ms())])


@campaigns.command()
@click.argument("campaign_id")
@target_options
def resume(campaign_id: str, bootstrap: str, topic_prefix: str) -> None:
    """Take back `pause`."""
    target = _target(bootstrap, topic_prefix)
    _send(target, [_change(plans.resume, campaign_id, _read(target), _now_ms())])


@campaigns.command()
@click.argument("campaign_id")
@target_options
def delete(campaign_id: str, bootstrap: str, topic_prefix: str) -> None:
    """Delete a campaign, also one whose record cannot be read."""
    target = _target(bootstrap, topic_prefix)
    records = _read(target)
    if campaign_id not in records:
        _change(plans.read_record, campaign_id, records)
    _publish(target, {campaign_id: None})
    click.echo(f"{campaign_id}: deleted")


campaigns.add_command(simulate)


@campaigns.command()
@click.argument("name", required=False)
def ready(name: str | None) -> None:
    """List the ready-made campaigns, or print one, to be changed and applied."""
    files = {file.stem: file.read_text("utf-8") for file in sorted(READY.glob("*.yaml"))}
    if name is None:
        for id_, text in files.items():
            click.echo(f"{id_:18} {text.split(chr(10), 1)[0].removeprefix('# ')}")
    elif name in files:
        click.echo(files[name], nl=False)
    else:
        raise click.UsageError(f"no ready-made campaign {name!r}{suggest(name, files)}. There are: {', '.join(files)}")


@campaigns.command()
def schema() -> None:
    """Print the JSON Schema of campaign files."""
    click.echo(json.dumps(document_schema(), indent=2))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _target(bootstrap: str, topic_prefix: str) -> Target:
    return Target(bootstrap, f"{topic_prefix}campaigns")


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
