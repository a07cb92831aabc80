import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from stream.errors import SetupError
from training.cli import cli
from training.errors import TrainingError
from training.records import Customer, Decision, Feedback, Offer, Order, Redemption, read_records

SCHEMAS = Path(__file__).resolve().parent.parent.parent / "schemas"
DAY_MS = 86_400_000
START_MS = 1_700_000_000_000


@pytest.mark.parametrize(
    ("topic", "of"),
    [
        ("decisions", Decision),
        ("offers", Offer),
        ("orders", Order),
        ("redemptions", Redemption),
        ("feedback", Feedback),
        ("customers", Customer),
    ],
)
def test_every_example_of_the_contract_is_read(tmp_path: Path, topic: str, of: type[Any]) -> None:
    examples = json.loads((SCHEMAS / f"{topic}.json").read_text())["examples"]
    (tmp_path / f"{topic}.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, examples)).encode()))
    found = read_records(str(tmp_path), "", topic, of, needed=True)
    assert {one.user_id for one in found} == {one["user_id"] for one in examples}


def test_a_file_that_is_cut_is_no_shorter_log(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"user_id": "u", "tier": "gold"}\n' * 10_000)
    (tmp_path / "customers.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TrainingError, match="cannot be unpacked"):
        read_records(str(tmp_path), "", "customers", Customer, needed=False)


def test_what_is_neither_a_folder_nor_a_broker_is_told(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="neither a folder"):
        read_records(str(tmp_path / "gone"), "", "orders", Order, needed=True)


def decision(n: int, reason: str) -> dict[str, Any]:
    return {
        "decision_id": f"{n:032x}",
        "user_id": f"u{n}",
        "time_ms": START_MS + n,
        "campaign_id": "cart",
        "arm": "ten",
        "eligible": ["ten"],
        "propensity": 1.0,
        "score": None,
        "holdout": reason == "holdout",
        "reason": reason,
        "step": "00",
    }


@pytest.fixture
def recorded(broker: str, topic_prefix: str) -> Iterator[tuple[str, str]]:
    """A broker and prefix with the topics of a small shop in which every user who is offered something orders."""
    names = [topic_prefix + topic for topic in ("decisions", "orders", "redemptions", "feedback")]
    admin = AdminClient({"bootstrap.servers": broker})
    for future in admin.create_topics([NewTopic(name, 2, 1) for name in names]).values():
        future.result(30)
    producer = Producer({"bootstrap.servers": broker})

    def send(topic: str, record: dict[str, Any]) -> None:
        key = record["user_id"]
        producer.produce(topic_prefix + topic, json.dumps(record), key, partition=int(key[1:]) % 2)

    for n in range(100):
        offered = n % 2 == 0 or n % 7 == 0
        send("decisions", decision(n, "offered" if offered else "holdout"))
        if offered or n % 5 == 0:
            order = {"event_id": f"o{n}", "user_id": f"u{n}", "time_ms": START_MS + n + 1_000, "kind": "placed"}
            send("orders", {**order, "order_id": f"o{n}", "total_minor": 1_000, "currency": "EUR"})
    last = {"event_id": "last", "user_id": "u999", "time_ms": START_MS + 2 * DAY_MS, "kind": "placed"}
    send("orders", {**last, "order_id": "last", "total_minor": 1, "currency": "EUR"})
    assert producer.flush(30) == 0
    yield broker, topic_prefix
    for future in admin.delete_topics(names).values():
        future.result(30)


def test_effect_reads_a_broker(recorded: tuple[str, str], tmp_path: Path) -> None:
    broker, prefix = recorded
    args = ["effect", "--log", broker, "--topic-prefix", prefix, "--horizon", "1d", "--margin-rate", "0.5"]
    done = CliRunner().invoke(cli, [*args, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    said = json.loads((tmp_path / "effect.json").read_text())["campaigns"]["cart"]
    offered = {n for n in range(100) if n % 2 == 0 or n % 7 == 0}
    held = set(range(100)) - offered
    assert said["users"] == {"offered": len(offered), "held_out": len(held), "too_recent": 0}
    expected = 1 - sum(n % 5 == 0 for n in held) / len(held)
    assert said["effect"]["conversion"]["without_cuped"]["value"] == pytest.approx(expected)
    assert said["effect"]["margin"]["without_cuped"]["value"] == pytest.approx(500 * expected)


def test_what_workers_refuse_is_left_out_and_told(recorded: tuple[str, str], caplog: pytest.LogCaptureFixture) -> None:
    """A garbled order does not keep anybody from learning what campaigns changed; a garbled decision is a fault."""
    broker, prefix = recorded
    before = read_records(broker, prefix, "orders", Order, needed=True)
    producer = Producer({"bootstrap.servers": broker})
    for topic in ("orders", "orders", "decisions"):
        producer.produce(prefix + topic, b'{"event_id": ', b"u1", partition=1)
    assert producer.flush(30) == 0
    caplog.clear()
    assert len(read_records(broker, prefix, "orders", Order, needed=True)) == len(before) > 50
    assert f"2 records left out, which workers refuse too; the first: {prefix}orders, partition 1" in caplog.text
    with pytest.raises(TrainingError, match="decisions, partition 1"):
        read_records(broker, prefix, "decisions", Decision, needed=True)


def test_a_topic_that_is_not_there_is_told(recorded: tuple[str, str]) -> None:
    broker, prefix = recorded
    with pytest.raises(SetupError, match="offers"):
        read_records(broker, prefix, "offers", Offer, needed=True)
