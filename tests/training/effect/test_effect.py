import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from training.cli import cli
from training.effect.compare import adjusted, difference
from training.effect.outcomes import Exposed, Ledger, Margins, exposed, order_margin
from training.errors import TrainingError
from training.records import Decision, Feedback, Line, Order

DAY_MS = 86_400_000
START_MS = 1_700_000_000_000


def decision(n: int, reason: str, user: str, time_ms: int = START_MS, campaign: str = "cart") -> Decision:
    arm = "ten" if reason == "offered" else "none"
    return Decision(f"{n:032x}", user, time_ms, arm, ["ten"], 1.0, reason == "holdout", reason, campaign, 0.5, "00")


def order(n: int, user: str, time_ms: int, total: int, **more: Any) -> Order:
    return Order(f"e{n}", user, time_ms, more.pop("kind", "placed"), more.pop("order_id", f"o{n}"), total, **more)


def simulated(seed: int, lift: float, users: int = 4_000) -> tuple[list[Decision], list[Order], list[Feedback]]:
    """A shop with a campaign of known effect: an offer adds `lift` to the chance of an order of 50.00, margin 20.00.

    How often somebody orders is a matter of the person, so that the time before tells much of the time after.
    """
    rng = np.random.default_rng(seed)
    decisions, orders, feedback = [], [], []
    n = 0
    for user in range(users):
        name, keen = f"u{user}", rng.beta(0.5, 1.5)
        offered = rng.random() < 0.8
        at = START_MS + int(rng.integers(0, 30 * DAY_MS))
        decisions.append(decision(user, "offered" if offered else "holdout", name, at))
        chances = [(at - int(rng.integers(1, 7 * DAY_MS)), keen) for _ in range(3)]
        chances.append((at + int(rng.integers(1, 7 * DAY_MS)), min(keen * 0.7 + (lift if offered else 0.0), 1.0)))
        for time_ms, chance in chances:
            if rng.random() < chance:
                n += 1
                lines = [Line("p", 1, 5_000, 3_000)]
                orders.append(order(n, name, time_ms, 5_000, lines=lines))
        if rng.random() < 0.02:
            feedback.append(Feedback(f"f{user}", name, at + DAY_MS, "complaint"))
    decisions.append(decision(users, "not_eligible", "late", START_MS + 60 * DAY_MS))
    return decisions, orders, feedback


def test_a_known_effect_is_found_and_the_time_before_narrows_it() -> None:
    (users,) = exposed(*simulated(1, 0.1), 7 * DAY_MS, Margins(None))
    for name, truth in (("conversion", 0.1), ("revenue", 500.0), ("margin", 200.0)):
        found = difference(users, name, 0.05)
        assert found.cuped.low < truth < found.cuped.high, name
        assert found.variance_saved > 0.1
        assert found.verdict == "more than without offers"
    assert difference(users, "complaints", 0.05).cuped.low < 0 < difference(users, "complaints", 0.05).cuped.high


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    missed = 0
    for seed in range(40):
        (users,) = exposed(*simulated(100 + seed, 0.05, 600), 7 * DAY_MS, Margins(None))
        figure = difference(users, "conversion", 0.05).cuped
        missed += not figure.low < 0.05 < figure.high
    assert missed <= 6


def test_months_to_an_answer_are_what_the_square_of_the_error_says() -> None:
    """Twice the users in twice the time need no more time; a tenth of them says that it cannot tell, and how long."""
    (users,) = exposed(*simulated(2, 0.0, 400), 7 * DAY_MS, Margins(None))
    found = difference(users, "conversion", 0.05)
    assert found.cuped.low < 0 < found.cuped.high
    matters = 0.05 * found.held_out_mean
    span = np.ptp(users.first_ms) / (30 * DAY_MS)
    assert found.months_to_answer == pytest.approx(((found.detectable / matters) ** 2 - 1) * span)
    assert found.power < 0.2
    assert "cannot tell yet" in found.verdict
    assert f"{found.months_to_answer:.1f} more months" in found.verdict
    assert difference(users, "conversion", 1.0).months_to_answer == 0


def test_power_is_the_share_of_trials_that_see_the_relevant_difference() -> None:
    rng = np.random.default_rng(3)
    seen, said = 0, []
    for _ in range(300):
        offered = rng.random(500) < 0.5
        y = rng.normal(1.0, 1.0, 500) + 0.25 * offered
        users = Exposed("c", offered, np.arange(500), {"revenue": y}, rng.normal(size=(500, 3)), 0)
        found = difference(users, "revenue", 0.25)
        seen += found.cuped.low > 0
        said.append(found.power)
    assert seen / 300 == pytest.approx(float(np.mean(said)), abs=0.07)


def test_an_adjustment_moves_no_effect_where_groups_differ_by_chance_alone() -> None:
    rng = np.random.default_rng(4)
    before = rng.normal(size=(20_000, 1))
    offered = rng.random(20_000) < 0.5
    y = 3 * before[:, 0] + 0.5 * offered + rng.normal(size=20_000)
    found = adjusted(y, offered, before)
    assert found.var() < 0.2 * y.var()
    assert found[offered].mean() - found[~offered].mean() == pytest.approx(0.5, abs=0.05)


def test_margins_and_what_comes_back() -> None:
    sold = order(1, "u", START_MS, 9_000, lines=[Line("p", 2, 5_000, 3_000)], discount_minor=1_000, order_id="o")
    bare = order(2, "u", START_MS + 1, 9_000, discount_minor=1_000)
    assert order_margin(sold, Margins(None)) == 9_000 - 6_000
    assert order_margin(bare, Margins(0.4)) == 0.4 * 10_000 - 1_000
    assert np.isnan(order_margin(bare, Margins(None)))
    half = order(3, "u", START_MS + 2, 4_500, kind="returned", order_id="o")
    ledger = Ledger([sold, half], [], Margins(None))
    period = ledger.between("u", START_MS - 1, START_MS + 2)
    assert (period.orders, period.revenue, period.margin, period.discount) == (1, 4_500, 1_500, 1_000)
    gone = order(4, "u", START_MS + 3, 9_000, kind="cancelled", order_id="o")
    assert Ledger([sold, gone], [], Margins(None)).between("u", 0, 2 * START_MS)[:3] == (0, 0, 0)
    assert ledger.between("u", START_MS, START_MS + 1).orders == 0  # the first moment is not included


def test_who_was_offered_too_late_to_judge_is_left_out_and_counted() -> None:
    made = [decision(1, "offered", "a"), decision(2, "offered", "b", START_MS + 7 * DAY_MS - 1)]
    late = [order(1, "z", START_MS + 7 * DAY_MS, 1)]
    (users,) = exposed(made, late, [], 7 * DAY_MS, Margins(None))
    assert (len(users.offered), users.users_too_recent) == (1, 1)


def test_a_holdout_that_changed_under_way_is_refused() -> None:
    made = [decision(1, "offered", "a"), decision(2, "holdout", "a", START_MS + 1)]
    with pytest.raises(TrainingError, match="the holdout changed"):
        exposed(made, [], [], DAY_MS, Margins(None))


def written(folder: Path, decisions: list[Decision], orders: list[Order]) -> None:
    import msgspec

    for name, records in (("decisions", decisions), ("orders", orders)):
        lines = b"\n".join(msgspec.json.encode(one) for one in [*records, *records[:3]])  # some come twice
        (folder / f"{name}.jsonl").write_bytes(lines + b"\n")


def test_the_command_writes_figures_and_a_picture(tmp_path: Path) -> None:
    decisions, orders, _ = simulated(5, 0.2, 800)
    written(tmp_path, decisions, orders)
    redeemed = {"event_id": "r", "user_id": "u1", "time_ms": START_MS, "kind": "redeemed", "amount_minor": 700}
    (tmp_path / "redemptions.jsonl").write_text(json.dumps({**redeemed, "offer_id": decisions[1].decision_id}) + "\n")
    out = tmp_path / "out"
    done = CliRunner().invoke(cli, ["effect", "--log", str(tmp_path), "--out", str(out)])
    assert done.exit_code == 0, done.output
    said = json.loads((out / "effect.json").read_text())["campaigns"]["cart"]
    assert said["users"]["offered"] + said["users"]["held_out"] == 800
    assert (said["redeemed"], said["discount_minor"]) == (1, 700)
    assert said["effect"]["conversion"]["ci"][0] > 0
    assert said["effect"]["conversion"]["verdict"] == "more than without offers"
    assert said["total"]["revenue"]["value"] == pytest.approx(
        said["effect"]["revenue"]["value"] * said["users"]["offered"]
    )
    assert (out / "effect.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "no decisions.jsonl"),
        ({"decisions.jsonl": ""}, "no orders.jsonl"),
        ({"decisions.jsonl": "", "orders.jsonl": ""}, "nothing can be compared"),
        ({"decisions.jsonl": "", "orders.jsonl": '{"user_id": 3}'}, "orders.jsonl, line 1"),
    ],
)
def test_logs_that_tell_nothing_are_refused(tmp_path: Path, files: dict[str, str], said: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    out = tmp_path / "out"
    done = CliRunner().invoke(cli, ["effect", "--log", str(tmp_path), "--out", str(out)])
    assert done.exit_code == 1
    assert said in done.output
    assert not out.exists()


def test_one_group_only_is_no_comparison() -> None:
    made = [decision(n, "offered", f"u{n}") for n in range(50)]
    (users,) = exposed(made, [order(1, "z", START_MS + 8 * DAY_MS, 1)], [], 7 * DAY_MS, Margins(None))
    found = difference(users, "conversion", 0.05)
    assert "too few users: 50 offered, 0 held out" in found.verdict
    assert found.said()["value"] is None
