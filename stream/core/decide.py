"""Decisions: for each trigger at most one offer, from the first campaign whose policy chooses one."""

from enum import IntEnum, unique

import numpy as np
from numpy.typing import NDArray

from stream.core.absorb import Events
from stream.core.campaign import Campaign, CampaignSet
from stream.core.eligible import eligible
from stream.core.events import CONSENT_YES, Kind
from stream.core.facts import Triggers
from stream.core.policies import NONE, choose, needs_score
from stream.core.row import Rows


@unique
class Reason(IntEnum):
    """Why a decision is what it is; the lower-case name is what is logged. Only OFFERED is an offer."""

    NOT_TRIGGERED = 0  # no campaign is triggered by this kind of event
    OFFERED = 1
    POLICY_NONE = 2  # the policy chose "none"
    HOLDOUT = 3  # the policy chose an arm, the user is held out
    STALE = 4  # the trigger is older than offer_max_age
    NO_CONSENT = 5
    OBJECTION = 6
    NOT_ELIGIBLE = 7
    COOL_DOWN = 8
    NO_MODEL = 9  # the policy needs a score and there is none
    DRY_RUN = 10  # the policy chose an arm, the campaign only tries


DECISION = np.dtype(
    [
        ("draw", "f8"),  # in [0, 1), hash of the trigger's coordinates
        ("value_minor", "i8"),  # amount and coupon arms: what the offer takes off at most
        ("depth_bp", "i4"),  # percent arms: hundredths of a percent
        ("eligible", "u4"),  # bit i: arm i was eligible ("none" always is)
        ("score", "f4"),  # P(purchase) without an offer; NaN = no model
        ("propensity", "f4"),  # probability of the arm chosen, given everything but the draw
        ("campaign", "i2"),  # index into CampaignSet.campaigns; -1 = none
        ("arm", "i2"),  # index into that campaign's arms; -1 = "none". DRY_RUN: the arm that would have been offered
        ("reason", "u1"),
        ("holdout", "u1"),  # the user is in the campaign's holdout
    ]
)

Decisions = NDArray[np.void]
"""An array of `DECISION`."""


_NEVER_MS = np.int64(-(2**62))

_UNDECIDED = np.zeros((), DECISION)
_UNDECIDED["campaign"] = _UNDECIDED["arm"] = NONE
_UNDECIDED["propensity"] = 1
_UNDECIDED["reason"] = Reason.NOT_TRIGGERED


def splitmix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix 64 bits, wrapping (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return mixed


def _unit(x: NDArray[np.uint64]) -> NDArray[np.float64]:
    """[0, 1) from the top 53 bits."""
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53


def draws(topic_id_hash: int, partition: int, offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """The random draw of each trigger, a hash of its coordinates: float64 [n] in [0, 1), the same on every replay."""
    base = splitmix64(np.array([topic_id_hash], np.uint64) ^ splitmix64(np.array([partition], np.uint64)))
    return _unit(splitmix64(base ^ offsets.astype(np.uint64)))


def holdout(users: NDArray[np.uint64], salt: int, share: float) -> NDArray[np.bool_]:
    """Which users are held out of a campaign, bool [n]: always the same ones, and more of them with a larger share."""
    return _unit(splitmix64(users ^ splitmix64(np.array([salt], np.uint64)))) < share


def decide(
    events: Events,
    rows: Rows,
    scores: NDArray[np.float32],
    campaigns: CampaignSet,
    now_ms: int,
    draws: NDArray[np.float64],
    offer_max_age_ms: int,
) -> Decisions:
    """Decide about one round of events, each row at most once.

    1. What holds for all campaigns: a trigger that is too old, an objection, no consent.
    2. Each campaign in the set's order is asked about the triggers that are still open; one that chooses an arm for a
       user who is not held out closes the trigger. So there is at most one offer a trigger.
    3. Offers made are noted in the rows.

    The decision says what the campaign did that made the offer; where none did, what the first campaign did that had
    an arm eligible.

    Args:
        events: EVENT [n].
        rows: ROW [n], after `absorb`; `offers_made` and `offer_last_ms` change in place where an offer is made.
        scores: [n, A], the first column is P(purchase) without an offer; NaN = no model.
        campaigns: in force.
        now_ms: time of the decision.
        draws: [n], see `draws`.
        offer_max_age_ms: an older trigger gets no offer.

    Returns:
        DECISION [n].
    """
    decisions = np.full(len(events), _UNDECIDED)
    decisions["draw"] = draws
    decisions["score"] = scores[:, 0]
    at = np.flatnonzero(campaigns.triggers[events["kind"]])
    if not len(at):
        return decisions
    # 1.
    reason = np.full(len(at), Reason.NOT_ELIGIBLE, np.uint8)
    reason[rows["consent"][at] != CONSENT_YES] = Reason.NO_CONSENT
    reason[rows["objection"][at] != 0] = Reason.OBJECTION
    reason[events["time_ms"][at] < now_ms - offer_max_age_ms] = Reason.STALE
    decisions["reason"][at] = reason
    at = at[reason == Reason.NOT_ELIGIBLE]
    if not len(at):
        return decisions
    # 2.
    triggers = Triggers(events, rows, at, now_ms, campaigns.segment_rules)
    asked = decisions[at]
    is_open = np.ones(len(at), bool)
    open_ = np.arange(len(at))
    for index, campaign in campaigns.asked:
        if campaign.from_ms <= now_ms < campaign.until_ms:
            closed = _ask(index, campaign, triggers, open_, asked)
            if len(closed):
                is_open[closed] = False
                open_ = np.flatnonzero(is_open)
                if not len(open_):
                    break
    decisions[at] = asked
    # 3.
    offered = at[asked["reason"] == Reason.OFFERED]
    rows["offers_made"][offered] += 1
    rows["offer_last_ms"][offered] = np.maximum(rows["offer_last_ms"][offered], now_ms)
    return decisions


def _ask(
    index: int, campaign: Campaign, triggers: Triggers, open_: NDArray[np.int64], asked: Decisions
) -> NDArray[np.int64]:
    """Ask one campaign about the open triggers; write its decisions to `asked`; return those that it closes."""
    at = eligible(campaign, triggers, open_)
    if len(at):
        at = _cool(index, campaign, triggers, at, asked)
    if not len(at):
        return at
    score = asked["score"][at]
    arm, depth_bp = choose(campaign.policy, score, triggers, at)
    chosen = arm != NONE
    held = (
        holdout(triggers.event("user")[at], campaign.salt, campaign.holdout)
        if campaign.holdout
        else np.zeros(len(at), bool)
    )
    taken = chosen & ~held
    reason = np.full(len(at), Reason.POLICY_NONE, np.uint8)
    if needs_score(campaign.policy):
        reason[np.isnan(score)] = Reason.NO_MODEL
    reason[chosen & held] = Reason.HOLDOUT
    reason[taken] = Reason.DRY_RUN if campaign.dry_run else Reason.OFFERED
    # A dry run never covers what a live campaign decided; an offer covers what those before it decided.
    write = asked["eligible"][at] == 0
    if not campaign.dry_run:
        write |= taken
    to = at[write]
    taken_to = taken[write]
    asked["campaign"][to] = index
    asked["reason"][to] = reason[write]
    asked["holdout"][to] = held[write]
    asked["eligible"][to] = (1 << len(campaign.arms)) - 1
    asked["arm"][to] = np.where(taken_to, arm[write], NONE)
    depth_bp = campaign.depths_bp[arm] if depth_bp is None else depth_bp  # of arm NONE: anything, masked below
    asked["depth_bp"][to] = depth_bp[write] * taken_to
    asked["value_minor"][to] = campaign.values_minor[arm[write]] * taken_to
    return at[taken]


def _cool(
    index: int, campaign: Campaign, triggers: Triggers, at: NDArray[np.int64], asked: Decisions
) -> NDArray[np.int64]:
    """Leave out those who had, or redeemed, an offer too short a time ago."""
    until_ms = np.full(len(at), _NEVER_MS)
    if campaign.after_offer_ms:
        had_ms = triggers["offer_last_ms"][at]
        until_ms = np.where(had_ms != 0, had_ms + campaign.after_offer_ms, _NEVER_MS)
    if campaign.after_redemption_ms:
        redeemed_ms = triggers["kind_last_ms"][at, Kind.OFFER_REDEEMED]
        until_ms = np.maximum(
            until_ms, np.where(redeemed_ms != 0, redeemed_ms + campaign.after_redemption_ms, _NEVER_MS)
        )
    hot = until_ms > triggers.now_ms
    if not hot.any():
        return at
    cooling = at[hot]
    first = cooling[asked["reason"][cooling] == Reason.NOT_ELIGIBLE]
    asked["reason"][first] = Reason.COOL_DOWN
    asked["campaign"][first] = index
    return at[~hot]
