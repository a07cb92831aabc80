"""What a decision costs: 50 campaigns of 5 arms, on one core, without broker or model."""

import json
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream.campaigns.control import compile_campaigns
from stream.core.budget import Wallet
from stream.core.campaign import CampaignSet
from stream.core.caps import count_offers
from stream.core.decide import DECISION, Decisions, Reason, decide, draws
from stream.core.eligible import eligible
from stream.core.events import CONSENT_YES, Kind
from stream.core.facts import Triggers
from stream.core.fold import fold
from stream.core.response import HEADS, Feature, Response, to_document
from stream.core.row import DAY_MS, Rows, new_rows
from tests.core.bench import HOUR_MS, random_events

Row = dict[str, Any]

N_CAMPAIGNS, N_ARMS = 50, 5
N_BATCH = 2_000
N_BATCHES = 20
NOW_MS = 1_790_000_000_000
AGE_MS = 60_000

CASES = (
    (True, False, "after trigger filters"),
    (True, True, "after trigger filters, 10 of them profit"),
    (False, False, "all eligible"),
    (False, True, "all eligible, 10 of them profit"),
)
"""(filtered, profit, title), see `documents`."""

TRIGGERS = ("product_view", "search", "cart_add", "favourite", "checkout_start", "order_placed")
SEGMENTS = ("new", "frequent", "regular")

ARMS: list[dict[str, Any]] = [
    {"id": "five", "kind": "percent", "percent": 5},
    {"id": "ten", "kind": "percent", "percent": 10},
    {"id": "coupon", "kind": "coupon", "value_minor": 500, "min_spend_minor": 2_500},
    {"id": "ship", "kind": "free_shipping", "cost_minor": 400},
    {"id": "spend-save", "kind": "amount", "tiers": [{"min_spend_minor": 5_000, "off_minor": 700}]},
]
POLICIES: list[dict[str, Any]] = [
    {"kind": "threshold", "probability": 0.97, "arm": "ten"},
    {"kind": "frequency", "window": "30d", "more_than": 8, "arm": "five"},
    {"kind": "segment", "arms": {"frequent": "coupon"}},
    {"kind": "calendar", "on": "birthday", "arm": "ship"},
    {"kind": "threshold", "probability": 0.95, "arm": "spend-save"},
]
"""They choose an arm for few: a trigger that gets an offer is not asked about any further."""

LEARNED_FACTS = (
    *("views_1d", "views_7d", "carts_1d", "purchases_30d", "orders", "discount_share", "session_events"),
    *("days_since_first_seen", "time_since_last_buy_s", "trigger_price_minor"),
)


def documents(*, filtered: bool, profit: bool = False) -> list[dict[str, Any]]:
    """50 campaigns as a shop has them, each for its own events, goods and customers; or each for everything.

    Args:
        filtered: each for its own.
        profit: every fifth has the profit policy with a learned response and a budget that is paced.
    """
    found = []
    for i in range(N_CAMPAIGNS):
        document = {
            "id": f"c{i:02}",
            "name": f"Campaign {i}",
            "version": 1,
            "priority": i,
            "trigger": {"kinds": list(TRIGGERS)},
            "arms": ARMS,
            "policy": POLICIES[i % len(POLICIES)],
            "cool_down": {"after_offer": "24h"},
            "caps": {"7d": 3},
            "holdout": 0.1,
            "valid_for": "24h",
            "currency": "EUR",
        }
        if filtered:
            document["trigger"] = {"kinds": [TRIGGERS[i % len(TRIGGERS)]]}
            goods = [{}, {"categories": [f"category-{i}"]}, {"brands": [f"brand-{i}"]}][i % 3]
            who = [{}, {"segments": [SEGMENTS[i % 3]]}][i % 2]
            condition = {"field": "carts_1d", "op": ">=", "value": 2}
            document["eligibility"] = goods | who | ({"conditions": [condition]} if i % 4 == 0 else {})
            if not document["eligibility"]:
                del document["eligibility"]
        if profit and i % 5 == 0:
            document |= {
                "policy": {"kind": "profit"},
                "arms": [arm | ({"max_discount_minor": 2_000} if arm["kind"] == "percent" else {}) for arm in ARMS],
                "margin_rate": 0.3,
                "budget": {"total_minor": 10**9},
                "from": "2026-01-01",
                "until": "2027-01-01",
                "learned": learned(i),
            }
        found.append(document)
    return found


def learned(seed: int) -> dict[str, object]:
    """A response in the form in which it is published; its weights mean nothing."""
    draw = np.random.default_rng(seed)
    features = tuple(Feature(name) for name in LEARNED_FACTS)
    n = len(features)
    intercepts = np.array([-3.0, -3.0, 8.0])  # in the order of HEADS
    weights = draw.normal(0, 0.1, (2 * n, len(HEADS)))
    response = Response(features, np.full(n, 2.0), np.ones(n), intercepts, weights, 0.7, 0.5, 0.0, 7 * 24 * HOUR_MS)
    return to_document(response)


def compiled(campaigns: list[dict[str, Any]]) -> CampaignSet:
    """Raises ValueError if one is refused."""
    in_force, refused = compile_campaigns({d["id"]: json.dumps(d).encode() for d in campaigns})
    if refused:
        raise ValueError(refused)
    return in_force


def triggers(seed: int, n: int) -> tuple[NDArray[np.void], Rows]:
    """(n events that are triggers, of a user each; their rows after 40 events and some offers)."""
    draw = np.random.default_rng(seed)
    rows = new_rows(n)
    for back in range(20, 0, -1):
        each = np.tile(np.arange(n), 2)
        fold(random_events(draw, each, NOW_MS - back * 30 * HOUR_MS), each, rows)
    rows["consent"] = CONSENT_YES
    offered = np.flatnonzero(draw.random(n) < 0.5)
    for most in (1, 2, 4, 8):  # every second user has had an offer, one of sixteen has had four
        count_offers(rows, offered[: len(offered) // most], NOW_MS // DAY_MS - 2)
    rows["offers_made"][offered] = 1
    rows["offer_last_ms"][offered] = NOW_MS - draw.integers(0, 4 * DAY_MS, len(offered))
    rows["birthday"] = draw.integers(1, 13, n) * 32 + draw.integers(1, 29, n)
    events = random_events(draw, np.arange(n), NOW_MS)
    events["kind"] = draw.choice([Kind[name.upper()] for name in TRIGGERS], n)
    events["time_ms"] = NOW_MS
    return events, rows


def decided(events: NDArray[np.void], rows: Rows, campaigns: CampaignSet, seed: int) -> Decisions:
    """All of the triggers, in batches; the rows change."""
    draw = np.random.default_rng(seed)
    score = draw.beta(2, 5, len(events)).astype(np.float32)[:, None]
    drawn = draws(seed, 0, np.arange(len(events)))
    wallet = Wallet()
    if campaigns.budgeted:
        wallet.follow(campaigns, 0, 1, NOW_MS)
    found = []
    for begin in range(0, len(events), N_BATCH):
        batch = slice(begin, begin + N_BATCH)
        found.append(decide(events[batch], rows[batch], score[batch], campaigns, NOW_MS, drawn[batch], AGE_MS, wallet))
    return np.concatenate(found)


def eligible_mean(events: NDArray[np.void], rows: Rows, campaigns: CampaignSet) -> float:
    """Campaigns that may serve a trigger, on average."""
    everything = np.arange(len(events))
    asked = Triggers(events, rows, everything, NOW_MS, campaigns.segment_rules)
    return sum(len(eligible(campaign, asked, everything)) for _, campaign in campaigns.asked) / len(events)


def measure(seed: int, n_batches: int = N_BATCHES, runs: int = 5) -> list[Row]:
    """One row of var/bench.json for each case: processor time of this process, the least of several runs."""
    events, before = triggers(seed, n_batches * N_BATCH)
    found = []
    for filtered, profit, title in CASES:
        campaigns = compiled(documents(filtered=filtered, profit=profit))
        decisions, best_s = np.empty(0, DECISION), float("inf")
        for _ in range(runs):
            rows = before.copy()
            began_s = time.process_time()
            decisions = decided(events, rows, campaigns, seed)
            best_s = min(best_s, time.process_time() - began_s)
        found.append(
            {
                "system": "offerstream",
                "job": f"decide, {N_CAMPAIGNS} campaigns of {N_ARMS} arms, {title}",
                "decisions": len(events),
                "decisions_per_s": round(len(events) / best_s),
                "eligible_campaigns_mean": round(eligible_mean(events, before, campaigns), 2),
                "offers": int(np.count_nonzero(decisions["reason"] == Reason.OFFERED)),
            }
        )
    return found


if __name__ == "__main__":
    print(json.dumps(measure(1), indent=2))
