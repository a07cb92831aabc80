"""Topics: what each is like, and the command line that makes and checks them. docs/topics.md is the page for people."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

import click
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import ConfigEntry, ConfigResource, NewTopic, ResourceType
from rich.console import Console
from rich.table import Table

from stream.errors import SetupError
from stream.kafka.cluster import (
    REQUEST_TIMEOUT_S,
    Topic,
    admin_client,
    count_problems,
    describe,
    no_answer,
    wrong_topics,
)
from stream.settings import Settings, from_environment

CREATE_TIMEOUT_S = 60.0
"""For the controller to make all topics; elections on a busy cluster take their time."""

_DAY_MS = 86_400_000
_MEBI = 1 << 20

_COMPACTED = {
    "cleanup.policy": "compact",
    # Bounds when the bytes of an erased or replaced value are gone.
    "segment.ms": str(_DAY_MS),
    "max.compaction.lag.ms": str(_DAY_MS),
}


def _kept(days: int) -> dict[str, str]:
    return {"cleanup.policy": "delete", "retention.ms": str(days * _DAY_MS)}


# A value of 10 MB has to arrive to become a dead letter; brokers take 1 MiB by default.
_SOURCE = {"max.message.bytes": str(12 * _MEBI)}


class Plan(NamedTuple):
    """What a topic should be like."""

    config: dict[str, str]
    keyed_by_user: bool = True  # as many partitions as the setting says; else one


PLANS: dict[str, Plan] = {
    "clickstream": Plan(_SOURCE | _kept(30)),
    "orders": Plan(_SOURCE | _kept(30)),
    "feedback": Plan(_SOURCE | _kept(30)),
    "redemptions": Plan(_SOURCE | _kept(30)),
    "customers": Plan(_SOURCE | _COMPACTED),
    "identities": Plan(_SOURCE | _kept(30)),
    "merges": Plan(_SOURCE | _kept(30)),
    "erasures": Plan(_SOURCE | _kept(30)),
    "budgets": Plan(_kept(7)),
    "offers": Plan(_kept(7)),
    "decisions": Plan(_kept(30)),
    "dead-letters": Plan(_kept(30)),
    "campaigns": Plan(_COMPACTED, keyed_by_user=False),
    "models": Plan(_COMPACTED | {"max.message.bytes": str(16 * _MEBI)}, keyed_by_user=False),
}
"""By name without prefix. The changelog has the plan below and a name of its own."""

CHANGELOG_PLAN = Plan(_COMPACTED)

CHECKED = ("cleanup.policy", "max.message.bytes")
"""Settings of a topic without which events or rows are lost. Retention is the operator's to change."""


def plans(settings: Settings) -> dict[str, Plan]:
    """Every topic that a worker with these settings uses, by full name."""
    return {settings.topic(name): plan for name, plan in PLANS.items()} | {settings.changelog: CHANGELOG_PLAN}


class Found(NamedTuple):
    """A topic and its settings."""

    topic: Topic
    config: dict[str, str]


def find_topics(bootstrap: str, names: Iterable[str]) -> dict[str, Found]:
    """Those of the named topics that exist.

    Raises:
        SetupError: no broker answers.
    """
    admin = admin_client(bootstrap)
    try:
        topics = describe(admin, list(names))
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in topics]
        configs = admin.describe_configs(resources, request_timeout=REQUEST_TIMEOUT_S) if resources else {}
        config_of = {resource.name: _config(future) for resource, future in configs.items()}
    except KafkaException as error:
        raise no_answer(bootstrap, error) from error
    return {name: Found(topic, config) for name, topic in topics.items() if (config := config_of[name]) is not None}


def _config(future: "Future[dict[str, ConfigEntry]]") -> dict[str, str] | None:
    """None: the topic was deleted between the two questions."""
    try:
        return {key: entry.value for key, entry in future.result().items()}
    except KafkaException as error:
        if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return None
        raise


def create_topics(settings: Settings) -> list[str]:
    """Make the topics that are missing; those that exist stay as they are.

    Returns:
        Names of the topics made.

    Raises:
        SetupError: no broker answers, or it refuses, or takes too long.
    """
    wanted = plans(settings)
    there = find_topics(settings.bootstrap, wanted)
    missing = [name for name in wanted if name not in there]
    if not missing:
        return []
    in_sync_min = max(1, settings.replication - 1)
    new = [
        NewTopic(
            name,
            num_partitions=settings.partitions if wanted[name].keyed_by_user else 1,
            replication_factor=settings.replication,
            config=wanted[name].config | {"min.insync.replicas": str(in_sync_min)},
        )
        for name in missing
    ]
    admin = admin_client(settings.bootstrap)  # must outlive its futures
    futures = admin.create_topics(new, operation_timeout=CREATE_TIMEOUT_S, request_timeout=CREATE_TIMEOUT_S)
    refused = []
    for name, future in futures.items():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another did it meanwhile
                refused.append(f"{name}: {error.args[0].str()}")
    if refused:
        raise SetupError("Kafka did not create these topics:\n" + "\n".join(f"  {line}" for line in refused))
    _wait_for(settings.bootstrap, missing)
    return missing


def _wait_for(bootstrap: str, names: Sequence[str]) -> None:
    """Until the brokers know of topics that the controller has made."""
    deadline = time.monotonic() + CREATE_TIMEOUT_S
    while unknown := set(names) - find_topics(bootstrap, names).keys():
        if time.monotonic() > deadline:
            raise SetupError(f"made, but unknown to the brokers after {CREATE_TIMEOUT_S:.0f} s: {sorted(unknown)}")
        time.sleep(0.05)


def check_topics(settings: Settings) -> list[str]:
    """What is wrong with the topics, one line each with what to do; nothing: a worker can start.

    Raises:
        SetupError: no broker answers.
    """
    wanted = plans(settings)
    found = find_topics(settings.bootstrap, wanted)
    keyed_by_user = {name: plan.keyed_by_user for name, plan in wanted.items()}
    problems = count_problems({name: one.topic for name, one in found.items()}, keyed_by_user, settings.partitions)
    problems += [
        f"{name}: {key} is {one.config.get(key)}, must be {_wanted(key, value)}: "
        f"kafka-configs --alter --topic {name} --add-config {key}={value}"
        for name, one in found.items()
        for key, value in wanted[name].config.items()
        if key in CHECKED and not _suits(key, one.config.get(key, ""), value)
    ]
    return problems


def _suits(key: str, has: str, wanted: str) -> bool:
    return int(has or 0) >= int(wanted) if key == "max.message.bytes" else has == wanted


def _wanted(key: str, value: str) -> str:
    return f"at least {value}" if key == "max.message.bytes" else value


# --- command line -----------------------------------------------------------------------------------------------------

Command = TypeVar("Command", bound=Callable[..., object])


def settings_options(command: Command) -> Command:
    """Options that go before the environment's settings."""
    for option in (
        click.option("--bootstrap", help="Kafka brokers, host:port.  [env: KAFKA_BOOTSTRAP]"),
        click.option("--topic-prefix", help="Put before the names of topics.  [env: OFFERSTREAM_TOPIC_PREFIX]"),
    ):
        command = option(command)
    return command


def settings_from(**options: Any) -> Settings:  # noqa: ANN401 (options of several types)
    """The environment's settings, changed by the options that were given."""
    given = {name: value for name, value in options.items() if value is not None}
    return dataclasses.replace(from_environment(), **given)


_counts = click.option(
    "--partitions", type=click.IntRange(1, 4096), help="Of topics keyed by user.  [env: OFFERSTREAM_PARTITIONS]"
)


@click.group(
    epilog="""\b
Examples:
  python -m stream topics create
  python -m stream topics create --partitions 16 --replication 3
  python -m stream topics check
  python -m stream topics list --json
"""
)
def topics() -> None:
    """Kafka topics: create what is missing, check what is there."""


@topics.command()
@settings_options
@_counts
@click.option("--replication", type=click.IntRange(1, 15), help="Copies.  [env: OFFERSTREAM_REPLICATION]")
def create(bootstrap: str | None, topic_prefix: str | None, partitions: int | None, replication: int | None) -> None:
    """Make the topics that are missing; those that exist stay as they are, and are checked."""
    settings = settings_from(
        bootstrap=bootstrap, topic_prefix=topic_prefix, partitions=partitions, replication=replication
    )
    made = create_topics(settings)
    for name in made:
        click.echo(f"created {name}")
    _report(settings, f"{len(made)} created, {len(plans(settings)) - len(made)} were there")


@topics.command()
@settings_options
@_counts
def check(bootstrap: str | None, topic_prefix: str | None, partitions: int | None) -> None:
    """Say what is wrong with the topics; exit code 1 if anything is."""
    settings = settings_from(bootstrap=bootstrap, topic_prefix=topic_prefix, partitions=partitions)
    _report(settings, f"{len(plans(settings))} topics are as they should be")


def _report(settings: Settings, good: str) -> None:
    problems = check_topics(settings)
    if problems:
        raise wrong_topics(problems)
    click.echo(good)


def _keeps(config: dict[str, str]) -> str:
    if "compact" in config["cleanup.policy"]:
        return "latest of each key"
    retention_ms = int(config["retention.ms"])
    return "everything" if retention_ms < 0 else f"{retention_ms / _DAY_MS:g} days"


@topics.command("list")
@settings_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_(bootstrap: str | None, topic_prefix: str | None, as_json: bool) -> None:
    """List the topics that Offerstream uses."""
    settings = settings_from(bootstrap=bootstrap, topic_prefix=topic_prefix)
    wanted = plans(settings)
    found = find_topics(settings.bootstrap, wanted)
    table = Table("topic", "partitions", "copies", "keeps")
    for name in wanted:
        one = found.get(name)
        if as_json:
            said = one.topic._asdict() | {"config": one.config} if one else {}
            click.echo(json.dumps({"topic": name, "exists": one is not None} | said))
        elif one is None:
            table.add_row(name, "missing", "", "")
        else:
            table.add_row(name, str(one.topic.partitions), str(one.topic.replication), _keeps(one.config))
    if not as_json:
        Console().print(table)
