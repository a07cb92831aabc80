"""The oracle for decisions: one trigger, campaign documents as written, the user's whole list of events.

It shares no code with what it judges, but for the oracle of windows and sessions. docs/campaigns.md says what it does.
"""

import calendar
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tests.core.oracle import (
    DAY_MS,
    N_KINDS_WINDOWED,
    ORDER_CANCELLED,
    ORDER_PLACED,
    ORDER_RETURNED,
    PROFILE,
    RATING,
    SEARCH,
    SECOND_MS,
    WINDOWS,
    Event,
    count,
    session,
)

KIND_NAMES = [
    "page_view", "product_view", "search", "cart_add", "cart_remove", "favourite", "checkout_start", "service_use",
    "order_placed", "order_cancelled", "order_returned", "rating", "complaint", "offer_seen", "offer_dismissed",
    "offer_redeemed",
]  # fmt: skip
PLURALS = [
    "page_views", "views", "searches", "carts", "cart_removals", "favourites", "checkouts", "service_uses",
    "purchases", "cancellations", "returns", "ratings", "complaints", "offers_seen", "offers_dismissed",
    "offers_redeemed",
]  # fmt: skip
CART_ADD, COMPLAINT, OFFER_REDEEMED = 3, 12, 15
TIERS = ["", "basic", "silver", "gold", "platinum"]
UNIT_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": DAY_MS}


class User(NamedTuple):
    """What is known of a user when a decision is made."""

    id: int
    events: Sequence[Event]  # in order of application, the trigger last
    product: str  # names of the trigger, "" = not given
    category: str
    brand: str
    offers_made: int
    offer_last_ms: int  # 0 = never
    score: float  # NaN = no model


def latest_profile(user: User) -> Event:
    """By event time; of equal ones the one applied last."""
    profiles = sorted((e for e in user.events if e.kind == PROFILE), key=lambda e: e.time_ms)
    return profiles[-1] if profiles else Event(0, PROFILE, 0)


def facts(user: User, now_ms: int) -> dict[str, float | None]:
    """Every fact; None = not known."""
    trigger = user.events[-1]
    did = [e for e in user.events if e.kind < N_KINDS_WINDOWED]
    buys = [e for e in did if e.kind == ORDER_PLACED]
    ratings = [e.rating for e in did if e.kind == RATING]
    clock_ms = max(now_ms, *(e.time_ms for e in did))
    profile = latest_profile(user)
    cart_ms = max((e.time_ms for e in did if e.kind == CART_ADD), default=0)

    def ago(time_ms: int | None, unit_ms: int) -> int | None:
        return max(now_ms - time_ms, 0) // unit_ms if time_ms else None

    def total(kind: int) -> int:
        return sum(e.kind == kind for e in did)

    known: dict[str, float | None] = {
        f"{plural}_{window}": count(did, window, kind, clock_ms)
        for kind, plural in enumerate(PLURALS)
        for window in WINDOWS
    }
    return known | {
        "events": len(did),
        "orders": len(buys),
        "orders_cancelled": total(ORDER_CANCELLED),
        "orders_returned": total(ORDER_RETURNED),
        "complaints": total(COMPLAINT),
        "offers_made": user.offers_made,
        "offers_redeemed": total(OFFER_REDEEMED),
        "searches_empty": sum(e.kind == SEARCH and e.results == 1 for e in did),
        "session_events": session(did)[2],
        "dwell_s": sum(e.dwell_ms // 1000 for e in did),
        "spend_minor": sum(e.amount_minor for e in buys),
        "refund_minor": sum(e.amount_minor for e in did if e.kind in {ORDER_CANCELLED, ORDER_RETURNED}),
        "discount_minor": sum(e.discount_minor for e in buys),
        "discount_share": sum(e.discount_minor > 0 for e in buys) / len(buys) if buys else None,
        "rating_mean": sum(ratings) / len(ratings) if ratings else None,
        "days_since_first_seen": ago(min(e.time_ms for e in did), DAY_MS),
        "silent_days": ago(max(e.time_ms for e in did), DAY_MS),
        "days_since_first_buy": ago(min((e.time_ms for e in buys), default=None), DAY_MS),
        "time_since_last_buy_s": ago(max((e.time_ms for e in buys), default=None), SECOND_MS),
        "time_since_last_offer_s": ago(user.offer_last_ms, SECOND_MS),
        "cart_waiting_s": ago(cart_ms if cart_ms > max((e.time_ms for e in buys), default=0) else None, SECOND_MS),
        "session_age_s": ago(session(did)[1], SECOND_MS),
        "member_days": ago(profile.registered_ms, DAY_MS),
        "tier": profile.tier or None,
        "learned_segment": None,  # no classifier is published here
        "trigger_price_minor": trigger.price_minor or None,
        "trigger_quantity": trigger.quantity or None,
    }


def segment(user: User, now_ms: int) -> str:
    """New, frequent, dormant, in this order, or regular."""
    did = [e for e in user.events if e.kind < N_KINDS_WINDOWED]
    clock_ms = max(e.time_ms for e in did)
    if now_ms - min(e.time_ms for e in did) < 30 * DAY_MS:
        return "new"
    if count(did, "30d", ORDER_PLACED, max(now_ms, clock_ms)) > 3:
        return "frequent"
    if any(e.kind == ORDER_PLACED for e in did) and now_ms - clock_ms > 30 * DAY_MS:
        return "dormant"
    return "regular"


def splitmix64(x: int) -> int:
    """Steele, Lea and Flood's, in whole numbers."""
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def held_out(user_id: int, salt: int, share: float) -> bool:
    return (splitmix64(user_id ^ splitmix64(salt)) >> 11) / 2**53 < share


def meets(condition: Mapping[str, Any], known: Mapping[str, float | None]) -> bool:  # noqa: PLR0911 one for each op
    fact = known[condition["field"]]
    if fact is None:
        return False
    values = condition["value"] if isinstance(condition["value"], list) else [condition["value"]]
    values = [TIERS.index(v) if isinstance(v, str) else v for v in values]
    match condition["op"]:
        case "<":
            return fact < values[0]
        case "<=":
            return fact <= values[0]
        case ">":
            return fact > values[0]
        case ">=":
            return fact >= values[0]
        case "==":
            return fact == values[0]
        case "!=":
            return fact != values[0]
        case "in":
            return fact in values
        case "not_in":
            return fact not in values
    raise AssertionError(condition)


def date_ms(text: str) -> int:
    """Of a date in UTC."""
    return calendar.timegm(time.strptime(text, "%Y-%m-%d")) * 1000


def length_ms(text: str) -> int:
    return int(text[:-1]) * UNIT_MS[text[-1]]


def is_eligible(document: Mapping[str, Any], user: User, known: Mapping[str, float | None], now_ms: int) -> bool:
    eligibility = document.get("eligibility", {})
    return (
        KIND_NAMES[user.events[-1].kind] in document["trigger"]["kinds"]
        and ("from" not in document or now_ms >= date_ms(document["from"]))
        and ("until" not in document or now_ms < date_ms(document["until"]))
        and ("segments" not in eligibility or segment(user, now_ms) in eligibility["segments"])
        and ("products" not in eligibility or user.product in eligibility["products"])
        and ("categories" not in eligibility or user.category in eligibility["categories"])
        and ("brands" not in eligibility or user.brand in eligibility["brands"])
        and all(meets(condition, known) for condition in eligibility.get("conditions", []))
    )


def is_cooling(document: Mapping[str, Any], user: User, now_ms: int) -> bool:
    cool_down = document.get("cool_down", {})
    redeemed_ms = max((e.time_ms for e in user.events if e.kind == OFFER_REDEEMED), default=0)
    return any(
        name in cool_down and since_ms and now_ms < since_ms + length_ms(cool_down[name])
        for name, since_ms in (("after_offer", user.offer_last_ms), ("after_redemption", redeemed_ms))
    )


def choose(document: Mapping[str, Any], user: User, now_ms: int) -> tuple[str, float | None]:
    """(id of the arm, depth in percent if the policy says it)."""
    policy = document["policy"]
    did = [e for e in user.events if e.kind < N_KINDS_WINDOWED]
    match policy["kind"]:
        case "threshold":
            return (policy["arm"] if user.score > policy["probability"] else "none"), None
        case "frequency":
            clock_ms = max(now_ms, *(e.time_ms for e in did))
            n_orders = count(did, policy["window"], ORDER_PLACED, clock_ms)
            return (policy["arm"] if n_orders > policy["more_than"] else "none"), None
        case "linear":
            depth = min(max(policy["a"] * user.score + policy["b"], policy["min"]), policy["max"])
            basis_points = round(depth * 10_000) if not math.isnan(user.score) else 0
            return (policy["arm"] if basis_points > 0 else "none"), basis_points / 100
        case "segment":
            return policy["arms"].get(segment(user, now_ms), "none"), None
    raise AssertionError(policy)


def decide(  # noqa: C901, PLR0911, PLR0912 the rules in one piece
    documents: Sequence[Mapping[str, Any]], salts: Mapping[str, int], user: User, now_ms: int, offer_max_age_ms: int
) -> dict[str, Any]:
    """What is decided about the user's last event."""
    running = [d for d in documents if d.get("state", "active") != "paused"]
    running.sort(key=lambda d: (d.get("state") == "dry_run", d.get("priority", 100), d["id"]))
    trigger = user.events[-1]
    nothing: dict[str, Any] = {
        "campaign": None, "arm": "none", "percent": 0, "value_minor": 0, "eligible": [], "holdout": False,
    }  # fmt: skip
    if not any(KIND_NAMES[trigger.kind] in d["trigger"]["kinds"] for d in running):
        return nothing | {"reason": "not_triggered"}
    profile = latest_profile(user)
    if now_ms - trigger.time_ms > offer_max_age_ms:
        return nothing | {"reason": "stale"}
    if profile.objection:
        return nothing | {"reason": "objection"}
    if profile.consent != 2:
        return nothing | {"reason": "no_consent"}

    known = facts(user, now_ms)
    first_asked: dict[str, Any] | None = None
    first_cooling: str | None = None
    for document in running:
        if not is_eligible(document, user, known, now_ms):
            continue
        if is_cooling(document, user, now_ms):
            first_cooling = first_cooling or document["id"]
            continue
        held = held_out(user.id, salts[document["id"]], document.get("holdout", 0))
        decision = nothing | {
            "campaign": document["id"],
            "eligible": [arm["id"] for arm in document["arms"]],
            "holdout": held,
            "reason": "policy_none",
        }
        chosen, percent = choose(document, user, now_ms)
        if document["policy"]["kind"] in {"threshold", "linear"} and math.isnan(user.score):
            decision |= {"reason": "no_model"}
        elif chosen != "none" and held:
            decision |= {"reason": "holdout"}
        elif chosen != "none":
            arm = next(arm for arm in document["arms"] if arm["id"] == chosen)
            dry = document.get("state") == "dry_run"
            decision |= {
                "reason": "dry_run" if dry else "offered",
                "arm": chosen,
                "percent": percent if percent is not None else arm.get("percent", 0),
                "value_minor": arm["tiers"][-1]["off_minor"] if "tiers" in arm else arm.get("value_minor", 0),
            }
            if not dry:
                return decision
        first_asked = first_asked or decision
    if first_asked is not None:
        return first_asked
    if first_cooling is not None:
        return nothing | {"reason": "cool_down", "campaign": first_cooling}
    return nothing | {"reason": "not_eligible"}
