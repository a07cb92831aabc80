"""What a campaign explored, as records to learn from: decisions, the facts at their triggers, and what followed.

Facts come from the events, applied to rows by the worker's own functions, up to the trigger and no further.
"""

from bisect import bisect_right
from collections import defaultdict
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import xxhash
from numpy.typing import NDArray

from stream.campaigns.learn import Records
from stream.core.absorb import absorb, is_duplicate
from stream.core.campaign import Arm
from stream.core.events import SOURCES
from stream.core.facts import Triggers
from stream.core.fold import turns
from stream.core.policies import discounts
from stream.core.row import gather, new_rows
from stream.core.segments import SEGMENT_RULES
from training.errors import TrainingError
from training.log import EventLog
from training.records import Decision, Order
from training.tables import Reals

DRAWN = frozenset({"offered", "policy_none", "no_model"})
"""Reasons of decisions whose propensity holds (a policy that has learned nothing chooses none); of the others, what was
drawn was not done."""

DECISIONS_MIN, REDEMPTIONS_MIN = 300, 20
"""Fewer tell nothing."""

CHUNK = 2_000


def explored(
    log: EventLog,
    decisions: list[Decision],
    orders: list[Order],
    arms: tuple[Arm, ...],
    facts: tuple[str, ...],
    horizon_ms: int,
    zone: ZoneInfo,
    topic_prefix: str = "",
) -> Records:
    """Records of one campaign: the first decision of each user and day, since what is drawn is drawn for a day.

    Args:
        log: all events.
        decisions: of the campaign.
        orders: of any user.
        arms: the campaign's.
        facts: which, in the order wanted.
        horizon_ms: within which an order counts; later decisions are left out.
        zone: of the shop's days.
        topic_prefix: of the topics that triggers name.

    Raises:
        TrainingError: too few of them; the message says what there is.
    """
    end_ms = int(log.events["time_ms"].max()) if len(log.events) else 0
    first: dict[tuple[str, object], Decision] = {}
    for one in sorted(decisions, key=lambda d: d.time_ms):
        if one.reason in DRAWN and not one.holdout and one.trigger is not None and one.time_ms + horizon_ms <= end_ms:
            first.setdefault(
                (one.user_id, datetime.fromtimestamp(one.time_ms / 1000, UTC).astimezone(zone).date()), one
            )
    chosen = list(first.values())
    at, found, price = facts_at(log, chosen, facts, topic_prefix)
    by_arm = {arm.id: arm for arm in arms}
    depth = np.array([_depth(by_arm.get(chosen[i].arm), chosen[i].arm, price[n]) for n, i in enumerate(at.tolist())])
    known = ~np.isnan(depth)
    kept = [chosen[i] for i in at[known].tolist()]
    bought, redeemed, basket = _followed(kept, orders, horizon_ms)
    if len(kept) < DECISIONS_MIN or redeemed.sum() < REDEMPTIONS_MIN or bought.sum() == redeemed.sum():
        raise TrainingError(
            f"too little is explored yet: {len(kept)} first decisions of a user's day with their trigger among the "
            f"events, {int(bought.sum())} with a purchase within the horizon, {int(redeemed.sum())} of these with the "
            f"offer; at least {DECISIONS_MIN}, and {REDEMPTIONS_MIN} redemptions, are needed, and purchases without one"
        )
    propensity = np.array([one.propensity for one in kept])
    return Records(found[known], depth[known], np.maximum(propensity, 1e-6), bought, redeemed, basket)


def facts_at(
    log: EventLog, decisions: list[Decision], facts: tuple[str, ...], topic_prefix: str = ""
) -> tuple[NDArray[np.int64], Reals, Reals]:
    """Facts at the triggers of decisions, as a worker sees them when it decides.

    Returns:
        (places in `decisions` whose trigger is among the events [n], facts [n, facts], price of the trigger [n]).
    """
    wanted = {}
    for i, one in enumerate(decisions):
        source = one.trigger.topic.removeprefix(topic_prefix) if one.trigger else ""
        if one.trigger and source in SOURCES:
            user = xxhash.xxh3_64_intdigest(one.user_id.encode()) or 1
            wanted[user, SOURCES.index(source), one.trigger.offset] = i
    events, row = log.events, log.row
    keys = zip(events["user"].tolist(), events["source"].tolist(), events["offset"].tolist(), strict=True)
    mark = np.fromiter((wanted.get(key, -1) for key in keys), np.int64, len(events))
    found = np.full((len(decisions), len(facts)), np.nan)
    price = np.full(len(decisions), np.nan)
    seen = np.zeros(len(decisions), bool)
    rows = new_rows(len(log.users))
    for start in range(0, len(events), CHUNK):
        part = slice(start, start + CHUNK)
        at = start + np.flatnonzero(~is_duplicate(events[part], row[part], rows))
        for turn in turns(gather(events, at), row[at], rows):
            absorb(turn.events, turn.rows)
            place = mark[at[turn.at]]
            some = np.flatnonzero(place >= 0)
            if len(some):
                # Fresh triggers only are decided about, so the time of the decision is that of the row's last event.
                now_ms = int(turn.rows["last_ms"][some].min())
                triggers = Triggers(turn.events, turn.rows, some, now_ms, SEGMENT_RULES)
                to = place[some]
                seen[to] = True
                price[to] = turn.events["price_minor"][some]
                for column, name in enumerate(facts):
                    found[to, column] = triggers.fact(name)
    places = np.flatnonzero(seen)
    return places, found[places], price[places]


def _depth(arm: Arm | None, name: str, price_minor: float) -> float:
    """Share of the price that an arm takes off; 0 for none, NaN where that cannot be told."""
    if name == "none":
        return 0.0
    if arm is None:
        return np.nan
    if price_minor <= 0:
        return arm.depth_bp / 10_000 or np.nan
    share = float(discounts((arm,), np.array([price_minor]))[0, 0]) / price_minor
    return min(share, 1.0) or np.nan


def _followed(
    decisions: list[Decision], orders: list[Order], horizon_ms: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], Reals]:
    """(bought, with this decision's offer, basket before discounts), [N], within the horizon."""
    placed: dict[str, list[tuple[int, int, str | None]]] = defaultdict(list)
    for order in sorted(orders, key=lambda one: one.time_ms):
        if order.kind == "placed":
            placed[order.user_id].append(
                (order.time_ms, order.total_minor + (order.discount_minor or 0), order.offer_id)
            )
    n = len(decisions)
    bought, redeemed, basket = np.zeros(n, bool), np.zeros(n, bool), np.zeros(n)
    for i, one in enumerate(decisions):
        theirs = placed.get(one.user_id, [])
        for time_ms, total, offer in theirs[bisect_right(theirs, one.time_ms, key=lambda o: o[0]) :]:
            if time_ms > one.time_ms + horizon_ms:
                break
            bought[i] = True
            basket[i] += total
            redeemed[i] |= one.arm != "none" and offer == one.decision_id
    return bought, redeemed, basket
