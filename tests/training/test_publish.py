import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from confluent_kafka import Producer

from stream.errors import SetupError
from stream.kafka.topics import Topics, publish_control
from stream.scoring.control import champion_of
from stream.scoring.files import file_of
from stream.scoring.model import load
from training.cli import cli
from training.publish import Register, published
from training.seeded import seeded_model


def records_of(bootstrap: str, topic: str) -> dict[bytes, bytes]:
    with Topics(bootstrap) as topics:
        return {
            record.key: record.value
            for _, records in topics.read([(topic, 0)])
            for record in records
            if record.key is not None and record.value is not None
        }


def champion(records: dict[bytes, bytes]) -> bytes:
    named = champion_of(records)
    assert named is not None
    return file_of(records, named.sha256)


def call(models: tuple[str, str], *args: str, ok: bool = True) -> str:
    where = ("--bootstrap", models[0], "--topic-prefix", models[1])
    result = CliRunner().invoke(cli, [*args, *where])
    assert (result.exit_code == 0) is ok, result.output
    return result.output


def test_what_is_published_is_what_a_worker_takes(models: tuple[str, str], tmp_path: Path) -> None:
    topic = models[1] + "models"
    files = [seeded_model(1), seeded_model(2)]
    for at, data in enumerate(files):
        path = tmp_path / f"{at}.onnx"
        path.write_bytes(data)
        assert load(data).hex in call(models, "publish", str(path), "--force")
        assert champion(records_of(models[0], topic)) == data

    found = published(Register(models[0], topic))
    assert [(one.sha256, one.champion, one.problem) for one in found] == [
        (load(files[0]).hex, False, ""),
        (load(files[1]).hex, True, ""),
    ]
    said = json.loads(call(models, "models", "list", "--json"))
    assert [one["sha256"] for one in said] == [one.sha256 for one in found]
    first, second = call(models, "models", "list").splitlines()
    assert first.split()[0] == load(files[0]).hex[:16]
    assert second.split()[:2] == ["champion", load(files[1]).hex[:16]]
    shown = json.loads(call(models, "models", "show", "champion"))
    assert shown["metadata"]["state"] == [["h", 50], ["c", 50]]
    assert "golden" not in shown["metadata"]
    assert json.loads(call(models, "models", "show", load(files[0]).hex[:10]))["sha256"] == load(files[0]).hex
    assert "no published models begin with that" in call(models, "models", "show", "f00", ok=False)
    assert "no model is on trial" in call(models, "models", "show", "challenger", ok=False)


def test_from_topics_to_a_champion(topics: tuple[str, str], models: tuple[str, str], tmp_path: Path) -> None:
    """The whole path on a real broker: events in topics, a model from them, the file that a worker takes."""
    producer = Producer({"bootstrap.servers": topics[0], "partitioner": "murmur2", "linger.ms": 20})
    now_ms = int(time.time() * 1000)
    for user in range(80):
        for turn in range(12):
            time_ms = now_ms - 86_400_000 + turn * 7_200_000 + user * 37_000
            said = {"user_id": f"u{user}", "event_id": f"{user}-{turn}", "time_ms": time_ms}
            cart = (user + turn) % 3 == 0
            click = {**said, "kind": "cart_add" if cart else "product_view"}
            producer.produce(f"{topics[1]}clickstream", json.dumps(click).encode(), f"u{user}".encode())
            if cart and user % 2:
                order = {**said, "kind": "placed", "order_id": f"{user}-{turn}", "total_minor": 5, "currency": "EUR"}
                order["time_ms"] = time_ms + 600_000
                producer.produce(f"{topics[1]}orders", json.dumps(order).encode(), f"u{user}".encode())
    assert producer.flush(30) == 0

    out = tmp_path / "out"
    where = ("--events", topics[0], "--topic-prefix", topics[1])
    result = CliRunner().invoke(cli, ["run", *where, "--out", str(out), "--epochs", "2"])
    assert result.exit_code == 0, result.output
    assert "1120 events of 80 users; 0 refused" in " ".join(result.output.split())
    call(models, "publish", str(out / "model.onnx"), "--force")
    taken = champion(records_of(models[0], models[1] + "models"))
    assert taken == (out / "model.onnx").read_bytes()
    assert load(taken).metadata.data["events"] == 1120


def test_gates_that_were_not_passed_are_named(models: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(seeded_model(1))
    assert "say nothing about gates" in call(models, "publish", str(path), ok=False)
    assert published(Register(models[0], models[1] + "models")) == []


def test_force_does_not_publish_what_workers_refuse(models: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(seeded_model(1)[:-1_000])
    assert f"{path}: model refused" in call(models, "publish", str(path), "--force", ok=False)
    assert published(Register(models[0], models[1] + "models")) == []


def test_foreign_records_are_listed_with_their_problem(models: tuple[str, str]) -> None:
    topic = models[1] + "models"
    good = seeded_model(1)
    publish_control(
        models[0], topic, {b"model:" + b"0" * 64: good, b"model:" + b"1" * 64: b"junk", b"champion": b"{", b"x": b"y"}
    )
    found = {one.sha256[0]: one for one in published(Register(models[0], topic))}
    assert found["0"].problem.startswith("sha256_differs")
    assert found["1"].problem.startswith("sha256_differs")
    assert found["1"].metadata is None
    assert not any(one.champion for one in found.values())


def test_nothing_is_published(models: tuple[str, str]) -> None:
    assert "no model is published" in call(models, "models", "list")


def test_a_missing_topic_is_named(broker: str) -> None:
    with pytest.raises(SetupError, match="no such topic: nobody-models"):
        published(Register(broker, "nobody-models"))
    with pytest.raises(SetupError, match="no such topic: nobody-models"):
        publish_control(broker, "nobody-models", {b"champion": b"{}"})
