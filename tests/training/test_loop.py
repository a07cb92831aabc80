"""The loop on a real broker: a model out of topics, whatever kills it, and a successor that starts from it."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from stream.scoring.control import RETRAIN_KEY_PREFIX, key_of
from stream.scoring.model import load
from tests.e2e.harness import ROOT, Event, Site, event
from training.archive import read_manifest, read_records
from training.fit import Plan
from training.loop import Task, cycle, wanted
from training.publish import Register

HOUR_MS = 3_600_000
FIRST = "out/cycles/00001"
MADE = [
    f"{FIRST}/{name}"
    for name in (
        "weights.npz", "metrics.json", "evaluation.json", "training.npz", "model.onnx", "variants.json", "served.onnx",
        "gates.json", "outcome.json", "cycle.json",
    )
]  # fmt: skip
"""Files of a cycle, in order. Who is killed before the model is there trains anew, which takes a while."""


def shopping(first: int, n_users: int) -> list[Event]:
    """Users who buy after a cart, and else never."""
    now_ms = time.time_ns() // 1_000_000
    said = []
    for user in range(first, first + n_users):
        for turn in range(12):
            time_ms = now_ms - 86_400_000 + turn * 7_200_000 + user * 37_000
            name = {"user_id": f"u{user}", "event_id": f"{user}-{turn}"}
            cart = (user + turn) % 3 == 0
            said.append(event("clickstream", **name, time_ms=time_ms, kind="cart_add" if cart else "product_view"))
            if cart:
                order = {"kind": "placed", "order_id": f"{user}-{turn}", "total_minor": 5, "currency": "EUR"}
                said.append(event("orders", **name, time_ms=time_ms + 600_000, **order))
    return said


def run_killed(task: Task, spared: Sequence[str]) -> list[str]:
    """What `tests.training.killed_loop` says of a task, line by line."""
    said = json.dumps(task._asdict() | {"plan": task.plan._asdict()}, default=str)
    command = [sys.executable, "-m", "tests.training.killed_loop", said, *spared]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr[-3_000:]
    return done.stdout.splitlines()


@pytest.mark.parametrize("spared", [MADE[:4], pytest.param([], marks=pytest.mark.long)], ids=["most", "all"])
def test_a_loop_that_is_killed_at_its_steps_comes_to_the_same_end(
    broker: str, topic_prefix: str, tmp_path: Path, spared: list[str]
) -> None:
    site = Site(broker, topic_prefix, tmp_path, partitions=2)
    site.publish(shopping(0, 100))
    plan = Plan(epochs=10, batch=8)
    task = Task(broker, topic_prefix, tmp_path / "archive", tmp_path / "out", HOUR_MS, "lstm", plan, "EUR")
    *died_at, said = run_killed(task, spared)
    outcome = json.loads(said)
    assert (outcome["problems"], outcome["published"]) == ([], True)
    archived = {name for name in died_at if name.startswith("archive/topic=")}
    assert len(archived) >= 4  # two topics, two partitions
    once = {"archive/archive.json", "out/cycle.json", "publish model", "publish champion"}
    assert set(died_at) - archived == {*MADE, *once} - {*spared}
    assert [name for name in died_at if name in MADE] == [name for name in MADE if name not in spared]

    # Every record once, and nothing half-written anywhere.
    manifest = read_manifest(task.archive)
    for source in ("clickstream", "orders"):
        archived_values = sorted(
            record.value or b""
            for partition in range(2)
            for records in read_records(task.archive, manifest, source, partition)
            for record in records
        )
        assert archived_values == sorted(e.value or b"" for e, _ in site.sent if e.source == source)
    assert list(tmp_path.rglob("*.part")) == []
    register = Register(broker, topic_prefix + "models")
    assert register.known() == [outcome["sha256"]]
    assert register.in_force() == outcome["sha256"]
    assert outcome["sha256"] == load((tmp_path / FIRST / "served.onnx").read_bytes()).hex

    # A life that nobody disturbs makes the same files of the same inputs.
    again = task._replace(out=tmp_path / "again")
    again.out.mkdir()
    shutil.copy(tmp_path / FIRST / "cycle.json", again.out / "cycle.json")
    assert cycle(again, 1).sha256 == outcome["sha256"]
    for name in ("model.onnx", "served.onnx", "weights.npz"):
        assert (again.out / "cycles" / "00001" / name).read_bytes() == (tmp_path / FIRST / name).read_bytes()


def test_the_loop(broker: str, topic_prefix: str, tmp_path: Path) -> None:
    site = Site(broker, topic_prefix, tmp_path, partitions=2)
    site.publish(shopping(0, 100))
    plan = Plan(epochs=10, batch=8)
    task = Task(broker, topic_prefix, tmp_path / "archive", tmp_path / "out", HOUR_MS, "lstm", plan, "EUR")

    seen: list[str] = []
    outcome = cycle(task, 1, seen.append)
    assert seen == ["ingest", "open", "train", "variants", "publish", "close"]
    assert outcome.problems == []
    assert outcome.published
    first = task.out / "cycles" / "00001"
    assert load((first / "served.onnx").read_bytes()).hex == outcome.sha256
    register = Register(broker, topic_prefix + "models")
    assert register.in_force() == outcome.sha256
    assert register.file(outcome.sha256) == (first / "served.onnx").read_bytes()

    # Three files of one network: smaller ones, and hardly another answer.
    table = {one["name"]: one for one in json.loads((first / "variants.json").read_text())["variants"]}
    assert table["int8"]["size_bytes"] < table["float16"]["size_bytes"] < table["float32"]["size_bytes"]
    assert all(abs(one["log_loss"] - table["float32"]["log_loss"]) < 0.01 for one in table.values())

    # The same inputs, the archive having grown meanwhile: the same bytes.
    site.publish(shopping(100, 20))
    again = task._replace(out=tmp_path / "again")
    again.out.mkdir()
    shutil.copy(first / "cycle.json", again.out / "cycle.json")
    assert cycle(again, 1).sha256 == outcome.sha256
    for name in ("model.onnx", "served.onnx", "weights.npz"):
        assert (again.out / "cycles" / "00001" / name).read_bytes() == (first / name).read_bytes()

    # Workers ask for a successor; it takes in the new events and starts from the champion.
    assert wanted(task) == ""
    site.put_control("models", [(key_of(RETRAIN_KEY_PREFIX, outcome.sha256), b'{"psi": {"gap": 0.5}}')])
    assert wanted(task) == outcome.sha256
    second = cycle(task, 2)
    made = load((task.out / "cycles" / "00002" / "model.onnx").read_bytes())
    assert second.number == 2
    assert made.metadata.parent == outcome.sha256
    assert made.metadata.data["users"] == 120
    assert made.metadata.metrics["against"]["champion"] == outcome.sha256
    assert sum(read_manifest(task.archive).end["clickstream"]) == 1_440
    assert second.published == (not second.problems)
