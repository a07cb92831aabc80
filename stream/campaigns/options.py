"""What the commands on campaigns have in common: options, and reading files."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import click

from stream.campaigns.files import load
from stream.campaigns.problems import Problem
from stream.settings import Settings

INVALID = 2
"""Exit code where a document or a command is wrong; 1 is for a broker or topic that is not as needed."""

_DEFAULTS = Settings()
Command = TypeVar("Command", bound=Callable[..., object])


def _options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


target_options: Callable[[Command], Command] = _options(
    click.option(
        "--bootstrap", envvar="KAFKA_BOOTSTRAP", default=_DEFAULTS.bootstrap, show_default=True, show_envvar=True,
        help="Kafka brokers, host:port.",
    ),
    click.option(
        "--topic-prefix", envvar="OFFERSTREAM_TOPIC_PREFIX", default=_DEFAULTS.topic_prefix, show_envvar=True,
        help="Put before the topic's name.",
    ),
)  # fmt: skip
currency_option: Callable[[Command], Command] = _options(
    click.option(
        "--currency", envvar="OFFERSTREAM_CURRENCY", default=_DEFAULTS.currency, show_default=True, show_envvar=True,
        help="The shop's; campaigns in others are refused.",
    )
)  # fmt: skip
timezone_option: Callable[[Command], Command] = _options(
    click.option(
        "--timezone", envvar="OFFERSTREAM_TIMEZONE", default=_DEFAULTS.timezone, show_default=True, show_envvar=True,
        help="The shop's: its dates.", callback=lambda _ctx, _param, value: _zone(value),
    )
)  # fmt: skip
files_argument = click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise click.BadParameter(f"there is no time zone {name!r}") from error
    return name


def load_documents(files: tuple[Path, ...], currency: str) -> list[dict[str, Any]]:
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
        refuse(complaints, f"{len(complaints)} complaint{'s' if len(complaints) > 1 else ''}")
    return documents


def refuse(complaints: list[str], closing: str) -> None:
    """Say complaints, and out."""
    for complaint in complaints:
        click.echo(complaint, err=True)
    click.echo(closing, err=True)
    sys.exit(INVALID)
