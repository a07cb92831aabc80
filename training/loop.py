"""The loop: archive what is new, train, gate, publish; over and over, by itself.

A *cycle* is one round of it. What it works on is written down before it begins (`cycle.json`: how far the archive went,
the champion, the seed), and every stage leaves its result whole or not at all. So a run that was killed, at any moment,
goes on with the same inputs, and the same inputs give the same file bytes.

    1. ingest      the archive takes in what is new in the topics
    2. open        cycle.json: the inputs
    3. train       cycles/00001/model.onnx and its figures; weights.npz, from where the next cycle starts
    4. variants    served.onnx: the smallest of float32, float16 and int8 that is as good; variants.json, the table
    5. publish     if it passes every gate, and the champion is still the one that it was compared with
    6. close       cycle.json moves to the cycle's folder
"""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stream.scoring.model import Model, load
from training.archive import Manifest, ingest, read_manifest
from training.dataset import Built, split_by_user
from training.files import write_json, write_whole
from training.fit import Plan, Start
from training.gates import gates_here, gates_said, not_passed
from training.parts import Where, of_archive
from training.prepare import Standard
from training.publish import Register, retrain_asked
from training.run import make, write
from training.variants import best, variants


class Task(NamedTuple):
    """What the loop is to do."""

    bootstrap: str
    topic_prefix: str
    archive: Path
    out: Path
    horizon_ms: int
    architecture: str
    plan: Plan
    currency: str


class Outcome(NamedTuple):
    """How a cycle ended."""

    number: int
    sha256: str
    """Of the file that it made."""
    published: bool
    problems: list[str]
    """Gates not passed."""


def cycle(task: Task, now_ms: int, on_stage: Callable[[str], None] = lambda _: None) -> Outcome:
    """One cycle, or what is left of one that was killed.

    Args:
        task: what to do.
        now_ms: present time, when something is published.
        on_stage: told what begins.

    Raises:
        TrainingError: the archive is not enough to learn from, or not whole.
        SetupError: no broker answers.
    """
    for part in (*task.out.glob(".*.part"), *task.out.glob("cycles/*/.*.part")):
        part.unlink()  # half-written, of a run that was killed
    opened = task.out / "cycle.json"
    if not opened.exists():
        # 1.
        on_stage("ingest")
        ingest(task.bootstrap, task.topic_prefix, task.archive, lambda _done, _total: None)
        # 2.
        on_stage("open")
        register = Register(task.bootstrap, task.topic_prefix + "models")
        inputs = {
            "number": 1 + len(list(task.out.glob("cycles/*/cycle.json"))),
            "champion": register.in_force(),
            "archive": read_manifest(task.archive)._asdict(),
            "plan": task.plan._asdict(),
            "horizon_ms": task.horizon_ms,
            "architecture": task.architecture,
        }
        write_json(opened, inputs)
    said: dict[str, Any] = json.loads(opened.read_text())
    folder = task.out / "cycles" / f"{said['number']:05d}"
    built: list[Built] = []  # absorbed when it is needed, once
    # 3.
    if not (folder / "model.onnx").exists():
        on_stage("train")
        register = Register(task.bootstrap, task.topic_prefix + "models")
        champion = _champion(register, task.out, said["champion"])
        start = _start(task.out, said["champion"], said["architecture"])
        made = make(
            _built(task, said, built),
            said["architecture"],
            Plan(**said["plan"]),
            champion=champion,
            start=start,
            parent=said["champion"] if start is not None else None,
        )
        write_whole(folder / "weights.npz", _weights_bytes(made.start))
        write(made, folder)
    # 4.
    if not (folder / "served.onnx").exists():
        on_stage("variants")
        test = split_by_user(_built(task, said, built).dataset).test
        found = variants((folder / "model.onnx").read_bytes(), test)
        served = best(found)
        write_json(folder / "variants.json", {"variants": [one.said() for one in found], "served": served.name})
        write_whole(folder / "served.onnx", served.data)
    # 5.
    on_stage("publish")
    outcome = _publish(task, said, folder, now_ms)
    # 6.
    on_stage("close")
    write_json(folder / "outcome.json", outcome._asdict())
    opened.replace(folder / "cycle.json")
    return outcome


def wanted(task: Task) -> str:
    """SHA-256 of the champion where workers ask for its successor before its time; else ""."""
    register = Register(task.bootstrap, task.topic_prefix + "models")
    return "" if retrain_asked(register) is None else register.in_force()


def _built(task: Task, said: dict[str, Any], made: list[Built]) -> Built:
    if not made:
        manifest = Manifest(**said["archive"])
        built, _ = of_archive(
            task.archive, task.currency, said["horizon_ms"], Where(), lambda _done, _total: None, manifest
        )
        made.append(built)
    return made[0]


def _champion(register: Register, out: Path, sha256_hex: str) -> Model | None:
    """The champion of when the cycle began: from the topic, else from the cycle that made it."""
    if not sha256_hex:
        return None
    if sha256_hex in register.known():
        return load(register.file(sha256_hex))
    for path in out.glob("cycles/*/served.onnx"):
        model = load(path.read_bytes())
        if model.hex == sha256_hex:
            return model
    return None


def _publish(task: Task, said: dict[str, Any], folder: Path, now_ms: int) -> Outcome:
    data = (folder / "served.onnx").read_bytes()
    model = load(data)
    register = Register(task.bootstrap, task.topic_prefix + "models")
    in_force = register.in_force()
    if in_force == model.hex:  # a run that was killed had published it
        return Outcome(said["number"], model.hex, published=True, problems=[])
    here = gates_here(model)
    problems = not_passed(model.metadata.metrics, in_force)
    problems += [gate.said for gate in here if not gate.passed]
    write_json(folder / "gates.json", {"gates": [*model.metadata.metrics["gates"], *gates_said(here)]})
    if not problems:
        register.put(data)
        register.promote(model.hex, now_ms)
    return Outcome(said["number"], model.hex, published=not problems, problems=problems)


# --- from where the next one starts


def _weights_bytes(start: Start) -> bytes:
    stored = io.BytesIO()
    np.savez(stored, *start.weights, mean=start.standard.mean, variance=start.standard.variance)
    return stored.getvalue()


def _start(out: Path, champion: str, architecture: str) -> Start | None:
    """Weights of the cycle that made the champion; None where no cycle here did, or it is of another architecture."""
    for path in out.glob("cycles/*/outcome.json"):
        said = json.loads((path.parent / "cycle.json").read_text()) if (path.parent / "cycle.json").exists() else {}
        if json.loads(path.read_text())["sha256"] == champion and said.get("architecture") == architecture:
            with np.load(path.parent / "weights.npz") as stored:
                weights = [stored[f"arr_{at}"] for at in range(len(stored.files) - 2)]
                return Start(Standard(stored["mean"], stored["variance"]), weights)
    return None
