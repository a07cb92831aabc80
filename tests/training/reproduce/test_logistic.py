import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.linear_model import LogisticRegression

from training.cli import cli
from training.errors import TrainingError
from training.reproduce.logistic import PENALTY, descend, loss_and_gradient, read_sessions, reproduce


@pytest.fixture
def sessions_file(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    groups = ("Administrative", "Informational", "ProductRelated")
    pages_and_times = [name + end for name in groups for end in ("", "_Duration")]
    others = "BounceRates,ExitRates,PageValues,SpecialDay,Month,TrafficType,VisitorType,Weekend,Revenue"
    lines = [",".join([*pages_and_times, others])]
    for _ in range(600):
        pages = int(rng.integers(1, 90))
        bought = int(rng.random() < pages / 120)
        visitor = rng.choice(["Returning_Visitor", "New_Visitor"])
        month = rng.choice(["May", "Nov"])
        lines.append(f"0,0,0,0,{pages},{pages * 30},0,0.1,{99 * bought},0,{month},1,{visitor},FALSE,{bought}")
    path = tmp_path / "sessions.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def drawn() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(800, 6))
    return x, rng.random(800) < 1 / (1 + np.exp(1 - x @ np.array([1.0, -0.5, 0, 0, 0.3, 0])))


def test_the_gradient_is_that_of_the_loss(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    x, bought = drawn

    weight, bias, d = np.linspace(-1, 1, 6), 0.5, 1e-5
    _, slope, bias_slope = loss_and_gradient(x, bought, weight, bias)
    for place, to in enumerate(np.eye(6) * d):
        ahead, behind = (loss_and_gradient(x, bought, weight + way * to, bias)[0] for way in (1, -1))
        assert (ahead - behind) / (2 * d) == pytest.approx(slope[place], abs=1e-7)
    ahead, behind = (loss_and_gradient(x, bought, weight, bias + way * d)[0] for way in (1, -1))
    assert (ahead - behind) / (2 * d) == pytest.approx(bias_slope, abs=1e-7)


def test_descent_ends_where_another_solver_ends(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    x, bought = drawn
    found = descend(x, bought)
    other = LogisticRegression(C=1 / (PENALTY * len(x)), tol=1e-8).fit(x, bought)
    np.testing.assert_allclose(found.weight, other.coef_[0], atol=1e-3)
    assert found.bias == pytest.approx(other.intercept_[0], abs=1e-3)
    assert np.all(np.diff(found.losses) <= 0)


def test_what_leaks_is_not_a_feature(sessions_file: Path) -> None:
    sessions = read_sessions(str(sessions_file))
    assert not any("PageValues" in name for name in sessions.names)
    assert set(sessions.group) == {"activity", "frequency", "preference"}
    assert 0.5 < reproduce(sessions).figures["auc"]["value"] < 0.9  # with PageValues it would be 1


def test_wrong_files_are_refused_by_line_and_column(sessions_file: Path, tmp_path: Path) -> None:
    text = sessions_file.read_text().splitlines()
    for there, wrong, said in (
        (",0.1,", ",nan,", r"line 3, column ExitRates"),
        (text[2], text[2][:-1] + "maybe", r"line 3, column Revenue: is 'maybe'"),
    ):
        path = tmp_path / "wrong.csv"
        path.write_text("\n".join([*text[:2], text[2].replace(there, wrong), *text[3:]]))
        with pytest.raises(TrainingError, match=said):
            read_sessions(str(path))
        result = CliRunner().invoke(cli, ["reproduce", "logistic", "--data", str(path), "--out", str(tmp_path / "o")])
        assert result.exit_code == 1
        assert not (tmp_path / "o").exists()


def test_on_the_recorded_sessions(shared_data: Path, tmp_path: Path) -> None:
    data = str(shared_data / "uci_online_shoppers.csv.gz")
    result = CliRunner().invoke(cli, ["reproduce", "logistic", "--data", data, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    said = json.loads((tmp_path / "logistic.json").read_text())
    assert said["at_half"]["accuracy"] >= said["majority"]["accuracy"]
    assert said["at_half"]["accuracy"] == pytest.approx(said["published_accuracy"], abs=0.02)
    assert said["at_threshold"]["f1"] > said["always_yes"]["f1"] + 0.1
    assert said["auc"]["ci"][0] > 0.7
    assert said["log_loss"]["value"] < said["log_loss_of_the_rate"]
    assert (tmp_path / "logistic.png").read_bytes().startswith(b"\x89PNG")
