"""What a model must pass before it is published, each with its figure.

Those that need data are judged where the model is made, and travel in the file. Those that depend on the machine, or on
what is in force, are judged when it is published.
"""

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from stream.core.features import PROTECTED
from stream.core.row import N_FEATURES, N_STEPS, new_rows
from stream.scoring.artefact import MODEL_BYTES_MAX
from stream.scoring.model import GOLDEN_TOLERANCE, Model, golden_difference
from training.dataset import Dataset
from training.metrics import Calibration, Figure, Parity, Quality, differences, under_draws, user_draws
from training.serve import carried

PARITY_MAX = 1e-5
CALIBRATION_ERROR_MAX = 0.05
"""Beyond what chance alone would give."""

SCORE_US_MAX = 50.0
"""A row, a thousand in a batch: half of what a worker rolls a model back for."""

NOT_WORSE = "not_worse_than_champion"
N_DRAWS = 500

_SPEED_ROWS = 1_000
_SPEED_ROUNDS = 20


class Gate(NamedTuple):
    """One condition: passed when `figure` is at most `limit`."""

    name: str
    figure: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether it holds; not a number never does."""
        return self.figure <= self.limit

    @property
    def said(self) -> str:
        """For people, where it does not hold."""
        return f"{self.name}: {self.figure:g}, limit {self.limit:g}"


class Against(NamedTuple):
    """A model beside the champion, on the same decision points."""

    champion: str
    """SHA-256."""
    log_loss: Figure
    """The model's minus the champion's; the interval is paired over users."""
    auc: Figure

    def said(self) -> dict[str, Any]:
        """As metadata and metrics.json hold it."""
        return {"champion": self.champion, "log_loss": self.log_loss.said(), "auc": self.auc.said()}


def against(model: Model, champion: Model, test: Dataset) -> Against:
    """Compare on users that neither was trained on: sides are by a hash of the user, the same in every run.

    Args:
        model: the new one.
        champion: the one in force.
        test: decision points of both outcomes.
    """
    known = test.known
    user = np.repeat(np.arange(len(test.user)), np.diff(test.starts))[known]
    draws = user_draws(len(test.user), N_DRAWS, 0)
    ours, theirs = (
        under_draws(test.label[known], carried(one, test)[known, 0].astype(np.float64), user, draws)
        for one in (model, champion)
    )
    found = differences(ours, theirs)
    return Against(champion.hex, found["log_loss"], found["auc"])


def gates(
    parity: Parity,
    size_bytes: int,
    test: Quality,
    calibrated: Calibration,
    features: Sequence[str],
    compared: Against | None,
) -> list[Gate]:
    """What a file says of itself. Bits that depend on the batch are no gate: such a file is not made at all.

    Args:
        parity: of the network and its export.
        size_bytes: of the file.
        test: on users never seen.
        calibrated: on them.
        features: names of what it sees.
        compared: with the champion; None: there is none.
    """
    found = [
        *of_export(parity, size_bytes, features),
        Gate("log_loss_below_base", test.log_loss, test.base_log_loss),
        Gate("calibration_error", calibrated.error, CALIBRATION_ERROR_MAX + by_chance(calibrated)),
    ]
    if compared is not None:  # worse beyond chance: the whole interval of what it loses more is above zero
        found.append(Gate(NOT_WORSE, compared.log_loss.low, 0.0))
    return found


def of_export(parity: Parity, size_bytes: int, features: Sequence[str]) -> list[Gate]:
    """Those that hold whatever the scores mean; arguments as of `gates`."""
    return [
        Gate("parity_one_step", parity.one_step, PARITY_MAX),
        Gate("parity_sequence", parity.sequence, PARITY_MAX),
        Gate("size_bytes", size_bytes, MODEL_BYTES_MAX),
        Gate("protected_fields", len(protected(features)), 0),
    ]


def by_chance(calibrated: Calibration) -> float:
    """The calibration error that a perfect model would have on so few decision points.

    The mean absolute deviation of a rate is sqrt(2 / pi) times its standard deviation.
    """
    deviation = np.sqrt(2 / np.pi * calibrated.score * (1 - calibrated.score) / calibrated.n)
    return float(np.average(deviation, weights=calibrated.n))


def protected(features: Sequence[str]) -> list[str]:
    """Names of features that tell of a protected attribute."""
    telling = re.compile(rf"(^|[^a-z])({'|'.join(PROTECTED)})([^a-z]|$)")
    return [name for name in features if telling.search(name.lower())]


def gates_here(model: Model) -> list[Gate]:
    """What depends on the machine: golden examples, and the time of scoring one row of a thousand."""
    return [
        Gate("golden_examples", golden_difference(model), GOLDEN_TOLERANCE),
        Gate("score_us", score_us(model), SCORE_US_MAX),
    ]


def score_us(model: Model) -> float:
    """Microseconds a row, the best of some batches: what the model costs, and not what else the machine does."""
    rng = np.random.default_rng(0)
    rows = new_rows(_SPEED_ROWS)
    rows["model"], rows["step_count"] = model.hash, N_STEPS
    rows["steps"] = rng.integers(0, 256, rows["steps"].shape, np.uint8)
    steps = rng.integers(0, 256, (_SPEED_ROWS, N_FEATURES), np.uint8)
    times_s = []
    for _ in range(_SPEED_ROUNDS):
        began_s = time.perf_counter()
        model.score(steps, rows)
        times_s.append(time.perf_counter() - began_s)
    return min(times_s) / _SPEED_ROWS * 1e6


def gates_said(found: list[Gate]) -> list[dict[str, Any]]:
    """Gates as metadata and metrics.json hold them."""
    return [{**gate._asdict(), "passed": gate.passed} for gate in found]


def gates_of(metrics: Mapping[str, Any]) -> list[Gate]:
    """The gates that a file's metadata tell of; none where they tell of none."""
    return [Gate(said["name"], said["figure"], said["limit"]) for said in metrics.get("gates") or []]


def not_passed(metrics: Mapping[str, Any], champion: str = "") -> list[str]:
    """Which gates a file says it did not pass, in words; a file that says nothing about gates passed none.

    Args:
        metrics: of the file's metadata.
        champion: SHA-256 of the model in force, which it must have been compared with; "": there is none.
    """
    found = gates_of(metrics)
    if not found:
        return ["its metadata say nothing about gates"]
    problems = [gate.said for gate in found if not gate.passed]
    compared = (metrics.get("against") or {}).get("champion", "")
    if champion and compared != champion:
        with_whom = f"with {compared[:16]}" if compared else "with no champion"
        problems.append(
            f"{NOT_WORSE}: compared {with_whom}, and {champion[:16]} is in force: make it with --champion, or name "
            "events to compare them on by --events"
        )
    return problems
