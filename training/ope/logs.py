"""Logs that off-policy evaluation reads: Open Bandit, randomised trials, and our own decisions."""

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from training.errors import TrainingError
from training.ope.estimators import Log
from training.records import Decision, Order
from training.tables import Reals, Table, read_table
from training.uplift.trial import Trial

POSITIONS = 3

_COLUMNS = ("item_id", "position", "click", "propensity_score")


def open_bandit(path: str, judged_path: str) -> Log:
    """A log of the Open Bandit Dataset (Saito et al., 2021), and the policy that made another one.

    The judged policy does not look at the user: it is the mean logged probability of each item at each position, and
    what it leaves of 1 goes to items that its log does not show there, in equal parts.

    Raises:
        TrainingError: a file is not of that format.
    """
    log, other = read_table(path, _COLUMNS), read_table(judged_path, _COLUMNS)
    items = sorted({*log.text("item_id"), *other.text("item_id")}, key=lambda item: (len(item), item))
    policy = _positions(other, items)
    place, position = _item(log, items), _position(log)
    clicks = log.numbers("click", 0, 1)
    propensity = log.numbers("propensity_score", 0, 1)
    n = len(log)
    shown = np.eye(POSITIONS)[position][:, 1:]
    return Log(tuple(items), place, clicks, propensity, policy[position], np.arange(n), shown)


def _item(table: Table, items: list[str]) -> NDArray[np.int64]:
    number = {item: at for at, item in enumerate(items)}
    return np.array([number[item] for item in table.columns["item_id"]], np.int64)


def _position(table: Table) -> NDArray[np.int64]:
    return table.numbers("position", 1, POSITIONS).astype(np.int64) - 1


def _positions(table: Table, items: list[str]) -> Reals:
    """[P, A], probabilities of each item at each position."""
    item, position = _item(table, items), _position(table)
    total, count = np.zeros((POSITIONS, len(items))), np.zeros((POSITIONS, len(items)))
    np.add.at(total, (position, item), table.numbers("propensity_score", 0, 1))
    np.add.at(count, (position, item), 1)
    mean = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
    unseen = (count == 0).sum(axis=1)
    left = np.clip(1 - mean.sum(axis=1), 0, None)
    mean += np.where(count == 0, (left / np.maximum(unseen, 1))[:, None], 0)
    probabilities: Reals = mean / mean.sum(axis=1, keepdims=True)
    return probabilities


def of_trial(trial: Trial, x: Reals, target: Reals) -> Log:
    """A randomised trial as a log: propensities by design, reward is revenue minus cost.

    Args:
        trial: its customers decide one time each.
        x: [N, F].
        target: [N, A].
    """
    propensity = np.array(trial.propensity)[trial.arm]
    money = trial.revenue - np.array(trial.cost)[trial.arm]
    return Log(trial.arms, trial.arm, money, propensity, target, np.arange(len(trial)), x)


NONE = "none"
NOT_DECIDED = frozenset(
    {
        *("dry_run", "stale", "no_consent", "objection", "not_eligible", "not_triggered"),
        *("cool_down", "cap", "open_offer", "no_model", "budget", "parity", "guard"),
    }
)
"""Reasons of decisions in which nobody could have got an arm, whatever the draw; and WITHHELD, which are warned of."""
WITHHELD = ("budget", "parity")
"""Reasons of decisions that chose an arm which nobody got."""


def of_decisions(decisions: list[Decision], orders: list[Order], campaign: str, policy: str, horizon_ms: int) -> Log:
    """Our own decisions of one campaign; the reward is 1 where the user ordered within the horizon.

    Left out are users who are held out (propensities hold for the others) and decisions that no policy made.

    Args:
        decisions: of any campaign.
        orders: of any user.
        campaign: whose decisions are judged.
        policy: `uniform` (among the eligible arms and none), `none`, or an arm, given wherever it is eligible.
        horizon_ms: how long after a decision an order counts.

    Raises:
        TrainingError: no such decisions, or the arm was never eligible.
    """
    used = [d for d in decisions if d.campaign_id == campaign and not d.holdout and d.reason not in NOT_DECIDED]
    if not used:
        known = ", ".join(sorted({d.campaign_id for d in decisions if d.campaign_id})) or "none"
        raise TrainingError(f"no decisions of the campaign {campaign!r} to judge a policy by; campaigns there: {known}")
    arms = (NONE, *sorted({arm for d in used for arm in d.eligible} - {NONE}))
    if policy not in {"uniform", *arms}:
        raise TrainingError(f"--policy {policy}: not uniform, and no arm of {campaign}: {', '.join(arms)}")
    unpaid = sum(d.campaign_id == campaign and not d.holdout and d.reason in WITHHELD for d in decisions)
    note = f"{unpaid} decisions chose an arm that a budget or parity withheld and are left out; where these are many, "
    note += "the others, in which none was chosen too often, are no fair sample"
    last_ms = max([order.time_ms for order in orders] + [d.time_ms for d in used])
    used = [d for d in used if d.time_ms + horizon_ms <= last_ms] or used
    number = {arm: at for at, arm in enumerate(arms)}
    target = np.zeros((len(used), len(arms)))
    for row, d in enumerate(used):
        could = sorted({NONE, *d.eligible})
        if policy == "uniform":
            target[row, [number[arm] for arm in could]] = 1 / len(could)
        else:
            target[row, number[policy if policy in could else NONE]] = 1
    if any(d.arm not in number for d in used):
        arm = next(d.arm for d in used if d.arm not in number)
        raise TrainingError(f"a decision gave {arm!r}, which was eligible in none")
    users = {user: at for at, user in enumerate(sorted({d.user_id for d in used}))}
    return Log(
        arms,
        np.array([number[d.arm] for d in used], np.int64),
        _ordered(used, orders, horizon_ms),
        np.array([d.propensity for d in used]),
        target,
        np.array([users[d.user_id] for d in used], np.int64),
        _steps(used),
        (note,) if unpaid else (),
    )


def _ordered(decisions: list[Decision], orders: list[Order], horizon_ms: int) -> Reals:
    times: dict[str, list[int]] = defaultdict(list)
    for order in orders:
        if order.kind == "placed":
            times[order.user_id].append(order.time_ms)
    found = [any(d.time_ms < at <= d.time_ms + horizon_ms for at in times[d.user_id]) for d in decisions]
    return np.array(found, np.float64)


def _steps(decisions: list[Decision]) -> Reals:
    widths = {len(d.step) for d in decisions}
    if len(widths) != 1:
        raise TrainingError(f"decisions have steps of different lengths: {sorted(widths)}")
    return np.array([list(bytes.fromhex(d.step)) for d in decisions], np.float64)
