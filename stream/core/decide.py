"""Decisions: for each trigger at most one offer, from the first campaign whose policy chooses one."""

from enum import IntEnum, unique
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from stream.core.absorb import Events
from stream.core.campaign import N_CAMPAIGNS_MAX, Campaign, CampaignSet
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
    return _unit(splitmix64(users ^ _mixed(salt))) < share


@lru_cache(maxsize=N_CAMPAIGNS_MAX)
def _mixed(salt: int) -> np.uint64:
    mixed: np.uint64 = splitmix64(np.array([salt], np.uint64))[0]
    return mixed


# What is found about a trigger: columns of `found`. The arm's own depth and value are looked up at the end.
_CAMPAIGN, _ARM, _REASON, _HOLDOUT, _DEPTH_BP = range(5)
_NOTHING = np.array([NONE, NONE, Reason.NOT_ELIGIBLE, 0, 0])
# The reason by (an arm was chosen) + 2 * (the user is held out), of live campaigns and of dry runs.
_OUTCOMES = {
    dry_run: np.array([Reason.POLICY_NONE, taken, Reason.POLICY_NONE, Reason.HOLDOUT])
    for dry_run, taken in ((False, Reason.OFFERED), (True, Reason.DRY_RUN))
}


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
    decisions = np.zeros(len(events), DECISION)
    decisions["draw"] = draws
    decisions["score"] = scores[:, 0]
    decisions["propensity"] = 1
    decisions["campaign"] = decisions["arm"] = NONE
    at = np.flatnonzero(campaigns.triggers[events["kind"]])
    if not len(at):
        return decisions
    # 1.
    fresh = events["time_ms"][at] >= now_ms - offer_max_age_ms
    objection = rows["objection"][at] != 0
    consent = rows["consent"][at] == CONSENT_YES
    may = fresh & consent & ~objection
    if not may.all():
        reason = np.where(consent, np.uint8(Reason.OBJECTION), np.uint8(Reason.NO_CONSENT))
        reason[objection] = Reason.OBJECTION
        reason[~fresh] = Reason.STALE
        decisions["reason"][at] = reason
        at = at[may]
        if not len(at):
            return decisions
    # 2.
    triggers = Triggers(events, rows, at, now_ms, campaigns.segment_rules)
    score = decisions["score"][at]
    found = np.empty((len(at), len(_NOTHING)), np.int64)
    found[:] = _NOTHING
    asked = np.zeros(len(at), bool)
    open_ = np.arange(len(at))
    for index, campaign in campaigns.asked:
        if campaign.from_ms <= now_ms < campaign.until_ms:
            closed = _ask(index, campaign, triggers, score, open_, found, asked)
            if len(closed):
                is_open = np.zeros(len(at), bool)
                is_open[open_] = True
                is_open[closed] = False
                open_ = np.flatnonzero(is_open)
                if not len(open_):
                    break
    _write(decisions, at, found, asked, campaigns)
    # 3.
    offered = at[found[:, _REASON] == Reason.OFFERED]
    if len(offered):
        rows["offers_made"][offered] += 1
        rows["offer_last_ms"][offered] = np.maximum(rows["offer_last_ms"][offered], now_ms)
    return decisions


def _ask(
    index: int,
    campaign: Campaign,
    triggers: Triggers,
    scores: NDArray[np.float32],
    open_: NDArray[np.int64],
    found: NDArray[np.int64],
    asked: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Ask one campaign about the open triggers; add to `found` and `asked`; return the triggers that it closes."""
    at = eligible(campaign, triggers, open_)
    if len(at):
        at = _cool(index, campaign, triggers, at, found)
    if not len(at):
        return at
    score = scores[at]
    arm, depth_bp = choose(campaign.policy, score, triggers, at)
    chosen = arm != NONE
    if campaign.holdout:
        held = holdout(triggers.event("user")[at], campaign.salt, campaign.holdout)
        taken = chosen & ~held
    else:
        held, taken = np.zeros(len(at), bool), chosen
    record = np.empty((len(at), len(_NOTHING)), np.int64)
    record[:, _CAMPAIGN] = index
    record[:, _ARM] = np.where(taken, arm, NONE)
    record[:, _REASON] = _OUTCOMES[campaign.dry_run][chosen + 2 * held]
    record[:, _HOLDOUT] = held
    record[:, _DEPTH_BP] = 0 if depth_bp is None else depth_bp * taken
    if needs_score(campaign.policy):
        record[np.isnan(score), _REASON] = Reason.NO_MODEL
    before = asked[at]
    if before.any():
        # An offer covers what a campaign before it decided; a dry run never does.
        write = ~before if campaign.dry_run else taken | ~before
        found[at[write]] = record[write]
    else:
        found[at] = record
    asked[at] = True
    return at[taken]


def _cool(
    index: int, campaign: Campaign, triggers: Triggers, at: NDArray[np.int64], found: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Leave out those who had, or redeemed, an offer too short a time ago; never, which is 0, is long ago."""
    hot = None
    if campaign.after_offer_ms:
        hot = triggers["offer_last_ms"][at] > triggers.now_ms - campaign.after_offer_ms
    if campaign.after_redemption_ms:
        redeemed = triggers["kind_last_ms"][at, Kind.OFFER_REDEEMED] > triggers.now_ms - campaign.after_redemption_ms
        hot = redeemed if hot is None else hot | redeemed
    if hot is None or not hot.any():
        return at
    cooling = at[hot]
    first = cooling[found[cooling, _REASON] == Reason.NOT_ELIGIBLE]
    found[first, _REASON] = Reason.COOL_DOWN
    found[first, _CAMPAIGN] = index
    return at[~hot]


def _write(
    decisions: Decisions,
    at: NDArray[np.int64],
    found: NDArray[np.int64],
    asked: NDArray[np.bool_],
    campaigns: CampaignSet,
) -> None:
    """Enter what was found about the triggers `at`."""
    campaign, arm = found[:, _CAMPAIGN], found[:, _ARM]
    to: NDArray[np.int64] | slice = at if len(at) < len(decisions) else slice(None)
    decisions["campaign"][to] = campaign
    decisions["arm"][to] = arm
    decisions["reason"][to] = found[:, _REASON]
    decisions["holdout"][to] = found[:, _HOLDOUT]
    decisions["depth_bp"][to] = campaigns.depths_bp[campaign, arm] + found[:, _DEPTH_BP]
    decisions["value_minor"][to] = campaigns.values_minor[campaign, arm]
    decisions["eligible"][to] = campaigns.arm_bits[campaign] * asked
