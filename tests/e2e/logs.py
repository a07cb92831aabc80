"""Seeded logs of a shop: all sources and kinds, out of order, with duplicates, users by Zipf's law."""

import json
from collections.abc import Sequence
from random import Random
from typing import Any

from tests.e2e.harness import Event, event

CLICKS = (
    "page_view",
    "product_view",
    "product_view",
    "search",
    "cart_add",
    "cart_remove",
    "favourite",
    "checkout_start",
    "service_use",
)
HOUR_MS = 3_600_000


def profile(user: str, time_ms: int, **facts: Any) -> Event:
    """A customers record with consent."""
    return event(
        "customers",
        event_id=f"profile-{user}-{time_ms}",
        user_id=user,
        time_ms=time_ms,
        kind="profile",
        **{"consent": True, **facts},
    )


def _one(draw: Random, user: str, event_id: str, time_ms: int) -> Event:
    way = draw.random()
    own = {"event_id": event_id, "user_id": user, "time_ms": time_ms}
    product = draw.randint(1, 40)
    if way < 0.80:
        return event(
            "clickstream",
            **own,
            kind=draw.choice(CLICKS),
            session_id=draw.choice([None, f"s-{user}-{draw.randint(1, 3)}"]),
            product_id=draw.choice([None, f"p{product}"]),
            category_id=f"c{product % 12}",
            brand=draw.choice([None, f"b{product % 11}"]),
            price_minor=draw.choice([None, draw.randint(1, 10**6)]),
            currency="EUR",
            dwell_ms=draw.choice([None, draw.randint(0, 90_000)]),
            result_count=draw.choice([None, 0, 3]),
        )
    if way < 0.90:
        total = draw.randint(100, 10**6)
        return event(
            "orders",
            **own,
            kind=draw.choice(["placed", "placed", "placed", "cancelled", "returned"]),
            order_id=f"o-{event_id}",
            lines=[
                {
                    "product_id": f"p{product}",
                    "category_id": f"c{product % 12}",
                    "quantity": draw.randint(1, 5),
                    "unit_price_minor": total,
                }
                for _ in range(draw.randint(0, 3))
            ],
            total_minor=total,
            discount_minor=draw.choice([None, 0, draw.randint(1, 500)]),
            currency="EUR",
        )
    if way < 0.96:
        kind = draw.choice(["rating", "complaint", "offer_seen", "offer_dismissed"])
        return event(
            "feedback",
            **own,
            kind=kind,
            rating=draw.randint(1, 5) if kind == "rating" else None,
            offer_id=f"offer-{event_id}" if kind.startswith("offer") else None,
        )
    return event(
        "redemptions",
        **own,
        kind=draw.choice(["issued", "redeemed", "expired", "released"]),
        offer_id=f"offer-{event_id}",
    )


def shop_log(
    draw: Random,
    n: int,
    users: Sequence[str],
    now_ms: int,
    prefix: str,
    *,
    late_ms: int = HOUR_MS,
    duplicates: float = 0.1,
) -> list[Event]:
    """`n` events that a shop's producers might publish now: mostly recent, some up to `late_ms` old, some twice.

    A duplicate follows at once, and only of users who have few events: a row remembers the last 16, and where the
    copies come in two batches, all that the second one holds of the user may be applied between them.
    """
    weights = [1 / (3 + rank) for rank in range(len(users))]
    log: list[Event] = []
    while len(log) < n:
        rank = draw.choices(range(len(users)), weights)[0]
        user = users[rank]
        age_ms = draw.choice([0, 0, draw.randint(0, 60_000), draw.randint(0, late_ms)])
        log.append(_one(draw, user, f"{prefix}-{len(log)}", now_ms + len(log) - age_ms))
        if rank >= 10 and draw.random() < duplicates:
            log.append(log[-1])
    return log


def trigger(user: str, event_id: str, time_ms: int, **fields: Any) -> Event:
    """An event that the tests' campaigns answer with an offer."""
    return event("clickstream", event_id=event_id, user_id=user, time_ms=time_ms, kind="cart_add", **fields)


def value_of(sent: Event) -> Any:
    """The JSON of a good event."""
    return json.loads(sent.value or b"")
