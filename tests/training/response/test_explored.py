"""What followed a decision, by arm and horizon: orders after it, none before; what was learned of them before them."""

from collections import defaultdict
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from xxhash import xxh3_64_intdigest

from stream.core.campaign import Arm, ArmKind
from stream.core.events import EVENT, Kind
from training.log import EventLog
from training.ope.logs import of_decisions
from training.records import Decision, Order, Trigger
from training.response.explored import explored

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
START_MS = 1_760_000_000_000
N_USERS = 420
ARMS = tuple(Arm(name, ArmKind.PERCENT, depth_bp=bp) for name, bp in (("five", 500), ("twenty", 2_000)))
NAMES = ("none", "five", "twenty")
UTC = ZoneInfo("UTC")


def shop(rng: np.random.Generator) -> tuple[EventLog, list[Decision], list[Order]]:
    """Each user puts something into the cart, which is decided about, with orders around it at the edges of horizons.

    Orders before the decision name its offer where they can: nobody may believe it.
    """
    users = [f"u{n}".encode() for n in range(N_USERS + 1)]
    events = np.zeros(N_USERS + 1, EVENT)
    events["kind"], events["price_minor"] = Kind.CART_ADD, 1_000
    events["time_ms"] = START_MS + 10_000 * np.arange(N_USERS + 1)
    events["time_ms"][-1] += 8 * DAY_MS  # the log goes on for longer than any horizon
    events["offset"] = np.arange(N_USERS + 1)
    events["event_id"] = np.arange(1, N_USERS + 2)
    events["user"] = [xxh3_64_intdigest(user) for user in users]
    decisions: list[Decision] = []
    orders: list[Order] = []
    edges = [edge + by for edge in (0, HOUR_MS, DAY_MS, 7 * DAY_MS) for by in (-1, 0, 1)]
    for n in range(N_USERS):
        user, time_ms, arm = f"u{n}", int(events["time_ms"][n]), NAMES[n % 3]
        trigger = Trigger("clickstream", 0, n)
        decisions.append(
            Decision(
                f"d{n}", user, time_ms, arm, [*NAMES[1:]], 1 / 3, holdout=False, reason="offered", campaign_id="c",
                score=None, step="00" * 16, trigger=trigger,
            )
        )  # fmt: skip
        for after_ms in rng.choice([-7 * DAY_MS, -DAY_MS, -HOUR_MS, *edges], rng.integers(0, 4), replace=False):
            named = f"d{n}" if rng.random() < 0.6 else None
            orders.append(
                Order(
                    f"e{len(orders)}", user, time_ms + int(after_ms), "placed", f"o{len(orders)}",
                    int(rng.integers(100, 900)), discount_minor=int(rng.integers(0, 90)), offer_id=named,
                )
            )  # fmt: skip
    return EventLog(users, np.arange(N_USERS + 1), events), decisions, orders


@pytest.mark.parametrize("horizon_ms", [HOUR_MS, DAY_MS, 7 * DAY_MS])
def test_labels_are_of_orders_after_the_decision(horizon_ms: int) -> None:
    log, decisions, orders = shop(np.random.default_rng(3))
    theirs: dict[str, list[Order]] = defaultdict(list)
    for order in orders:
        theirs[order.user_id].append(order)
    after = [[o for o in theirs[d.user_id] if d.time_ms < o.time_ms <= d.time_ms + horizon_ms] for d in decisions]
    # Of every arm there are users who ordered before and not after: what must not be taken for an answer.
    tempting = [
        d.arm for d, mine in zip(decisions, after, strict=True)
        if not mine and any(d.time_ms - horizon_ms <= o.time_ms <= d.time_ms for o in theirs[d.user_id])
    ]  # fmt: skip
    assert min(tempting.count(name) for name in NAMES) >= 5

    found = explored(log, decisions, orders, ARMS, ("carts_30d",), horizon_ms, zone=UTC)
    assert found.bought.tolist() == [bool(mine) for mine in after]
    assert found.redeemed.tolist() == [
        d.arm != "none" and any(o.offer_id == d.decision_id for o in mine)
        for d, mine in zip(decisions, after, strict=True)
    ]
    assert found.basket_minor.tolist() == [sum(o.total_minor + (o.discount_minor or 0) for o in mine) for mine in after]
    assert found.depth.tolist() == [{"none": 0, "five": 0.05, "twenty": 0.2}[d.arm] for d in decisions]
    judged = of_decisions(decisions, orders, "c", "uniform", horizon_ms)
    end_ms = max(order.time_ms for order in orders)
    complete = [bool(mine) for d, mine in zip(decisions, after, strict=True) if d.time_ms + horizon_ms <= end_ms]
    assert judged.reward.tolist() == complete


def test_orders_before_and_beyond_change_nothing() -> None:
    """Point in time: with everything gone that lies before a decision or beyond its horizon, the same labels."""
    log, decisions, orders = shop(np.random.default_rng(4))
    time_ms = {d.user_id: d.time_ms for d in decisions}
    within = [o for o in orders if time_ms[o.user_id] < o.time_ms <= time_ms[o.user_id] + DAY_MS]
    assert len(within) < len(orders) / 2
    whole, less = (explored(log, decisions, some, ARMS, ("carts_30d",), DAY_MS, zone=UTC) for some in (orders, within))
    for one, other in zip(whole, less, strict=True):
        np.testing.assert_array_equal(one, other)
