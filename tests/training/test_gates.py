import numpy as np
import pytest

from stream.core.features import FEATURES
from stream.scoring.model import load
from training.dataset import Split
from training.gates import Gate, against, by_chance, gates, gates_here, not_passed, protected
from training.metrics import Parity, Quality, calibration
from training.seeded import seeded_model

NAMES = [feature.name for feature in FEATURES]


def test_what_chance_alone_does_to_calibration() -> None:
    """Perfect probabilities: the error found is that of chance, on the mean over many draws."""
    rng = np.random.default_rng(0)
    score = rng.beta(1, 4, 300)
    found = [calibration(rng.random(300) < score, score) for _ in range(400)]
    assert np.mean([one.error for one in found]) == pytest.approx(by_chance(found[0]), rel=0.1)


@pytest.mark.parametrize(
    ("bad", "gate"),
    [
        ({"parity": Parity(1e-4, 0)}, "parity_one_step"),
        ({"parity": Parity(0, float("nan"))}, "parity_sequence"),
        ({"size_bytes": 1 << 30}, "size_bytes"),
        ({"test": Quality(0.7, 0.4, 0.1, 0.1, 0.3)}, "log_loss_below_base"),
        ({"features": [*NAMES, "age_years"]}, "protected_fields"),
        ({"calibrated": calibration(np.zeros(1_000, bool), np.full(1_000, 0.2))}, "calibration_error"),
    ],
)
def test_each_gate_stops_what_it_is_for(bad: dict[str, object], gate: str) -> None:
    good = {
        "parity": Parity(1e-7, 1e-7),
        "size_bytes": 100_000,
        "test": Quality(0.7, 0.2, 0.1, 0.1, 0.3),
        "calibrated": calibration(np.arange(1_000) % 5 == 0, np.full(1_000, 0.2)),
        "features": NAMES,
        "compared": None,
    }
    assert all(one.passed for one in gates(**good))  # type: ignore[arg-type]
    found = gates(**(good | bad))  # type: ignore[arg-type]
    assert [one.name for one in found if not one.passed] == [gate]


def test_protected_names() -> None:
    assert protected(NAMES) == []
    assert protected(["gender", "user_age", "page", "Religion", "sexual_orientation_code", "message"]) == [
        "gender", "user_age", "Religion", "sexual_orientation_code",
    ]  # fmt: skip


def test_a_champion_is_not_worse_than_itself_and_better_than_noise(split: Split) -> None:
    one, other = load(seeded_model(1)), load(seeded_model(2))
    same = against(one, one, split.test)
    assert (same.log_loss.value, same.log_loss.low, same.log_loss.high) == (0, 0, 0)
    there, back = against(one, other, split.test), against(other, one, split.test)
    assert there.log_loss.value == pytest.approx(-back.log_loss.value)
    assert there.log_loss.low == pytest.approx(-back.log_loss.high)
    assert there.champion == other.hex


def test_who_must_have_been_compared_with_whom() -> None:
    passed = {"gates": [{"name": "x", "figure": 0, "limit": 1, "passed": True}], "against": {"champion": "a" * 64}}
    assert not_passed(passed) == []
    assert not_passed(passed, "a" * 64) == []
    assert "compared with aaaa" in not_passed(passed, "b" * 64)[0]
    assert "no champion" in not_passed({**passed, "against": None}, "b" * 64)[0]


def test_gates_of_the_machine() -> None:
    found = gates_here(load(seeded_model(1)))
    assert [gate.name for gate in found] == ["golden_examples", "score_us"]
    assert found[0] == Gate("golden_examples", 0.0, 1e-5)
    assert found[1].figure > 0
