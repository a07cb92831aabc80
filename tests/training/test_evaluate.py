import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from stream.scoring.model import Model
from training.cli import cli
from training.dataset import Dataset, of_users
from training.errors import TrainingError
from training.evaluate import EVENTS_SEEN, evaluation, judge, n_draws, unseen
from training.metrics import auc
from training.serve import carried
from training.yardsticks import Beside, beside, beside_bytes, crossed_scores, read_beside

HOUR_MS = 3_600_000


@pytest.fixture(scope="module")
def kept(dataset: Dataset) -> Beside:
    return beside(of_users(dataset, np.arange(len(dataset.user)) < 60), "00" * 32, 1)


@pytest.fixture(scope="module")
def found(model: Model, dataset: Dataset) -> dict[str, Any]:
    return evaluation(model, judge(model, dataset, None), None)


def test_figures_are_those_of_the_known_decision_points(model: Model, dataset: Dataset, found: dict[str, Any]) -> None:
    known = dataset.known
    assert found["events"] == known.sum()
    assert found["users"] == len(dataset.user)
    assert found["base_rate"] == dataset.label[known].mean()
    assert found["auc"]["value"] == pytest.approx(auc(dataset.label[known], carried(model, dataset)[known, 0]))
    for name in ("auc", "pr_auc", "log_loss", "brier"):
        low, high = found[name]["ci"]
        assert low < found[name]["value"] < high
    json.dumps(found, allow_nan=False)


def test_parts_by_events_seen_are_the_whole(dataset: Dataset, found: dict[str, Any]) -> None:
    parts = found["by_events_seen"]
    assert list(parts) == [str(first) for first in EVENTS_SEEN]
    assert sum(part["events"] for part in parts.values()) == dataset.known.sum()
    firsts = dataset.starts[:-1]
    assert parts["1"]["events"] == dataset.known[firsts].sum()
    assert parts["1"]["base_rate"] == dataset.label[firsts][dataset.known[firsts]].mean()


def test_users_of_the_training_are_left_out(dataset: Dataset, kept: Beside) -> None:
    rest = unseen(dataset, kept)
    assert not set(rest.user.tolist()) & set(kept.user.tolist())
    assert len(rest.user) == len(dataset.user) - 60
    with pytest.raises(TrainingError, match="was trained on all of these 60 users"):
        unseen(of_users(dataset, np.arange(len(dataset.user)) < 60), kept)


def test_one_class_only_is_refused(dataset: Dataset) -> None:
    nobody = dataset._replace(label=np.zeros_like(dataset.label))
    with pytest.raises(TrainingError, match="both outcomes"):
        unseen(nobody, None)


def test_yardsticks_find_what_aggregates_say_and_see_no_future(dataset: Dataset) -> None:
    """Labels that an aggregate decides are found; labels drawn anew are not, whoever the yardstick was fitted to."""
    rng = np.random.default_rng(0)
    easy = dataset._replace(label=dataset.steps[:, 5] > np.median(dataset.steps[:, 5]))
    drawn = dataset._replace(label=rng.random(len(dataset.label)) < 0.3)
    for case, low, high, labelled in (("easy", 0.97, 1.0, easy), ("drawn", 0.45, 0.55, drawn)):
        scores = {name: score[labelled.known] for name, score in crossed_scores(labelled, 0).items()}
        assert scores.keys() == {"logistic", "trees"}
        for yardstick, score in scores.items():
            assert low <= auc(labelled.label[labelled.known], score) <= high, (case, yardstick)


def test_what_lies_beside_a_model_is_read_back(tmp_path: Path, kept: Beside) -> None:
    path = tmp_path / "training.npz"
    assert read_beside(path, kept.sha256) is None
    path.write_bytes(beside_bytes(kept))
    found = read_beside(path, kept.sha256)
    assert found is not None
    for one, other in zip(found, kept, strict=True):
        np.testing.assert_array_equal(one, other)
    assert read_beside(path, "11" * 32) is None
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TrainingError, match=r"training\.npz"):
        read_beside(path, kept.sha256)


def test_many_points_take_fewer_draws() -> None:
    assert n_draws(1_000) == 1_000
    assert n_draws(1_000_000) == 200
    assert n_draws(10**9) == 100


def shop(path: Path, users: range) -> Path:
    """Every second user buys ten minutes after a cart, and nobody else does."""
    lines = []
    for user in users:
        for turn in range(12):
            t = 1_511_600_000 + 37 * user + 7_200 * turn
            kind = "cart" if (user + turn) % 3 == 0 else "pv"
            lines.append(f"{user},{turn},{turn % 4},{kind},{t}")
            if kind == "cart" and user % 2:
                lines.append(f"{user},{turn},{turn % 4},buy,{t + 600}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_run_then_evaluate_on_users_never_seen(tmp_path: Path) -> None:
    def call(*args: str | Path) -> None:
        result = CliRunner().invoke(cli, [str(arg) for arg in args])
        assert result.exit_code == 0, result.output

    source = ("--format", "taobao", "--events")
    log, others, out = shop(tmp_path / "a.csv", range(60)), shop(tmp_path / "b.csv", range(40, 100)), tmp_path / "out"
    call("run", *source, log, "--out", out, "--epochs", "2")
    said = {}
    for name, events in (("same", log), ("others", others)):
        call("evaluate", "--model", out / "model.onnx", *source, events, "--json", tmp_path / f"{name}.json")
        said[name] = json.loads((tmp_path / f"{name}.json").read_text())
    # On the log that it was trained on, those that were kept apart are left: what `run` itself wrote.
    assert said["same"] == json.loads((out / "evaluation.json").read_text())
    assert {"auc", "pr_auc", "log_loss", "brier", "events", "users", "base_rate"} <= said["others"].keys()
    assert 40 <= said["others"]["users"] < 60
    assert said["others"]["baselines"]["fitted_to"] == "the users that the model was trained on"
    # Without what lies beside it nobody is known, and everybody is judged.
    (out / "training.npz").unlink()
    call("evaluate", "--model", out / "model.onnx", *source, others, "--json", tmp_path / "all.json")
    everybody = json.loads((tmp_path / "all.json").read_text())
    assert everybody["users"] == 60
    assert everybody["users_seen_in_training"].startswith("not known")
