import json
from pathlib import Path

import numpy as np
from click.testing import CliRunner

from training.cli import cli
from training.reproduce.lstm import EPOCHS, FEATURES, PUBLISHED_LOSS, draw_users, reproduce


def test_the_published_loss_is_reached_on_users_kept_apart(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["reproduce", "lstm", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    said = json.loads((tmp_path / "lstm.json").read_text())
    assert said["target"] == "discount_demand"
    assert (said["users"], said["epochs"], said["batch"]) == ({"train": 80, "test": 20}, 100, 32)
    assert said["loss"] <= PUBLISHED_LOSS == 0.0951
    assert said["loss"] <= said["loss_of_the_mean"] / 2
    for figure in ("loss", "published_loss", "loss_of_the_mean"):
        assert f"{said[figure]:.4f}" in result.output
    assert (tmp_path / "lstm.png").read_bytes().startswith(b"\x89PNG")


def test_a_target_that_has_nothing_to_do_with_the_features_is_not_learned() -> None:
    """The way there is checked too: what cannot be known costs at least what saying the mean costs."""
    users = draw_users(7)
    shuffled = users._replace(demand=np.random.default_rng(0).permutation(users.demand))
    found = reproduce(shuffled, 7, epochs=EPOCHS // 2).figures
    assert found["loss"] > 0.7 * found["loss_of_the_mean"]


def test_users_are_those_of_the_seed() -> None:
    users = draw_users(42)
    assert users.features.shape == (100, 10) == (100, len(FEATURES))
    assert np.isfinite(users.features).all()
    assert 0 < users.demand.min() < users.demand.max() < 0.5
    np.testing.assert_array_equal(users.demand, draw_users(42).demand)
    assert not np.array_equal(users.demand, draw_users(43).demand)
