"""From events to a model file: the whole path, once."""

import dataclasses
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.core.features import FEATURES
from stream.core.row import N_FEATURES
from stream.scoring.artefact import Metadata, features_hash
from stream.scoring.drift import reference
from stream.scoring.model import Model, load
from training.arms import Arms, answered, by_arm, require_arms, with_arms
from training.artefact import golden_examples, with_metadata
from training.dataset import Built, Dataset, Split, joined, split_by_user
from training.depth import depth_figures, depths_known, require_depths
from training.errors import TrainingError
from training.evaluate import evaluation, judge
from training.export import export, parity
from training.files import write_json, write_whole
from training.fit import Epoch, Fitted, Plan, Start, fit
from training.gates import Gate, against, gates, gates_said, of_export
from training.metrics import Parity, calibration, quality
from training.models.network import Network
from training.models.registry import BUILDERS, DEPTH_BUILDERS
from training.serve import agreement, carried
from training.share import ALONE, Share
from training.windows import Windows, fill
from training.yardsticks import Beside, beside, beside_bytes

ARMS = ("none",)
N_GOLDEN, T_GOLDEN = 8, 16
T_PARITY = 64


class Made(NamedTuple):
    """A model file, and what is known of it."""

    data: bytes
    model: Model
    metrics: dict[str, Any]
    evaluation: dict[str, Any]
    """On users never seen in training, as `python -m training evaluate` says it."""
    beside: Beside
    start: Start
    """From where a successor may start."""


def make(
    built: Built,
    architecture: str,
    plan: Plan,
    on_stage: Callable[[str], None] = lambda _: None,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
    champion: Model | None = None,
    arms: Arms | None = None,
    start: Start | None = None,
    parent: str | None = None,
    share: Share = ALONE,
) -> Made:
    """Train on a data set and make the file.

    1. Users split three ways.
    2. Fit.
    3. Export, and prove that the export is the network.
    4. Judge what a worker would score, on users never seen in training.
    5. Metadata, golden examples; the file passes the worker's own verification, or there is none.

    Args:
        built: steps and labels.
        architecture: a name in `BUILDERS`.
        plan: how long and how hard to train.
        on_stage: told what begins.
        on_epoch: told after each epoch.
        champion: in force, to be compared with on the users that the figures are taken from; None: there is none.
        arms: to answer for; None: a purchase without an offer only.
        start: weights to start from; None: drawn ones.
        parent: SHA-256 of the model that they are of.
        share: of the fit, where several workers do it; each makes the same file.

    Raises:
        TrainingError: the log is not enough to learn from.
        ModelRefused: the file is not fit for a worker.
    """
    started_s = time.monotonic()
    # 1.
    dataset = built.dataset
    if arms is not None:
        dataset = with_arms(dataset, arms)
    split = split_by_user(dataset)
    if arms is not None:
        require_arms(split.train, arms.names)
    asks_depth = architecture in DEPTH_BUILDERS
    if asks_depth:
        if arms is not None:
            raise TrainingError(f"{architecture} answers with a depth, not for each arm")
        require_depths(split.train, split.test)
    # 2.
    on_stage("fitting")
    fitted = fit(BUILDERS[architecture], split.train, split.valid, plan, on_epoch, start, share)
    # 3.
    on_stage("exporting")
    network = fitted.network
    bare = export(network)
    drawn = _drawn_histories(split.train, plan.seed)
    same = parity(network, bare, drawn)
    # 4., 5.
    on_stage("judging")
    metadata = Metadata(
        kind=network.kind,
        architecture=architecture,
        arms=ARMS if arms is None else arms.names,
        horizon_ms=built.horizon_ms,
        state=network.state,
        golden=golden_examples(bare, drawn[:N_GOLDEN, :T_GOLDEN], network.state),
        data={
            "from_ms": int(dataset.time_ms.min()),
            "to_ms": int(dataset.time_ms.max()),
            "events": built.events,
            "users": built.users,
        },
        metrics={},
        parent=parent,
        commit=_commit(),
        features=tuple(feature.name for feature in FEATURES),
        features_hash=features_hash(),
        answers=network.answers,
    )
    untold = with_metadata(bare, metadata)
    first = load(untold)
    scores = carried(first, split.test)
    of = _Tried(first, split, scores, same, len(untold), fitted)
    metrics = _depth_metrics(of) if asks_depth else _metrics(of, champion)
    metrics |= {"train_users": len(split.train.user) + len(split.valid.user), "seed": plan.seed}
    seen = {**metadata.data, "reference": reference(joined(split.train, split.valid).steps, scores[:, 0])}
    data = with_metadata(bare, dataclasses.replace(metadata, metrics=metrics, data=seen))
    model = load(data)
    kept = beside(joined(split.train, split.valid), model.hex, plan.seed)
    found = metrics["depth"] if asks_depth else evaluation(model, judge(model, split.test, kept), kept)
    # Not in the file's metadata: how long it took and how it went differ from run to run.
    history = [{"loss": epoch.loss, "valid_loss": epoch.valid_loss} for epoch in fitted.history]
    metrics |= {"wall_s": round(time.monotonic() - started_s, 1), "history": history}
    return Made(data, model, metrics, found, kept, fitted.start)


class _Tried(NamedTuple):
    """A model before its figures are known."""

    model: Model
    split: Split
    scores: NDArray[np.float32]
    """[N, A], of the test users, scored as a worker scores them."""
    same: Parity
    size_bytes: int
    fitted: Fitted


def _metrics(of: _Tried, champion: Model | None) -> dict[str, Any]:
    """What the metadata say of quality: on test users."""
    test, metadata = of.split.test, of.model.metadata
    label, score = answered(test, of.scores)
    expected_rate = float(answered(of.split.train, of.split.train.shown)[0].mean())
    judged, calibrated = quality(label, score, expected_rate), calibration(label, score)
    arms = {} if len(metadata.arms) == 1 else {"arms": by_arm(test, of.scores, metadata.arms)}
    compared = None if champion is None else against(of.model, champion, test)
    return {
        **judged._asdict(),
        **arms,
        "test_users": len(test.user),
        "test_decision_points": len(label),
        **_of_any(of),
        "against": None if compared is None else compared.said(),
        "gates": gates_said(gates(of.same, of.size_bytes, judged, calibrated, metadata.features, compared)),
    }


def _depth_metrics(of: _Tried) -> dict[str, Any]:
    """The same of a model that answers with a depth."""
    train, test = of.split.train, of.split.test
    found = depth_figures(test, of.scores[:, 0], float(train.depth[depths_known(train)].mean()))
    better = Gate("mse_below_base", found["mse"]["value"], found["base_mse"]["value"])
    return {
        "depth": found,
        "test_users": found["users"],
        "test_decision_points": found["events"],
        **_of_any(of),
        "gates": gates_said([*of_export(of.same, of.size_bytes, of.model.metadata.features), better]),
    }


def _of_any(of: _Tried) -> dict[str, Any]:
    """What is said of a model whatever it answers."""
    fitted, test = of.fitted, of.split.test
    agreed = agreement(of.model, test, of.scores)
    return {
        "carried_against_rebuilt": None if agreed is None else agreed._asdict(),
        "rounding": rounding(fitted.network, test, of.scores),
        "epochs": len(fitted.history),
        "best_epoch": fitted.best.number,
        "train_log_loss": fitted.best.loss,
        "valid_log_loss": fitted.best.valid_loss,
        "scaling": fitted.scaling._asdict(),
        "threshold": None if np.isnan(fitted.threshold) else fitted.threshold,
    }


def rounding(network: Network, test: Dataset, scores: NDArray[np.float32]) -> dict[str, float]:
    """What rounding the state to float16 after each step changes: the artefact's scores against the network's.

    Args:
        network: computes whole histories in float32, up to T_PARITY steps of each.
        test: histories.
        scores: what the artefact says of them, [N, A].
    """
    starts = test.starts[:-1]
    ends = starts + np.minimum(np.diff(test.starts), T_PARITY)
    batch = fill(test, Windows(starts, starts, ends), T_PARITY)
    whole = network.sequence.predict(batch.x, verbose=0)
    inside = np.arange(T_PARITY) < (ends - starts)[:, None]
    at = (starts[:, None] + np.arange(T_PARITY))[inside]
    difference = np.abs(whole[inside] - scores[at])
    return {"median": float(np.median(difference)), "max": float(difference.max())}


def _drawn_histories(train: Dataset, seed: int) -> NDArray[np.uint8]:
    """Histories that nobody had, uint8 [16, T_PARITY, F]: each feature drawn on its own from the training steps.

    They end up in the model file as golden examples, and a file that outlives an erasure must hold nobody's steps.
    """
    rng = np.random.default_rng(seed)
    at = rng.integers(0, len(train.steps), (2 * N_GOLDEN, T_PARITY, N_FEATURES))
    return train.steps[at, np.arange(N_FEATURES)]


def _commit() -> str:
    """The commit of the code that runs, "" where it is no git checkout."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def write(made: Made, out: Path) -> None:
    """Write a model and what belongs to it into a folder; each file appears whole or not at all, the model last.

    Raises:
        OSError: the folder cannot be written to.
    """
    said = {"sha256": made.model.hex, "architecture": made.model.metadata.architecture, **made.metrics}
    write_json(out / "metrics.json", said)
    write_json(out / "evaluation.json", made.evaluation)
    write_whole(out / "training.npz", beside_bytes(made.beside))
    write_whole(out / "model.onnx", made.data)
