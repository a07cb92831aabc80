"""Operators find refused events by reason, topic and field, and see them whole."""

import base64
import json
import uuid
from collections.abc import Sequence

import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Producer

from stream.errors import SetupError
from stream.kafka.admin import create_topics
from stream.kafka.codec import DeadLetter, DeadReason, dead_letter_record
from stream.kafka.dead_letters import dead_letters, printable
from stream.settings import Settings

NOW_MS = 1_763_700_000_000
LETTERS = [
    ("orders", b"u1", b'{"lines": 1}', DeadReason.FIELD_TYPE, "$.lines"),
    ("clickstream", b"\xff\xfe", b"\xff\x00", DeadReason.NOT_UTF8, ""),
    ("clickstream", None, None, DeadReason.KEY_MISSING, ""),
    ("clickstream", b"u2", b"{", DeadReason.NOT_JSON, ""),
    ("orders", b"u3", b'{"time_ms": 0}', DeadReason.TIME_RANGE, "$.time_ms"),
    ("clickstream", b"u4", b"\x1b[31m[bold]" + b"x" * 5000, DeadReason.NOT_JSON, ""),
]


@pytest.fixture(scope="module")
def published(broker: str) -> Settings:
    """Dead letters in two partitions, each a second after the one before."""
    topic_prefix = f"dead-letters-{uuid.uuid4().hex[:8]}-"
    settings = Settings(bootstrap=broker, topic_prefix=topic_prefix, app_id=f"{topic_prefix}app")
    create_topics(settings)
    producer = Producer({"bootstrap.servers": broker})
    for i, (topic, key, value, reason, field) in enumerate(LETTERS):
        letter = DeadLetter(
            settings.topic(topic), i % 2, 100 + i, NOW_MS + 1000 * i, key, value, reason, field, f"detail {i}"
        )
        out_key, out_value, headers = dead_letter_record(letter)
        producer.produce(settings.topic("dead-letters"), out_value, out_key, partition=i % 2, headers=list(headers))
    assert producer.flush(30) == 0
    return settings


def run(settings: Settings, *arguments: str) -> Result:
    environment = {"KAFKA_BOOTSTRAP": settings.bootstrap, "OFFERSTREAM_TOPIC_PREFIX": settings.topic_prefix}
    return CliRunner(env=environment).invoke(dead_letters, arguments)


def offsets(result: Result) -> list[int]:
    """Source offsets of what was listed: 100 + place in LETTERS."""
    assert result.exit_code == 0, result.output
    return [int(json.loads(line)["headers"]["offset"]) for line in result.output.splitlines()]


@pytest.mark.parametrize(
    ("filters", "places"),
    [
        ([], [0, 1, 2, 3, 4, 5]),
        (["--reason", "not_json"], [3, 5]),
        (["--topic", "orders"], [0, 4]),
        (["--field", "$.time_ms"], [4]),
        (["--topic", "clickstream", "--reason", "not_json"], [3, 5]),
        (["--topic", "orders", "--reason", "not_json"], []),
        (["--limit", "2"], [4, 5]),
        (["--limit", "1", "--topic", "orders"], [4]),
        (["--limit", "100"], [0, 1, 2, 3, 4, 5]),
    ],
)
def test_filters(published: Settings, filters: Sequence[str], places: list[int]) -> None:
    assert offsets(run(published, "list", "--json", *filters)) == [100 + i for i in places]
    if filters[:1] == ["--topic"]:  # with the prefix as well
        full = ["--topic", published.topic(filters[1]), *filters[2:]]
        assert offsets(run(published, "list", "--json", *full)) == [100 + i for i in places]


def test_the_table_shows_them_with_a_count_by_reason(published: Settings) -> None:
    output = run(published, "list").output
    assert "6 dead letters: not_json 2" in output
    assert "\x1b" not in output
    assert "u\\xff" not in output
    assert "\\xff\\xfe" in output
    assert "2 dead letters: not_json 2" in run(published, "list", "--reason", "not_json", "--limit", "1").output


def test_show_gives_key_value_and_headers_whole(published: Settings) -> None:
    lines = [json.loads(line) for line in run(published, "show", "--json").output.splitlines()]
    for i, (line, (topic, key, value, reason, field)) in enumerate(zip(lines, LETTERS, strict=True)):
        for name, content in (("key", key), ("value", value)):
            if content is None:
                assert line[name] is None
            elif f"{name}_base64" in line:
                assert base64.b64decode(line[f"{name}_base64"]) == content
            else:
                assert line[name].encode() == content
        headers = line["headers"]
        assert headers["topic"] == published.topic(topic)
        assert (headers["reason"], headers["field"], headers["detail"]) == (reason, field, f"detail {i}")


def test_show_one_by_its_place(published: Settings) -> None:
    output = run(published, "show", "1:2").output
    assert "reason: not_json" in output
    assert "offset: 105" in output
    assert r"value: \x1b[31m[bold]xxx" in output
    assert "bytes more)" in output
    assert "\x1b" not in output
    assert "reason: key_missing" in run(published, "show", "0:1").output
    assert "key: null" in run(published, "show", "0:1").output
    missing = run(published, "show", "3:77")
    assert missing.exit_code == 2
    assert "no dead letter at 3:77" in missing.output


def test_no_dead_letters_is_no_error(broker: str, topic_prefix: str) -> None:
    settings = Settings(bootstrap=broker, topic_prefix=topic_prefix, app_id=f"{topic_prefix}app")
    without_topic = run(settings, "list")
    assert isinstance(without_topic.exception, SetupError)
    assert "topics create" in str(without_topic.exception)
    create_topics(settings)
    assert "0 dead letters" in run(settings, "list").output
    assert run(settings, "show").output == ""


def test_an_unknown_reason_names_the_known_ones() -> None:
    result = CliRunner().invoke(dead_letters, ["list", "--reason", "nonsense"])
    assert result.exit_code == 2
    assert "'field_missing'" in result.output


def test_nothing_drives_the_terminal() -> None:
    assert printable(b"\x1b[2J\x07\n\r\x9b\xff") == r"\x1b[2J\x07\n\r\x9b\xff"
    assert printable("\u202eevil\x9b") == r"\u202eevil\x9b"
    assert printable("größe 😀 {}") == "größe 😀 {}"
    assert printable(None) == "null"
