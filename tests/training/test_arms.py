"""A model that answers for every arm, from randomised decisions whose effect is known."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result

from stream.core.events import Kind
from stream.core.row import new_rows
from stream.scoring.model import load
from tests.training.conftest import make_log
from training.arms import Arms, answered, by_arm, require_arms, with_arms
from training.cli import cli
from training.dataset import Dataset, build, built
from training.errors import TrainingError
from training.evaluate import judge
from training.fit import Plan
from training.log import EventLog
from training.records import Decision
from training.run import Made, make
from training.serve import carried
from training.windows import Windows, fill

HOUR_MS = 3_600_000
NAMES = ("none", "five", "twenty")
TRUTH = {"none": 0.1, "five": 0.25, "twenty": 0.6}
"""P(order within the hour) after a cart, by arm; users of even number do not care for offers."""


def shop(log: EventLog, seed: int = 1) -> tuple[EventLog, list[Decision]]:
    """Every cart is a decision, its arm drawn; whether an order follows is drawn by the truth."""
    rng = np.random.default_rng(seed)
    kept = log.events["kind"] != Kind.ORDER_PLACED
    events, row = log.events[kept].copy(), log.row[kept]
    carts = np.flatnonzero(events["kind"] == Kind.CART_ADD)
    arms = rng.integers(0, 3, len(carts))
    names = [NAMES[arm] if row[at] % 2 else "none" for at, arm in zip(carts, arms, strict=True)]
    follows = rng.random(len(carts)) < [TRUTH[name] for name in names]
    orders = events[carts[follows]].copy()
    orders["kind"], orders["source"] = Kind.ORDER_PLACED, 1
    orders["time_ms"] += 300_000
    orders["event_id"] += 1_000_000
    every = np.concatenate([events, orders])
    rows = np.concatenate([row, row[carts[follows]]])
    order = np.argsort(every["time_ms"], kind="stable")
    every["offset"][order] = np.arange(len(every))
    shopped = EventLog(log.users, rows[order], every[order])
    dataset = build(shopped, HOUR_MS)
    said = []
    for number, (at, arm) in enumerate(zip(carts.tolist(), arms.tolist(), strict=True)):
        own = shopped.events[shopped.row == row[at]]
        place = int(np.flatnonzero(own["event_id"] == events["event_id"][at])[0])
        slot = int(np.flatnonzero(dataset.user == events["user"][at])[0])
        step = dataset.steps[dataset.starts[slot] + place].tobytes().hex()
        time_ms, user = int(events["time_ms"][at]), log.users[row[at]].decode()
        one = {"campaign_id": "nudge", "score": None, "step": step, "row_seq": place + 1}
        reason = "offered" if arm else "policy_none"
        drawn = (NAMES[arm], [*NAMES[1:]], 1 / 3)
        said.append(Decision(f"{number:032x}", user, time_ms, *drawn, holdout=False, reason=reason, **one))
    return shopped, said


@pytest.fixture(scope="module")
def shopped(make_shop_log: EventLog) -> tuple[EventLog, list[Decision]]:
    return shop(make_shop_log)


@pytest.fixture(scope="module")
def make_shop_log() -> EventLog:
    return make_log(3, 160, 9_000)


@pytest.fixture(scope="module")
def dataset(shopped: tuple[EventLog, list[Decision]]) -> Dataset:
    return with_arms(build(shopped[0], HOUR_MS), Arms("nudge", NAMES, shopped[1]))


@pytest.fixture(scope="module")
def made(shopped: tuple[EventLog, list[Decision]]) -> Made:
    log, decisions = shopped
    return make(built(log, HOUR_MS), "lstm", Plan(epochs=8, batch=16, seed=2), arms=Arms("nudge", NAMES, decisions))


def test_every_decision_stands_at_its_step(shopped: tuple[EventLog, list[Decision]], dataset: Dataset) -> None:
    shown = dataset.shown > 0
    assert shown.sum() == len(shopped[1])
    assert (shown.sum(axis=1) <= 1).all()
    assert (dataset.steps[shown.any(axis=1), 0] == Kind.CART_ADD).all()
    counted = [sum(one.arm == name for one in shopped[1]) for name in NAMES]
    assert shown.sum(axis=0).tolist() == counted
    assert np.unique(dataset.shown).tolist() == [0, 1]  # drawn alike, so each counts as much as the next


def test_only_the_arm_that_was_shown_is_learnt_from(dataset: Dataset) -> None:
    starts, ends = dataset.starts[:-1], dataset.starts[1:]
    batch = fill(dataset, Windows(starts, starts, ends), int((ends - starts).max()))
    places = starts[:, None] + np.arange(batch.x.shape[1])
    inside = places < ends[:, None]
    expected = dataset.shown[places[inside]] * dataset.known[places[inside]][:, None]
    np.testing.assert_array_equal(batch.weight[inside][:, :3], expected)
    assert batch.weight[~inside].sum() == 0


@pytest.mark.parametrize("horizon_ms", [HOUR_MS, 24 * HOUR_MS, 7 * 24 * HOUR_MS])
def test_an_arms_labels_are_of_orders_after_its_decision(
    shopped: tuple[EventLog, list[Decision]], horizon_ms: int
) -> None:
    """By hand, for every arm: the user's orders later than the decision and within the horizon, none before it."""
    log, decisions = shopped
    found = with_arms(build(log, horizon_ms), Arms("nudge", NAMES, decisions))
    first = dict(zip(found.user.tolist(), found.starts.tolist(), strict=False))
    placed = log.events["kind"] == Kind.ORDER_PLACED
    tempting = dict.fromkeys(NAMES, 0)
    for one in decisions:
        row = log.users.index(one.user_id.encode())
        orders = log.events["time_ms"][placed & (log.row == row)]
        expected = ((orders > one.time_ms) & (orders <= one.time_ms + horizon_ms)).any()
        step = first[int(log.events["user"][log.row == row][0])] + one.row_seq - 1
        assert found.label[step] == expected
        assert found.shown[step].argmax() == NAMES.index(one.arm)
        before = ((orders <= one.time_ms) & (orders > one.time_ms - 7 * 24 * HOUR_MS)).any()
        tempting[one.arm] += bool(before and not expected)
    assert min(tempting.values()) >= 5, "an order before the offer and none after it: what must not be taken for one"


def test_improbable_draws_count_for_more(shopped: tuple[EventLog, list[Decision]]) -> None:
    log, decisions = shopped
    changed = [msgspec.structs.replace(one, propensity=0.1 if one.arm == "five" else 0.45) for one in decisions]
    found = with_arms(build(log, HOUR_MS), Arms("nudge", NAMES, changed)).shown
    ratio = found[found[:, 1] > 0, 1].mean() / found[found[:, 0] > 0, 0].mean()
    assert ratio == pytest.approx(4.5)


def test_the_file_answers_for_every_arm(made: Made) -> None:
    model = load(made.data)
    assert model.metadata.arms == NAMES
    rng = np.random.default_rng(0)
    rows = new_rows(500)
    for _ in range(3):
        scores = model.score(rng.integers(0, 256, (500, 16), np.uint8), rows)
        assert scores.shape == (500, 3)
        assert (np.diff(scores, axis=1) >= 0).all()


def test_it_learns_what_the_arms_do(made: Made, dataset: Dataset) -> None:
    """On users never seen: the mean over decisions, by arm, as the truth has it (half of the users do not care)."""
    for name, found in made.metrics["arms"].items():
        expected = (TRUTH["none"] + TRUTH[name]) / 2
        assert found["mean_score_all"] == pytest.approx(expected, abs=0.1), name
    means = [made.metrics["arms"][name]["mean_score_all"] for name in NAMES]
    assert means[2] - means[0] > 0.1
    assert made.metrics["log_loss"] < made.metrics["base_log_loss"]
    scores = carried(load(made.data), dataset)
    label, score = answered(dataset, scores)
    assert len(label) == sum(one["decisions"] for one in by_arm(dataset, scores, NAMES).values())
    assert np.isfinite(score).all()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda one: msgspec.structs.replace(one, propensity=1.0), "no decision whose arm was drawn"),
        (lambda one: msgspec.structs.replace(one, campaign_id="other"), "campaigns: other"),
        (lambda one: msgspec.structs.replace(one, holdout=True), "no decision whose arm was drawn"),
        (lambda one: msgspec.structs.replace(one, eligible=["ten"]), "--arms does not name: ten"),
        (lambda one: msgspec.structs.replace(one, row_seq=one.row_seq + 1), "no step with their number"),
        (lambda one: msgspec.structs.replace(one, user_id="nobody"), "no step with their number"),
        (lambda one: msgspec.structs.replace(one, arm="five"), "'none' was drawn 0 times"),
    ],
)
def test_decisions_that_teach_nothing_are_refused(
    shopped: tuple[EventLog, list[Decision]], change: Callable[[Decision], Decision], text: str
) -> None:
    log, decisions = shopped
    with pytest.raises(TrainingError, match=text):
        require_arms(with_arms(build(log, HOUR_MS), Arms("nudge", NAMES, [change(one) for one in decisions])), NAMES)


def test_a_few_lost_steps_are_passed_over(shopped: tuple[EventLog, list[Decision]]) -> None:
    log, decisions = shopped
    some = [msgspec.structs.replace(one, row_seq=9_999) if at % 50 == 0 else one for at, one in enumerate(decisions)]
    found = with_arms(build(log, HOUR_MS), Arms("nudge", NAMES, some))
    assert (found.shown > 0).sum() == len(decisions) - len(decisions[::50])


def call(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, ["run", *map(str, args)])


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--events", "x.csv", "--format", "taobao", "--campaign", "a", "--arms", "b"], "has no decisions"),
        (["--events", "127.0.0.1:1", "--arms", "b"], "belong together"),
        (["--events", "127.0.0.1:1", "--campaign", "a", "--arms", "none,b"], "different names"),
        (["--events", "127.0.0.1:1", "--campaign", "a", "--arms", "b,b"], "different names"),
    ],
)
def test_wrong_use_is_told(args: list[str], text: str, tmp_path: Path) -> None:
    result = call(*args, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert text in result.output


# --- the depth at which users buy


def bargain_hunters(log: EventLog) -> EventLog:
    """Users of even number buy at 5 %, the others at 30 %; what they look at is dearer for the ones."""
    events = log.events.copy()
    even = log.row % 2 == 0
    events["price_minor"] = np.where(even, 40_000, 1_000)
    orders = events["kind"] == Kind.ORDER_PLACED
    events["discount_minor"] = np.where(orders, events["price_minor"] * np.where(even, 5, 30) // 100, 0)
    return log._replace(events=events)


def test_the_depth_at_which_users_buy_is_learnt(log: EventLog) -> None:
    found = make(built(bargain_hunters(log), HOUR_MS), "linear", Plan(epochs=12, batch=4, seed=2))
    model = load(found.data)
    assert model.metadata.answers == "depth"
    assert model.metadata.kind == "window"
    depth = found.metrics["depth"]
    assert depth["base_mse"]["value"] == pytest.approx(0.125**2, rel=0.1)
    assert depth["r2"]["value"] > 0.7
    assert depth["mse"]["ci"][0] <= depth["mse"]["value"] <= depth["mse"]["ci"][1]
    assert all(gate["passed"] for gate in found.metrics["gates"])
    assert load(found.data).metadata.metrics["depth"] == depth
    with pytest.raises(TrainingError, match="answers with a depth"):
        judge(model, build(log, HOUR_MS), None)


def test_a_depth_needs_discounts(log: EventLog) -> None:
    with pytest.raises(TrainingError, match="depth cannot be learnt"):
        make(built(log, HOUR_MS), "linear", Plan(epochs=1))


def test_a_depth_is_no_answer_for_arms(shopped: tuple[EventLog, list[Decision]]) -> None:
    with pytest.raises(TrainingError, match="not for each arm"):
        make(built(shopped[0], HOUR_MS), "linear", Plan(epochs=1), arms=Arms("nudge", NAMES, shopped[1]))
