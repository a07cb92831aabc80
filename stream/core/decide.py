"""Decisions: for each trigger at most one offer, from the first campaign whose policy chooses one."""

from enum import IntEnum, unique
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.core.absorb import Events
from stream.core.budget import NO_BUDGETS, Wallet, cost_max_minor
from stream.core.campaign import N_CAMPAIGNS_MAX, Campaign, CampaignSet, Guard, Parity, Today
from stream.core.caps import count_offers
from stream.core.eligible import eligible
from stream.core.events import CONSENT_YES, Kind
from stream.core.facts import Triggers, offers_earned
from stream.core.parity import Tally, groups
from stream.core.policies import NONE, cannot_choose, choose, needs_score
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
    CAP = 11  # as many offers as the campaign allows were made
    BUDGET = 12  # the policy chose an arm, there is no money left for it now
    OPEN_OFFER = 13  # money of some budget is still reserved for an offer of this user
    PARITY = 14  # the policy chose an arm, the user's group has had offers enough for now
    GUARD = 15  # the user has used as many offers as orders at full price allow


DECISION = np.dtype(
    [
        ("draw", "f8"),  # in [0, 1), hash of the trigger's coordinates
        ("value_minor", "i8"),  # amount, coupon, and percent under a budget: what the offer takes off at most
        ("depth_bp", "i4"),  # percent arms: hundredths of a percent
        ("eligible", "u4"),  # bit i: arm i was eligible ("none" always is)
        ("score", "f4"),  # P(purchase) without an offer; NaN = no model
        ("propensity", "f4"),  # probability of the arm chosen, given everything but the draw
        ("dual_price", "f4"),  # lambda: what one unit of the campaign's budget had to earn
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


def unit(x: NDArray[np.uint64]) -> NDArray[np.float64]:
    """[0, 1) from the top 53 bits."""
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53


def draws(topic_id_hash: int, partition: int, offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """The random draw of each trigger, a hash of its coordinates: float64 [n] in [0, 1), the same on every replay."""
    base = splitmix64(np.array([topic_id_hash], np.uint64) ^ splitmix64(np.array([partition], np.uint64)))
    return unit(splitmix64(base ^ offsets.astype(np.uint64)))


def holdout(users: NDArray[np.uint64], salt: int, share: float) -> NDArray[np.bool_]:
    """Which users are held out of a campaign, bool [n]: always the same ones, and more of them with a larger share."""
    return unit(splitmix64(users ^ _mixed(salt))) < share


@lru_cache(maxsize=N_CAMPAIGNS_MAX)
def _mixed(salt: int) -> np.uint64:
    mixed: np.uint64 = splitmix64(np.array([salt], np.uint64))[0]
    return mixed


# What is found about a trigger: columns of `found`. The arm's own depth and value are looked up at the end.
_CAMPAIGN, _ARM, _REASON, _HOLDOUT, _DEPTH_BP, _VALUE = range(6)
_NOTHING = np.array([NONE, NONE, Reason.NOT_ELIGIBLE, 0, 0, 0])
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
    wallet: Wallet = NO_BUDGETS,
) -> Decisions:
    """Decide about one round of events, each row at most once.

    1. What holds for all campaigns: a trigger that is too old, an objection, no consent.
    2. Each campaign in the set's order is asked about the triggers that are still open; one that chooses an arm for a
       user who is not held out, with money for it in the budget, closes the trigger. So there is at most one offer a
       trigger.
    3. Offers made are noted in the rows, with the money that is reserved for them.

    The decision says what the campaign did that made the offer; where none did, what the first campaign did that had
    an arm eligible.

    Args:
        events: EVENT [n].
        rows: ROW [n], after `absorb`; the fields on offers change in place where one is made.
        scores: [n, A], the first column is P(purchase) without an offer; NaN = no model.
        campaigns: in force.
        now_ms: time of the decision.
        draws: [n], see `draws`.
        offer_max_age_ms: an older trigger gets no offer.
        wallet: the budgets; what is reserved changes in place.

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
    found = np.empty((len(at), len(_NOTHING)), np.int64)
    found[:] = _NOTHING
    sheet = _Sheet(triggers, decisions["score"][at], found, np.zeros(len(at), bool), np.ones(len(at)))
    open_ = np.arange(len(at))
    today = campaigns.today(now_ms)
    for index, campaign in campaigns.asked:
        if campaign.from_ms <= now_ms < campaign.until_ms:
            closed = _ask(index, campaign, sheet, open_, today, wallet)
            if len(closed):
                is_open = np.zeros(len(at), bool)
                is_open[open_] = True
                is_open[closed] = False
                open_ = np.flatnonzero(is_open)
                if not len(open_):
                    break
    _write(decisions, at, sheet, campaigns, wallet)
    # 3.
    offered = at[found[:, _REASON] == Reason.OFFERED]
    if len(offered):
        rows["offers_made"][offered] += 1
        rows["offer_last_ms"][offered] = np.maximum(rows["offer_last_ms"][offered], now_ms)
        count_offers(rows, offered, today.day)
        if wallet:
            wallet.reserve(rows, offered, decisions[offered], campaigns)
    return decisions


class _Sheet(NamedTuple):
    """The open questions of one call, [n] triggers, and what was found about them."""

    triggers: Triggers
    score: NDArray[np.float32]
    found: NDArray[np.int64]
    """[n, columns of `found`]."""
    asked: NDArray[np.bool_]
    """A campaign had an arm eligible."""
    propensity: NDArray[np.float64]


def _ask(
    index: int, campaign: Campaign, sheet: _Sheet, open_: NDArray[np.int64], today: Today, wallet: Wallet
) -> NDArray[np.int64]:
    """Ask one campaign about the open triggers; enter what it says; return the triggers that it closes."""
    at = eligible(campaign, sheet.triggers, open_)
    if len(at):
        at = _rest(index, campaign, sheet, at, today)
    if not len(at):
        return at
    score = sheet.score[at]
    arm, depth_bp = choose(campaign, score, sheet.triggers, at, today, wallet.price(campaign))
    propensity = None
    if campaign.exploration:
        arm, propensity = _explore(campaign, arm, sheet.triggers.event("user")[at], today.day)
    taken = chosen = arm != NONE
    record = np.zeros((len(at), len(_NOTHING)), np.int64)
    record[:, _CAMPAIGN] = index
    if campaign.holdout:
        held = holdout(sheet.triggers.event("user")[at], campaign.salt, campaign.holdout)
        taken = chosen & ~held
        record[:, _HOLDOUT] = held
        record[:, _REASON] = _OUTCOMES[campaign.dry_run][chosen + 2 * held]
        if propensity is not None:
            propensity[held] = 1  # theirs is "none", whatever is drawn
    else:
        record[:, _REASON] = _OUTCOMES[campaign.dry_run][chosen.view(np.uint8)]
    _note_no_model(campaign, record, score, chosen)
    group = None
    if campaign.parity is not None and not campaign.dry_run:
        group = groups(campaign.parity.by, sheet.triggers, at)
        taken = _share(campaign.parity, record, group, taken, wallet.tallies.get(campaign.key))
    if campaign.budget is not None:
        taken = _pay(campaign, record, arm, taken, sheet.triggers.event("price_minor")[at], sheet, wallet)
    if group is not None and taken.any():
        wallet.tallies[campaign.key].made(group[taken])
    record[:, _ARM] = np.where(taken, arm, NONE)
    if depth_bp is not None:
        record[:, _DEPTH_BP] = depth_bp * taken
    _enter(campaign, sheet, at, record, taken, propensity)
    return at[taken]


def _note_no_model(
    campaign: Campaign, record: NDArray[np.int64], score: NDArray[np.float32], chosen: NDArray[np.bool_]
) -> None:
    if needs_score(campaign.policy):
        record[np.isnan(score) & ~chosen, _REASON] = Reason.NO_MODEL
    elif cannot_choose(campaign.policy):
        record[~chosen, _REASON] = Reason.NO_MODEL


def _share(
    parity: Parity, record: NDArray[np.int64], group: NDArray[np.int64], taken: NDArray[np.bool_], tally: Tally | None
) -> NDArray[np.bool_]:
    """Who is offered something that other groups get often enough too; the others get the reason."""
    if tally is None:
        allowed = np.zeros(len(taken), bool)
    else:
        allowed = tally.allows(group, record[:, _HOLDOUT] == 0, taken, parity.ratio_min)
    record[taken & ~allowed, _REASON] = Reason.PARITY
    return allowed


def _pay(
    campaign: Campaign,
    record: NDArray[np.int64],
    arm: NDArray[np.int16],
    taken: NDArray[np.bool_],
    price_minor: NDArray[np.int64],
    sheet: _Sheet,
    wallet: Wallet,
) -> NDArray[np.bool_]:
    """Who is offered something that there is money for; the others get the reason."""
    value = np.where(taken, cost_max_minor(campaign, arm, price_minor), 0)
    paid = campaign.dry_run | wallet.affords(campaign, value, sheet.triggers.now_ms)
    record[taken & ~paid, _REASON] = Reason.BUDGET
    paid &= taken
    record[:, _VALUE] = value * paid * campaign.percent_arms[arm]
    return paid


def _enter(
    campaign: Campaign,
    sheet: _Sheet,
    at: NDArray[np.int64],
    record: NDArray[np.int64],
    taken: NDArray[np.bool_],
    propensity: NDArray[np.float64] | None,
) -> None:
    """Enter what a campaign says, where no campaign before it has said something that stays."""
    found, asked = sheet.found, sheet.asked
    before = asked[at]
    asked[at] = True
    if before.any():
        # An offer covers what a campaign before it decided; a dry run never does.
        write = ~before if campaign.dry_run else taken | ~before
        at, record = at[write], record[write]
        propensity = None if propensity is None else propensity[write]
        sheet.propensity[at] = 1
    found[at] = record
    if propensity is not None:
        sheet.propensity[at] = propensity


def _explore(
    campaign: Campaign, arm: NDArray[np.int16], users: NDArray[np.uint64], day: int
) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """Draw a share of the users, anew each day of the shop, and for each of them an arm, "none" included, alike.

    For a day, since who got "none" would else be drawn again at the next click, until there is an offer: what
    randomised "none" leads to could not be told.

    Returns:
        (the arms, their propensity), [n].
    """
    share, n_arms = campaign.exploration, len(campaign.arms) + 1
    drawn = unit(splitmix64(splitmix64(users ^ _mixed(campaign.salt)) ^ np.uint64(day)))
    random = np.minimum(drawn / share * n_arms, n_arms - 1).astype(np.int16) - np.int16(1)
    taken = np.where(drawn < share, random, arm)
    propensity: NDArray[np.float64] = share / n_arms + (1 - share) * (taken == arm)
    return taken, propensity


def _rest(index: int, campaign: Campaign, sheet: _Sheet, at: NDArray[np.int64], today: Today) -> NDArray[np.int64]:
    """Leave out those who had offers enough, or one too short a time ago; never, which is 0, is long ago."""
    triggers = sheet.triggers
    hot = None
    if campaign.after_offer_ms:
        hot = triggers["offer_last_ms"][at] > triggers.now_ms - campaign.after_offer_ms
    if campaign.after_redemption_ms:
        redeemed = triggers["kind_last_ms"][at, Kind.OFFER_REDEEMED] > triggers.now_ms - campaign.after_redemption_ms
        hot = redeemed if hot is None else hot | redeemed
    if hot is not None and hot.any():
        at = _leave_out(index, sheet, at, hot, Reason.COOL_DOWN)
    if campaign.budget is not None:
        has_open = (triggers["open_cost"][at] > 0) & (triggers["offer_used"][at] == 0)
        if has_open.any():
            at = _leave_out(index, sheet, at, has_open, Reason.OPEN_OFFER)
    if campaign.caps:
        full = np.zeros(len(at), bool)
        for n_days, most in campaign.caps:
            full |= triggers.offers(today.day, n_days)[at] >= most
        if full.any():
            at = _leave_out(index, sheet, at, full, Reason.CAP)
    return at if campaign.guard is None else _guard(index, campaign.guard, sheet, at)


def _guard(index: int, guard: Guard, sheet: _Sheet, at: NDArray[np.int64]) -> NDArray[np.int64]:
    """Leave out those who have used as many offers as they may."""
    used_up = offers_earned(sheet.triggers, at, guard.free, guard.per_order) < 1
    return _leave_out(index, sheet, at, used_up, Reason.GUARD) if used_up.any() else at


def _leave_out(
    index: int, sheet: _Sheet, at: NDArray[np.int64], out: NDArray[np.bool_], reason: Reason
) -> NDArray[np.int64]:
    """The others of `at`; those left out get the reason, if they have none yet."""
    found = sheet.found
    those = at[out]
    first = those[found[those, _REASON] == Reason.NOT_ELIGIBLE]
    found[first, _REASON] = reason
    found[first, _CAMPAIGN] = index
    return at[~out]


def _write(decisions: Decisions, at: NDArray[np.int64], sheet: _Sheet, campaigns: CampaignSet, wallet: Wallet) -> None:
    """Enter what was found about the triggers `at`."""
    found = sheet.found
    campaign, arm = found[:, _CAMPAIGN], found[:, _ARM]
    to: NDArray[np.int64] | slice = at if len(at) < len(decisions) else slice(None)
    decisions["campaign"][to] = campaign
    decisions["arm"][to] = arm
    decisions["reason"][to] = found[:, _REASON]
    decisions["holdout"][to] = found[:, _HOLDOUT]
    decisions["depth_bp"][to] = campaigns.depths_bp[campaign, arm] + found[:, _DEPTH_BP]
    decisions["value_minor"][to] = campaigns.values_minor[campaign, arm] + found[:, _VALUE]
    decisions["eligible"][to] = campaigns.arm_bits[campaign] * sheet.asked
    decisions["propensity"][to] = sheet.propensity
    if wallet:
        prices = np.array([*map(wallet.price, campaigns.campaigns), 0.0])
        decisions["dual_price"][to] = prices[campaign]
