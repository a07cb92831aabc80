"""Campaigns over a recorded log, with the stream's own code and no broker: what they would have offered, at what cost.

The log says what customers did without these offers, so it cannot say what they would have done with them. What is
assumed: an order within an offer's validity, to which the offer applies, uses it, and nobody does anything else than
recorded. So the cost is what the offers would have cost had they changed nothing; what they would have to change to pay
is told beside it, or, where a response was learned, what is expected.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from stream.campaigns.control import name_hashes
from stream.core.absorb import Events, apply_order, is_duplicate
from stream.core.budget import Wallet, name_open_offers
from stream.core.campaign import Campaign, CampaignSet
from stream.core.decide import Decisions, Reason, draws
from stream.core.events import CONSENT_UNKNOWN, CONSENT_YES, EVENT, SOURCES, Kind
from stream.core.facts import Triggers
from stream.core.policies import discounts
from stream.core.response import Responds
from stream.core.row import Rows, gather, new_rows, scatter
from stream.core.silence import as_triggers, draws_of, unanswered
from stream.kafka.control import InForce
from stream.topology import Outcome, answer_silence, process

STEP_MS = 30_000
"""Events of so much time are decided on together, at its end; less than the default age at which triggers are stale."""

STEP_EVENTS_MAX = 2_000

SWEEP_MS = 3_600_000
"""Who fell silent is looked for so often; a worker does so more often, and is no more exact about days."""

_REDEMPTIONS = SOURCES.index("redemptions")
_SEED = 1
"""Of the draws: a simulation comes out the same each time."""


class Log(NamedTuple):
    """Recorded events of U users, in the order in which they apply."""

    events: Events
    """EVENT [N]."""
    user: NDArray[np.int64]
    """[N]: whose, 0 to U - 1."""
    users: list[bytes]
    """[U]: their ids."""


@dataclasses.dataclass
class Given:
    """One offer, and what the log says of it."""

    user: int
    campaign: int
    arm: int
    depth_bp: int
    value_minor: int
    time_ms: int
    until_ms: int
    hash: int
    expected: tuple[float, float, float, float] | None = None
    """Of the learned response: more orders, their revenue, the cost, and the margin less the cost; minor units."""
    used_minor: int | None = None
    """What an order within its validity took off; None = there was none."""
    basket_minor: int = 0


@dataclasses.dataclass
class Simulation:
    """What happened: counts by campaign index and reason, and all offers."""

    decisions: Counter[tuple[int, int]]
    offers: list[Given]
    n_triggers: int = 0


def simulate(log: Log, in_force: InForce, response: Responds | None = None, max_age_ms: int = 60_000) -> Simulation:
    """Run the campaigns in force over a log.

    1. Each hour of the log's time who fell silent is answered, as by a worker's sweep.
    2. Events of a step are settled, absorbed, scored and decided on, by the functions that the worker calls.
    3. Offers are noted. They can be used by orders of later steps.
    4. An order uses the oldest offer of its user that applies; one that nobody used in time expires. The redemption or
       expiry is an event of the step after.

    Users consent unless the log says something else.

    Args:
        log: what customers did.
        in_force: model and campaigns.
        response: what was learned of how users respond to offers; None = nothing is expected of offers.
        max_age_ms: as the worker's `offer_max_age_ms`.
    """
    rows = new_rows(len(log.users))
    rows["consent"] = CONSENT_YES
    wallet, found = Wallet(), Simulation(Counter(), [])
    open_: dict[int, list[Given]] = {}
    waiting: list[np.void] = []
    waiting_users: list[int] = []
    campaigns = in_force.campaigns

    def note(events: Events, user: NDArray[np.int64], decisions: Decisions, now_ms: int) -> None:
        offered = np.flatnonzero(decisions["reason"] == Reason.OFFERED)
        made = list(_given(user[offered], decisions[offered], in_force, now_ms, len(found.offers)))
        found.offers += made
        for given in made:
            open_.setdefault(given.user, []).append(given)
        if campaigns.budgeted:
            name_open_offers(rows, user[offered], decisions[offered], campaigns, [given.hash for given in made])
        if response is not None:
            _expect(made, events[offered], rows[user[offered]], response, in_force)

    swept_ms = int(log.events["time_ms"][0]) if len(log.events) else 0
    for step in _steps(log.events["time_ms"]):
        # 1.
        while campaigns.silences and swept_ms + SWEEP_MS <= log.events["time_ms"][step.start]:
            swept_ms += SWEEP_MS
            for silences, user, outcome in _sweep(log, rows, campaigns, swept_ms, wallet):
                _count(outcome, found)
                note(silences, user, outcome.decisions, swept_ms)
        events = np.concatenate([log.events[step], np.array(waiting, EVENT)])
        user = np.concatenate([log.user[step], np.array(waiting_users, np.int64)])
        order = apply_order(events)
        events, user = gather(events, order), user[order]
        new = ~is_duplicate(events, user, rows)
        events, user = events[new], user[new]
        now_ms = int(events["time_ms"].max())
        # 2.
        if campaigns.budgeted:
            wallet.follow(campaigns, 0, 1, now_ms)
        draw = draws(_SEED, 0, np.arange(step.start, step.start + len(events)))
        events["consent"][(events["kind"] == Kind.PROFILE) & (events["consent"] == CONSENT_UNKNOWN)] = CONSENT_YES
        outcome = process(events, user, rows, in_force, now_ms, draw, max_age_ms, lambda _: None, wallet)
        _count(outcome, found)
        # 4. Before the step's own offers are noted: nobody uses an offer before it is made.
        waiting, waiting_users = _uses(events, user, open_, in_force, now_ms)
        # 3.
        note(events, user, outcome.decisions, now_ms)
    return found


def _sweep(
    log: Log, rows: Rows, campaigns: CampaignSet, now_ms: int, wallet: Wallet
) -> Iterator[tuple[Events, NDArray[np.int64], Outcome]]:
    """Answer the silences that fell due within the last SWEEP_MS, rule by rule: they, their users, and how."""
    if campaigns.budgeted:
        wallet.follow(campaigns, 0, 1, now_ms)
    for rule, asked in campaigns.silences:
        user, due_ms = unanswered(rule, rows, now_ms - SWEEP_MS, now_ms)
        if len(user):
            some = gather(rows, user)
            silences = as_triggers(rule, [xxh3_64_intdigest(log.users[i]) for i in user.tolist()], due_ms)
            outcome = answer_silence(silences, some, asked, now_ms, draws_of(rule, silences), wallet)
            scatter(rows, user, some)
            yield silences, user, outcome


def _steps(time_ms: NDArray[np.int64]) -> Iterator[slice]:
    """Slices of at most STEP_MS and STEP_EVENTS_MAX."""
    begin, n = 0, len(time_ms)
    while begin < n:
        end = int(np.searchsorted(time_ms, time_ms[begin] + STEP_MS, "left"))
        end = min(max(end, begin + 1), begin + STEP_EVENTS_MAX)
        yield slice(begin, end)
        begin = end


def _count(outcome: Outcome, found: Simulation) -> None:
    decisions = outcome.decisions[outcome.row_seqs > 0]
    pairs, n = np.unique(np.stack([decisions["campaign"], decisions["reason"]]), axis=1, return_counts=True)
    for (campaign, reason), count in zip(pairs.T.tolist(), n.tolist(), strict=True):
        found.decisions[campaign, reason] += count
    found.n_triggers += int(np.count_nonzero(decisions["reason"] != Reason.NOT_TRIGGERED))


def _given(
    user: NDArray[np.int64], decisions: Decisions, in_force: InForce, now_ms: int, n_before: int
) -> Iterator[Given]:
    """Offers, from the decisions that made them."""
    for n, one in enumerate(decisions):
        campaign = in_force.campaigns.campaigns[int(one["campaign"])]
        yield Given(
            int(user[n]), int(one["campaign"]), int(one["arm"]), int(one["depth_bp"]), int(one["value_minor"]), now_ms,
            now_ms + campaign.valid_for_ms, (n_before + n + 1) << 8,
        )  # fmt: skip


def _uses(
    events: Events, user: NDArray[np.int64], open_: dict[int, list[Given]], in_force: InForce, now_ms: int
) -> tuple[list[np.void], list[int]]:
    """What becomes of open offers: (redemptions and expiries as events of the next step, their users)."""
    said: list[np.void] = []
    users: list[int] = []

    def say(given: Given, kind: Kind, amount_minor: int) -> None:
        event = np.zeros(1, EVENT)[0]
        event["time_ms"], event["kind"], event["source"] = now_ms, kind, _REDEMPTIONS
        event["offer"], event["amount_minor"], event["event_id"] = given.hash, amount_minor, given.hash + kind
        said.append(event)
        users.append(given.user)

    for i in np.flatnonzero(events["kind"] == Kind.ORDER_PLACED).tolist():
        mine = open_.get(int(user[i]), [])
        for given in mine:
            campaign = in_force.campaigns.campaigns[given.campaign]
            off = _takes_off(given, campaign, events[i])
            if off is not None and given.time_ms < events["time_ms"][i] <= given.until_ms:
                given.used_minor, given.basket_minor = off, int(events["price_minor"][i])
                say(given, Kind.OFFER_REDEEMED, off)
                mine.remove(given)
                break
    for of_user in list(open_.values()):
        for given in [one for one in of_user if one.until_ms < now_ms]:
            say(given, Kind.OFFER_EXPIRED, 0)
            of_user.remove(given)
    for who in [who for who, of_user in open_.items() if not of_user]:
        del open_[who]
    return said, users


def _takes_off(given: Given, campaign: Campaign, order: np.void) -> int | None:
    """What an offer takes off an order, minor units; None = it does not apply: out of scope, or spends too little."""
    basket = int(order["price_minor"])
    for field, column in (("products", "product"), ("categories", "category"), ("brands", "brand")):
        names = (campaign.scope or {}).get(field)
        if names is not None and order[column] not in name_hashes(names):
            return None
    arm = campaign.arms[given.arm]
    if basket < arm.min_spend_minor:
        return None
    arm = dataclasses.replace(arm, depth_bp=given.depth_bp)
    off = int(discounts((arm,), np.array([float(basket)]))[0, 0])
    return min(off, given.value_minor) if campaign.budget is not None and given.value_minor else off


def _expect(made: list[Given], events: Events, rows: Rows, response: Responds, in_force: InForce) -> None:
    """Enter what the learned response expects of offers made."""
    if not made:
        return
    at = np.arange(len(made))
    triggers = Triggers(events, rows, at, made[0].time_ms, in_force.campaigns.segment_rules)
    forecast = response.forecast(triggers, at)
    of = [in_force.campaigns.campaigns[given.campaign] for given in made]
    off = np.empty((len(made), 1))
    for i, (given, campaign) in enumerate(zip(made, of, strict=True)):
        arm = dataclasses.replace(campaign.arms[given.arm], depth_bp=given.depth_bp)
        off[i] = discounts((arm,), forecast.basket[i : i + 1])
    depth = off / np.maximum(forecast.basket, 1.0)[:, None]
    more = forecast.buys(depth)[:, 0] - forecast.buys_unprompted
    revenue = more * forecast.basket
    cost = (forecast.redeems(depth) * off)[:, 0]
    margin = revenue * np.array([campaign.margin_rate for campaign in of]) - cost
    for given, expected in zip(made, np.stack([more, revenue, cost, margin], axis=1).tolist(), strict=True):
        given.expected = tuple(expected)


def report(log: Log, in_force: InForce, found: Simulation) -> dict[str, Any]:
    """What `campaigns simulate` tells; money in minor units. docs/campaigns.md has each field."""
    campaigns = []
    for index, campaign in enumerate(in_force.campaigns.campaigns):
        offers = [given for given in found.offers if given.campaign == index]
        reasons = {Reason(r).name.lower(): n for (c, r), n in sorted(found.decisions.items()) if c == index}
        campaigns.append(
            {
                "id": campaign.id,
                "version": campaign.version,
                "decisions": reasons,
                "offers": len(offers),
                "users": len({given.user for given in offers}),
                "arms": dict(sorted(Counter(campaign.arms[given.arm].id for given in offers).items())),
                "cost": _cost(offers, campaign),
                "effect": _effect(offers, campaign),
            }
        )
    times_ms = log.events["time_ms"]
    return {
        "events": len(log.events),
        "users": len(log.users),
        "from_ms": int(times_ms[0]) if len(times_ms) else None,
        "until_ms": int(times_ms[-1]) if len(times_ms) else None,
        "triggers": found.n_triggers,
        "model": in_force.scorer.hex or None,
        "campaigns": campaigns,
    }


def _cost(offers: list[Given], campaign: Campaign) -> dict[str, Any]:
    """What the offers cost where customers do what they did, and the most that they can cost."""
    used = [given for given in offers if given.used_minor is not None]
    most = [campaign.arms[given.arm].cost_max_minor for given in offers]
    return {
        "if_nothing_changes_minor": sum(given.used_minor or 0 for given in used),
        "used": len(used),
        "most_minor": sum(most) if all(most) else None,
    }


def _effect(offers: list[Given], campaign: Campaign) -> dict[str, Any]:
    """What is expected of the offers, or what they would have to change to pay for themselves."""
    expected = [given.expected for given in offers if given.expected is not None]
    if expected:
        orders, revenue, cost, net = (float(sum(column)) for column in zip(*expected, strict=True))
        return {
            "expected_orders": round(orders, 2),
            "expected_revenue_minor": round(revenue),
            "expected_cost_minor": round(cost),
            "expected_margin_minor": round(net) if campaign.margin_rate else None,
        }
    used = [given for given in offers if given.used_minor is not None and given.basket_minor]
    if not used or not campaign.margin_rate:
        why = (
            "no recorded order had an amount and would have used one" if not used else "the campaign has no margin_rate"
        )
        return {"break_even_orders": None, "because": why}
    cost_minor = sum(given.used_minor or 0 for given in used)
    basket_minor = sum(given.basket_minor for given in used)
    earns_minor = (basket_minor * campaign.margin_rate - cost_minor) / len(used)
    if earns_minor <= 0:
        return {"break_even_orders": None, "because": "an order with the offer earns nothing: it takes off its margin"}
    return {
        "break_even_orders": int(-(-cost_minor // earns_minor)),
        "break_even_share": round(cost_minor / earns_minor / len(offers), 4),
    }
