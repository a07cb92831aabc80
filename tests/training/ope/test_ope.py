import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from training.cli import cli
from training.errors import TrainingError
from training.ope.estimators import Log, best_shrinkage, check, judge, shrunk_weights
from training.ope.expected import expected_rewards
from training.ope.logs import of_trial, open_bandit
from training.uplift.learners import encoder
from training.uplift.trial import read_trial


def made_log(seed: int, n: int = 6_000, explore: float = 0.3) -> tuple[Log, float]:
    """A log of a policy that mostly gives arm 1 where x is high, and the true value of giving arm 1 where x is low."""
    rng = np.random.default_rng(seed)
    x = rng.random(n)
    truth = np.column_stack([0.1 + 0 * x, 0.1 + 0.3 * (x < 0.5)])
    p_one = np.where(x > 0.5, 1 - explore / 2, explore / 2)
    arm = (rng.random(n) < p_one).astype(np.int64)
    reward = (rng.random(n) < truth[np.arange(n), arm]).astype(np.float64)
    target = np.eye(2)[(x < 0.5).astype(np.int64)]
    log = Log(("none", "ten"), arm, reward, np.where(arm == 1, p_one, 1 - p_one), target, np.arange(n), x[:, None])
    return log, 0.1 + 0.3 * 0.5


def test_estimates_computed_by_hand() -> None:
    log = Log(
        arms=("none", "ten"),
        arm=np.array([0, 1, 1, 0]),
        reward=np.array([0.0, 1.0, 0.0, 1.0]),
        propensity=np.array([0.5, 0.25, 0.5, 0.5]),
        target=np.array([[0.0, 1.0], [0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]),
        user=np.arange(4),
        x=np.empty((4, 0)),
    )
    expected = np.full((4, 2), [0.5, 0.75])
    judged = judge(log, expected)
    # The weights are 0, 4, 1 and 2.
    value = {name: figure.value for name, figure in judged.estimates.items()}
    assert value["ips"] == pytest.approx((4 + 2) / 4)
    assert value["snips"] == pytest.approx(6 / 7)
    assert value["dm"] == pytest.approx((0.75 + 0.75 + 0.625 + 0.5) / 4)
    assert value["dr"] == pytest.approx((0.75 + 0.75 + 0.625 + 0.5 + 4 * 0.25 - 0.75 + 2 * 0.5) / 4)
    assert judged.effective_size == pytest.approx(49 / 21)
    assert judged.largest_weight == 4
    assert any("thin support" in warning for warning in judged.warnings)


def test_shrinkage_goes_from_dr_to_dm() -> None:
    w = np.array([0.5, 1.0, 10.0])
    assert shrunk_weights(w, float("inf")).tolist() == w.tolist()
    assert shrunk_weights(w, 0.0).tolist() == [0, 0, 0]
    assert shrunk_weights(w, 4.0) == pytest.approx([2 / 4.25, 4 / 5, 40 / 104])
    assert np.isinf(best_shrinkage(np.ones(1_000), np.zeros(1_000), np.ones(1_000)))  # no variance: nothing to gain


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """100 logs: 95 % intervals miss a tenth of the time at most; DM's does not know its model's error."""
    missed = dict.fromkeys(("ips", "snips", "dr", "dr_shrunk"), 0)
    for seed in range(100):
        log, truth = made_log(seed, 2_000)
        judged = judge(log, np.full((len(log.arm), 2), [0.1, 0.25]))
        for name in missed:
            missed[name] += not judged.estimates[name].low < truth < judged.estimates[name].high
    assert max(missed.values()) <= 10, missed


def test_a_model_of_rewards_narrows_the_interval_and_every_estimate_finds_the_truth() -> None:
    log, truth = made_log(1)
    judged = judge(log, expected_rewards(log, 1))
    for name, figure in judged.estimates.items():
        assert figure.value == pytest.approx(truth, abs=0.05), name
    width = {name: figure.high - figure.low for name, figure in judged.estimates.items()}
    assert width["dr"] < width["ips"]
    assert judged.warnings == []


def test_users_are_drawn_whole() -> None:
    """The same decision 50 times over tells no more: the interval stays as wide."""
    log, _ = made_log(2, 400)
    again = np.tile(np.arange(400), 50)
    repeated = Log(
        log.arms, log.arm[again], log.reward[again], log.propensity[again], log.target[again], again, log.x[again]
    )
    flat = np.full((400, 2), 0.2)
    once, more = judge(log, flat).estimates["ips"], judge(repeated, flat[again]).estimates["ips"]
    assert more.high - more.low == pytest.approx(once.high - once.low, rel=0.1)


def test_a_policy_that_the_log_never_followed_is_warned_of() -> None:
    log, _ = made_log(3, 500)
    never = Log(
        log.arms, np.zeros(500, np.int64), log.reward, np.ones(500), np.eye(2)[np.ones(500, np.int64)], log.user, log.x
    )
    judged = judge(never, np.zeros((500, 2)))
    assert "nothing is known" in judged.warnings[0]
    assert judged.said()["snips"]["value"] is None
    half = Log(log.arms, log.arm, log.reward, log.propensity / 2, log.target, log.user, log.x)
    assert any("mean weight is" in warning for warning in judge(half, np.zeros((500, 2))).warnings)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"propensity": np.zeros(500)}, "decision 1: propensity 0"),
        ({"propensity": np.full(500, np.nan)}, "decision 1: propensity nan"),
        ({"target": np.full((500, 2), 0.7)}, "do not sum to 1"),
        ({"arm": np.empty(0, np.int64)}, "no decisions"),
    ],
)
def test_logs_that_are_none_are_refused(change: dict[str, Any], said: str) -> None:
    log, _ = made_log(4, 500)
    with pytest.raises(TrainingError, match=said):
        check(Log(**{**log.__dict__, **change}))


def test_the_thompson_policy_from_the_uniform_log(shared_data: Path) -> None:
    """Its own clicks are 0.0042 of 10,000 impressions; the log of the uniform policy says so too."""
    log = open_bandit(
        str(shared_data / "open_bandit_random_all.csv.gz"), str(shared_data / "open_bandit_bts_all.csv.gz")
    )
    check(log)
    judged = judge(log, expected_rewards(log, 1))
    for name in ("ips", "snips", "dr", "dr_shrunk"):
        assert judged.estimates[name].low < 0.0042 < judged.estimates[name].high, name
    assert judged.estimates["dm"].value == pytest.approx(0.0042, abs=0.0015)
    assert judged.largest_weight < 80  # the uniform policy shows each of 80 items


def test_hillstrom_seen_through_a_log_that_was_not_uniform(shared_data: Path) -> None:
    """The truth is the trial's own mean; the log is a part of it, drawn so that recent customers mostly got nothing."""
    trial = read_trial(str(shared_data / "hillstrom.csv.gz"), "hillstrom")
    visit, mens = trial.outcome.astype(np.float64), trial.arms.index("mens")
    truth = float(visit[trial.arm == mens].mean())
    rng = np.random.default_rng(5)
    recent = np.asarray(trial.features["recency"], np.float64) <= 4
    keep = np.where(recent[:, None], [0.8, 0.1, 0.1], [0.1, 0.6, 0.3])[np.arange(len(trial)), trial.arm]
    rows = np.flatnonzero(rng.random(len(trial)) < keep)
    part = trial.take(rows)
    x = encoder(part.features).encode(part.features)
    target = np.eye(3)[np.full(len(part), mens)]
    log = of_trial(part, x, target)
    log = Log(log.arms, log.arm, visit[rows], keep[rows], target, log.user, x)
    check(log)
    judged = judge(log, expected_rewards(log, 1))
    naive = float(visit[rows].mean())
    for name in ("ips", "snips", "dr", "dr_shrunk"):
        figure = judged.estimates[name]
        assert figure.low < truth < figure.high, name
        assert abs(figure.value - truth) < abs(naive - truth), name


def jsonl(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def decision(n: int, arm: str, propensity: float, **more: Any) -> dict[str, Any]:
    return {
        "decision_id": f"{n:032x}",
        "user_id": f"u{n}",
        "time_ms": 1_700_000_000_000 + n,
        "campaign_id": "cart",
        "arm": arm,
        "eligible": ["ten"],
        "propensity": propensity,
        "score": 0.5,
        "holdout": False,
        "reason": "offered" if arm == "ten" else "policy_none",
        "step": f"{n % 256:02x}00",
        **more,
    }


def test_decisions_and_orders_from_a_folder(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    given = rng.random(3_000) < 0.2
    made = [decision(n, "ten" if one else "none", 0.2 if one else 0.8) for n, one in enumerate(given.tolist())]
    bought = rng.random(3_000) < np.where(given, 0.3, 0.1)
    order = {"kind": "placed", "total_minor": 100}
    orders = [
        {"event_id": f"o{n}", "order_id": f"o{n}", "user_id": f"u{n}", "time_ms": made[n]["time_ms"] + 60_000, **order}
        for n in np.flatnonzero(bought).tolist()
    ]
    last = {"event_id": "z", "order_id": "z", "user_id": "z", "time_ms": made[-1]["time_ms"] + 7_200_000, **order}
    held = decision(9_999, "none", 1.0, holdout=True, reason="holdout")
    unpaid, capped = decision(9_998, "none", 0.2, reason="budget"), decision(9_997, "none", 1.0, reason="cap")
    jsonl(tmp_path / "decisions.jsonl", [*made, held, unpaid, capped])
    jsonl(tmp_path / "orders.jsonl", [*orders, last])
    out = tmp_path / "ope.json"
    args = ["ope", "decisions", "--log", str(tmp_path), "--campaign", "cart", "--json", str(out)]
    done = CliRunner().invoke(cli, [*args, "--policy", "ten"])
    assert done.exit_code == 0, done.output
    said = json.loads(out.read_text())
    assert said["decisions"] == 3_000  # who is held out or could get nothing is no exploration
    assert [warning for warning in said["warnings"] if warning.startswith("1 decisions chose an arm")] == said[
        "warnings"
    ]
    for name in ("ips", "snips", "dr", "dr_shrunk"):
        assert said[name]["ci"][0] < 0.3 < said[name]["ci"][1], name
    done = CliRunner().invoke(cli, [*args, "--policy", "gift"])
    assert done.exit_code == 1
    assert "no arm of cart: none, ten" in done.output


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "decisions.jsonl, line 2"),
        (json.dumps(decision(1, "ten", 2.0)), "line 2: Expected `float` <= 1.0 - at `$.propensity`"),
        (json.dumps({"user_id": "u"}), "line 2: Object missing required field `decision_id`"),
    ],
)
def test_a_record_that_is_none_is_named_by_its_line(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "decisions.jsonl").write_text(json.dumps(decision(0, "ten", 0.5)) + "\n" + line + "\n")
    args = ["ope", "decisions", "--log", str(tmp_path), "--campaign", "cart", "--policy", "ten"]
    done = CliRunner().invoke(cli, args)
    assert done.exit_code == 1
    assert said in done.output
