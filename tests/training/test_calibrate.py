import numpy as np
import pytest

from training.calibrate import SLOPE_MAX, SLOPE_MIN, scaling
from training.metrics import log_loss


def drawn(slope: float, shift: float, n: int = 40_000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    logit = rng.normal(-2, 1.5, n)
    return logit, rng.random(n) < 1 / (1 + np.exp(-(slope * logit + shift)))


@pytest.mark.parametrize(("slope", "shift"), [(1, 0), (0.5, -0.4), (1.4, 0.7), (0.2, -1.5)])
def test_it_finds_what_the_labels_were_drawn_by(slope: float, shift: float) -> None:
    found = scaling(*drawn(slope, shift), 40_000)
    assert found.slope == pytest.approx(slope, abs=0.05)
    assert found.shift == pytest.approx(shift, abs=0.1)


@pytest.mark.parametrize(("slope", "bound"), [(-0.5, SLOPE_MIN), (4.0, SLOPE_MAX)])
def test_the_slope_stays_in_bounds_and_the_mean_right(slope: float, bound: float) -> None:
    logit, label = drawn(slope, 0.3)
    found = scaling(logit, label, len(label))
    assert found.slope == bound
    assert (1 / (1 + np.exp(-(found.slope * logit + found.shift)))).mean() == pytest.approx(label.mean(), abs=0.005)


def test_few_points_change_little() -> None:
    found = scaling(np.array([0.5, -0.5]), np.array([False, True]), 2)
    assert found.slope == pytest.approx(1, abs=0.1)
    assert found.shift == pytest.approx(0, abs=0.1)


def test_one_outcome_only_is_no_failure() -> None:
    found = scaling(np.linspace(-3, 3, 200), np.zeros(200, bool), 200)
    assert np.isfinite(found).all()


def test_it_lowers_the_log_loss() -> None:
    logit, label = drawn(0.4, -0.5)
    found = scaling(logit, label, len(label))
    before, after = (1 / (1 + np.exp(-z)) for z in (logit, found.slope * logit + found.shift))
    assert log_loss(label, after) < log_loss(label, before)


def test_points_of_few_users_count_as_those_users() -> None:
    """Users who differ from each other: a shift that 20 of them seem to ask for is mostly chance."""
    rng = np.random.default_rng(3)
    shifts = []
    for _ in range(20):
        logit = np.repeat(rng.normal(-2, 1, 20) + rng.normal(0, 1, 20), 200)
        label = rng.random(len(logit)) < 1 / (1 + np.exp(-np.repeat(rng.normal(-2, 1, 20), 200)))
        taken_for_many = scaling(logit, label, len(label))
        shifts.append((abs(scaling(logit, label, 20).shift), abs(taken_for_many.shift)))
    few, many = np.mean(shifts, axis=0)
    assert few < many / 2
