"""Topics are made as planned, once, and everything that is wrong with them is named with what to do."""

import dataclasses
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from click.testing import CliRunner
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from stream.errors import SetupError
from stream.kafka.admin import (
    PLANS,
    check_topics,
    create_topics,
    find_topics,
    plans,
    topics,
)
from stream.kafka.cluster import admin_client, look
from stream.settings import Settings

DELAY_MAX_S = 10.0


def topic_ids(bootstrap: str, names: list[str]) -> dict[str, str]:
    return {name: found.topic.id for name, found in find_topics(bootstrap, names).items()}


@pytest.fixture
def settings(broker: str, topic_prefix: str) -> Settings:
    return Settings(bootstrap=broker, topic_prefix=topic_prefix, app_id=f"{topic_prefix}app")


def make(settings: Settings, name: str, partitions: int, **config: str) -> None:
    admin = AdminClient({"bootstrap.servers": settings.bootstrap})
    new = NewTopic(settings.topic(name), num_partitions=partitions, replication_factor=1, config=config)
    for future in admin.create_topics([new]).values():
        future.result(30)


def test_every_topic_is_made_as_planned_and_only_once(settings: Settings) -> None:
    made = create_topics(settings)
    assert made == list(plans(settings))
    assert len(made) == len(PLANS) + 1
    found = find_topics(settings.bootstrap, made)
    for name, plan in plans(settings).items():
        topic, config = found[name]
        assert topic.partitions == (4 if plan.keyed_by_user else 1)
        assert topic.replication == 1
        wanted = plan.config | {"min.insync.replicas": "1"}
        assert {key: config[key] for key in wanted} == wanted
    ids = topic_ids(settings.bootstrap, made)
    assert ids.keys() == set(made)
    assert len(set(ids.values())) == len(made)
    assert create_topics(settings) == []
    assert topic_ids(settings.bootstrap, made) == ids
    assert check_topics(settings) == []


def test_what_is_kept_for_ever_is_compacted_and_nothing_else() -> None:
    compacted = {name for name, plan in PLANS.items() if plan.config["cleanup.policy"] == "compact"}
    assert compacted == {"customers", "campaigns", "models"}
    for name, plan in PLANS.items():
        assert (int(plan.config.get("retention.ms", "0")) > 0) == (name not in compacted)


def test_missing_topics_are_named(settings: Settings) -> None:
    create_topics(settings)
    other = dataclasses.replace(settings, app_id=f"{settings.app_id}-2")
    (problem,) = check_topics(other)
    assert f"{other.app_id}-rows-changelog" in problem
    assert "topics create" in problem
    with pytest.raises(SetupError, match=rf"no such topic: {other.app_id}-rows-changelog\..*topics create"):
        look(other, admin_client(other.bootstrap))
    assert create_topics(other) == [f"{other.app_id}-rows-changelog"]
    assert check_topics(other) == []


def test_other_partition_counts_are_named(settings: Settings) -> None:
    make(settings, "orders", 2, **{"max.message.bytes": "12582912"})
    make(settings, "offers", 8)
    make(settings, "models", 3, **{"cleanup.policy": "compact", "max.message.bytes": "16777216"})
    create_topics(settings)
    few, many, control = sorted(check_topics(settings), key=lambda line: ("models" in line, "8 part" in line))
    assert few.startswith(f"2 partitions in {settings.topic('orders')}: too few, OFFERSTREAM_PARTITIONS is 4.")
    assert "if all have 2, set OFFERSTREAM_PARTITIONS=2" in few
    assert many.startswith(f"8 partitions in {settings.topic('offers')}: too many")
    assert control.startswith(f"3 partitions in {settings.topic('models')}: must be 1")
    for problem in (few, many, control):
        assert "topics create" in problem


def test_settings_that_would_lose_records_are_named(settings: Settings) -> None:
    make(settings, "customers", 4, **{"cleanup.policy": "delete", "max.message.bytes": "12582912"})
    make(settings, "clickstream", 4, **{"max.message.bytes": "1048588"})  # Kafka's own default
    create_topics(settings)
    problems = sorted(check_topics(settings))
    assert [problem.split(":")[0] for problem in problems] == [
        settings.topic("clickstream"),
        settings.topic("customers"),
    ]
    assert "max.message.bytes is 1048588, must be at least 12582912" in problems[0]
    assert "--add-config max.message.bytes=12582912" in problems[0]
    assert "cleanup.policy is delete, must be compact" in problems[1]


def test_a_value_of_ten_megabytes_arrives(settings: Settings) -> None:
    create_topics(settings)
    topic, value = settings.topic("orders"), bytes(range(256)) * 40_000
    producer = Producer({"bootstrap.servers": settings.bootstrap, "message.max.bytes": 12_000_000})
    producer.produce(topic, value, b"u1", partition=0)
    assert producer.flush(30) == 0
    consumer = Consumer({"bootstrap.servers": settings.bootstrap, "group.id": settings.app_id})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        message = consumer.poll(30)
        assert message is not None
        assert message.value() == value
    finally:
        consumer.close()


# --- brokers that are not there ---------------------------------------------------------------------------------------


@pytest.fixture
def closed_port() -> Iterator[str]:
    """An address that refuses connections: bound, so that nobody else takes it, and not listening."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{s.getsockname()[1]}"


@pytest.fixture
def silent_port() -> Iterator[str]:
    """An address that takes connections and says nothing."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        yield f"127.0.0.1:{s.getsockname()[1]}"


def test_a_broker_that_says_nothing_is_reported_in_time(silent_port: str) -> None:
    start = time.monotonic()
    with pytest.raises(SetupError, match=rf"{silent_port}.*KAFKA_BOOTSTRAP"):
        create_topics(Settings(bootstrap=silent_port))
    assert time.monotonic() - start < DELAY_MAX_S


@pytest.mark.slow  # waits for a broker that does not come
def test_a_broker_that_is_not_there_is_reported_in_time(closed_port: str) -> None:
    start = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-m", "stream", "topics", "check", "--bootstrap", closed_port],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert time.monotonic() - start < DELAY_MAX_S
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"Error: no answer from Kafka at {closed_port}")


# --- command line -----------------------------------------------------------------------------------------------------


def test_create_check_and_list(settings: Settings) -> None:
    environment = {
        "KAFKA_BOOTSTRAP": settings.bootstrap,
        "OFFERSTREAM_TOPIC_PREFIX": settings.topic_prefix,
        "OFFERSTREAM_APP_ID": settings.app_id,
    }
    runner = CliRunner(env=environment)

    def run(*arguments: str) -> tuple[int, str, BaseException | None]:
        result = runner.invoke(topics, arguments)
        return result.exit_code, result.output, result.exception

    code, _, error = run("check")
    assert code != 0
    assert isinstance(error, SetupError)
    lines = run("list", "--json")[1].splitlines()
    assert [json.loads(line)["exists"] for line in lines] == [False] * 15
    code, output, _ = run("create", "--partitions", "2")
    assert code == 0
    assert output.splitlines() == [*(f"created {name}" for name in plans(settings)), "15 created, 0 were there"]
    assert run("create", "--partitions", "2")[1] == "0 created, 15 were there\n"
    assert run("check", "--partitions", "2")[:2] == (0, "15 topics are as they should be\n")
    assert "too few, OFFERSTREAM_PARTITIONS is 4" in str(run("create")[2])  # 4 is the default
    table = run("list")[1]
    assert "30 days" in table
    assert "latest of each key" in table
    listed = {json.loads(line)["topic"]: json.loads(line) for line in run("list", "--json")[1].splitlines()}
    assert set(listed) == set(plans(settings))
    assert listed[settings.topic("orders")]["partitions"] == 2
    ids = topic_ids(settings.bootstrap, list(listed))
    assert {name: line["id"] for name, line in listed.items()} == ids
