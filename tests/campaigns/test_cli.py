"""The command line: what it says, its exit codes, and what a real broker holds afterwards."""

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from stream.campaigns.cli import campaigns

CAMPAIGN = """\
id: {id}
name: A name
version: {version}
priority: {priority}
trigger: {{kinds: [search]}}
arms: [{{id: ship, kind: free_shipping}}]
policy: {{kind: threshold, probability: 0.5, arm: ship}}
valid_for: 1d
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KAFKA_BOOTSTRAP", "OFFERSTREAM_TOPIC_PREFIX", "OFFERSTREAM_CURRENCY", "OFFERSTREAM_TIMEZONE"):
        monkeypatch.delenv(name, raising=False)


def run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(campaigns, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def write(folder: Path, id_: str, version: int = 1, priority: int = 1) -> Path:
    file = folder / f"{id_}.yaml"
    file.write_text(CAMPAIGN.format(id=id_, version=version, priority=priority))
    return file


def test_validate_names_every_fault_of_every_file(tmp_path: Path) -> None:
    good, bad, worse = write(tmp_path, "good"), write(tmp_path, "bad", version=0), write(tmp_path, "Worse", priority=-1)
    assert (run("validate", good).exit_code, run("validate", good).stdout) == (0, "good: version 1 is valid\n")
    result = run("validate", good, bad, worse)
    assert result.exit_code == 2
    rule = "must be an id: 1 to 64 of a-z, 0-9, '_' and '-', not beginning with '_' or '-'"
    assert result.stderr.splitlines() == [
        f"{bad}:3:1: version: must be at least 1, this is 0",
        f"{worse}:1:1: id: {rule}, this is 'Worse'",
        f"{worse}:4:1: priority: must be at least 0, this is -1",
        "3 complaints",
    ]


def test_validate_knows_the_shops_currency_and_time_zone(tmp_path: Path) -> None:
    file = write(tmp_path, "good")
    file.write_text(file.read_text() + "currency: USD\n")
    assert "the shop's currency is EUR, this is USD" in run("validate", file).stderr
    assert run("validate", file, "--currency", "USD").exit_code == 0
    result = run("apply", file, "--timezone", "Mars/Olympus")
    assert (result.exit_code, "there is no time zone 'Mars/Olympus'" in result.stderr) == (2, True)


def test_validate_of_what_is_not_there(tmp_path: Path) -> None:
    result = run("validate", tmp_path / "none.yaml")
    assert (result.exit_code, "does not exist" in result.stderr) == (2, True)
    assert run("validate").exit_code == 2


def test_two_files_with_one_id(tmp_path: Path) -> None:
    file = write(tmp_path, "twice")
    file.write_text(f"{file.read_text()}---\n{file.read_text()}")
    result = run("validate", file)
    assert (result.exit_code, result.stderr.splitlines()[0]) == (2, "twice: id: given twice")


@pytest.mark.slow  # waits for a broker that does not come
def test_a_broker_that_is_not_there(tmp_path: Path) -> None:
    began = time.monotonic()
    result = run("apply", write(tmp_path, "good"), "--bootstrap", "127.0.0.1:1")
    assert time.monotonic() - began < 15
    assert result.exit_code == 1
    assert "no answer from Kafka at 127.0.0.1:1" in result.stderr


class Target:
    """A topic of a test's own, and the options that name it."""

    def __init__(self, bootstrap: str, prefix: str, partitions: int = 1, policy: str = "compact") -> None:
        self.bootstrap, self.topic = bootstrap, f"{prefix}campaigns"
        self.options = ("--bootstrap", bootstrap, "--topic-prefix", prefix)
        admin = AdminClient({"bootstrap.servers": bootstrap})
        new = NewTopic(self.topic, partitions, 1, config={"cleanup.policy": policy})
        admin.create_topics([new])[self.topic].result(30)

    def records(self) -> list[tuple[str, bytes | None]]:
        """Every record, in order: key and value."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "test", "enable.auto.commit": False})
        partition = TopicPartition(self.topic, 0, 0)
        _, end = consumer.get_watermark_offsets(partition, 10)
        consumer.assign([partition])
        found = consumer.consume(end, 20) if end else []
        consumer.close()
        assert len(found) == end
        return [((m.key() or b"").decode(), m.value()) for m in found]

    def put(self, key: str, value: bytes) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap})
        producer.produce(self.topic, key=key.encode(), value=value)
        assert producer.flush(20) == 0


def test_the_life_of_campaigns(broker: str, topic_prefix: str, tmp_path: Path) -> None:
    target = Target(broker, topic_prefix)
    first, second = write(tmp_path, "first", priority=5), write(tmp_path, "second", priority=2)
    assert run("list", *target.options).stdout == "no campaign is published\n"

    before_ms = time.time() * 1000
    result = run("apply", first, second, *target.options)
    assert (result.exit_code, result.stdout) == (0, "first: version 1, active\nsecond: version 1, active\n")
    records = target.records()
    assert [key for key, _ in records] == ["first", "second"]
    for _, record in records:
        value = json.loads(record or b"")
        assert value["policy"] == {"kind": "threshold", "probability": 0.5, "arm": "ship"}
        assert before_ms - 1 <= value["published_ms"] <= time.time() * 1000

    # The same again writes nothing; other content with the same version is refused, and then nothing is written.
    assert run("apply", first, *target.options).stdout == "first: version 1, unchanged\n"
    result = run("apply", write(tmp_path, "first", priority=9), write(tmp_path, "third"), *target.options)
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "first: version: version 1 is published with other content; a change needs version 2",
        "nothing was published",
    ]
    assert len(target.records()) == 2

    assert run("pause", "second", *target.options).stdout == "second: paused\n"
    target.put("broken", b"{")
    listed = [json.loads(line) for line in run("list", "--json", *target.options).stdout.splitlines()]
    assert [(line["id"], line["state"]) for line in listed] == [
        ("second", "paused"),
        ("first", "active"),
        ("broken", "invalid"),
    ]
    assert "not JSON" in run("list", *target.options).stdout
    assert run("resume", "second", *target.options).stdout == "second: active\n"

    shown = json.loads(run("show", "second", *target.options).stdout)
    assert (shown["id"], shown["state"], "resume_state" in shown) == ("second", "active", False)
    result = run("show", "secnd", *target.options)
    assert (result.exit_code, "did you mean 'second'?" in result.stderr) == (2, True)

    assert run("delete", "broken", *target.options).stdout == "broken: deleted\n"
    assert run("delete", "first", *target.options).exit_code == 0
    assert run("delete", "first", *target.options).exit_code == 2
    assert target.records()[-1] == ("first", None)
    listed = [json.loads(line)["id"] for line in run("list", "--json", *target.options).stdout.splitlines()]
    assert listed == ["second"]


def test_a_topic_that_is_not_as_it_has_to_be(broker: str, topic_prefix: str) -> None:
    result = run("list", "--bootstrap", broker, "--topic-prefix", f"{topic_prefix}none-")
    assert result.exit_code == 1
    assert f"no such topic: {topic_prefix}none-campaigns. `python -m stream topics create`" in result.stderr
    wide = Target(broker, f"{topic_prefix}wide-", partitions=2)
    assert "has 2 partitions, it must have 1" in run("list", *wide.options).stderr
    fading = Target(broker, f"{topic_prefix}fading-", policy="delete")
    result = run("delete", "x", *fading.options)
    assert (result.exit_code, "cleanup.policy=delete, it must be compact" in result.stderr) == (1, True)
