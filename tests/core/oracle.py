"""The oracle: what a user's row and steps must be, told naively.

One user's whole list of events, in their order of application, plain numbers and loops, nothing kept between one
question and the next. It shares no code with what it judges: a fact is computed from the list by what docs/row.md and
docs/features.md say of it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

PRODUCT_VIEW, SEARCH, CART_ADD, FAVOURITE = 1, 2, 3, 5
ORDER_PLACED, ORDER_CANCELLED, ORDER_RETURNED, RATING = 8, 9, 10, 11
PROFILE = 19
N_KINDS, N_KINDS_WINDOWED = 20, 16

SECOND_MS, MINUTE_MS, HOUR_MS, DAY_MS = 1_000, 60_000, 3_600_000, 86_400_000
WINDOWS = {"1h": (6, 10 * MINUTE_MS), "1d": (8, 3 * HOUR_MS), "7d": (7, DAY_MS), "30d": (10, 3 * DAY_MS)}
SESSION_GAP_MS = 30 * MINUTE_MS
AFFINITY = {0: 1, PRODUCT_VIEW: 1, SEARCH: 1, FAVOURITE: 2, CART_ADD: 3, ORDER_PLACED: 5, RATING: 1}
U2_MAX, U4_MAX = 65_535, 4_294_967_295


class Event(NamedTuple):
    """The fields of `stream.core.events.EVENT`, by the same names."""

    time_ms: int
    kind: int
    event_id: int
    source: int = 0
    offset: int = 0
    user: int = 1
    session: int = 0
    offer: int = 0
    price_minor: int = 0
    amount_minor: int = 0
    discount_minor: int = 0
    registered_ms: int = 0
    product: int = 0
    category: int = 0
    brand: int = 0
    dwell_ms: int = 0
    quantity: int = 0
    results: int = 0
    birthday: int = 0
    rating: int = 0
    tier: int = 0
    consent: int = 0
    objection: int = 0


def identity(event: Event) -> int:
    """Event ids are unique within a source topic."""
    return (event.event_id ^ (event.source * 0x9E3779B97F4A7C15 % 2**64)) or 1


def which_apply(events: Sequence[Event]) -> list[bool]:
    """Everything but duplicates of one of the 16 events applied last."""
    ids: list[int] = []
    applies = []
    for event in events:
        applies.append(identity(event) not in ids[-16:])
        if applies[-1]:
            ids.append(identity(event))
    return applies


def log2_eighths(n: int) -> int:
    """log2(1 + n) in eighths, linear between powers of two, rounded down, at most 255."""
    m = 1 + n
    exponent = m.bit_length() - 1
    return min(8 * exponent + 8 * (m - 2**exponent) // 2**exponent, 255)


def in_window(events: Sequence[Event], name: str, now_ms: int) -> list[Event]:
    """The events in the tiles of a window that ends in the tile of `now_ms`."""
    tiles, tile_ms = WINDOWS[name]
    newest = now_ms // tile_ms
    return [e for e in events if newest - tiles < e.time_ms // tile_ms <= newest]


def count(events: Sequence[Event], name: str, kind: int, now_ms: int) -> int:
    return sum(e.kind == kind for e in in_window(events, name, now_ms))


def ring(items: Sequence[Any], size: int, empty: Any) -> list[Any]:
    """A ring into which items were put one after the other."""
    places = [empty] * size
    for i, item in enumerate(items):
        places[i % size] = item
    return places


def sketch(events: Sequence[Event], field: str) -> list[tuple[int, int]]:
    """Space-saving: up to 8 (key, weight); a new key takes the first lightest place and its weight."""
    held = [(0, 0)] * 8
    for event in events:
        key, weight = getattr(event, field), AFFINITY.get(event.kind, 0)
        places = [i for i in range(8) if held[i][0] == key]
        if key == 0 or (weight == 0 and not places):
            continue
        i = places[0] if places else min(range(8), key=lambda i: held[i][1])
        held[i] = (key, min(held[i][1] + weight, U4_MAX))
    return held


def session(events: Sequence[Event]) -> tuple[int, int, int]:
    """(id, begin, events) of the session that the user is in after these steps."""
    name, begin_ms, n_events = 0, 0, 0
    before_ms = None  # the latest event so far
    for event in events:
        late = before_ms is not None and event.time_ms < before_ms
        if event.session:
            if event.session == name:
                n_events += 1
            elif not late:
                name, begin_ms, n_events = event.session, event.time_ms, 1
        elif before_ms is None or event.time_ms - before_ms > SESSION_GAP_MS:
            name, begin_ms, n_events = 0, event.time_ms, 1
        else:
            n_events += 1
        before_ms = event.time_ms if before_ms is None else max(before_ms, event.time_ms)
    return name, begin_ms, n_events


def step(events: Sequence[Event]) -> list[int]:
    """The step of the last of these events, which all made steps."""
    event, before = events[-1], events[:-1]
    now_ms = max(e.time_ms for e in events)
    before_ms = max((e.time_ms for e in before), default=None)
    late = before_ms is not None and event.time_ms < before_ms
    buys = [e for e in events if e.kind == ORDER_PLACED]
    held = sketch(events, "category")
    weight = sum(w for key, w in held if key == event.category and key)
    total = sum(w for _, w in held)
    last_products = [e.product for e in before if e.product][-16:]
    return [
        event.kind + (128 if late else 0),
        log2_eighths(0 if before_ms is None else (now_ms - before_ms) // SECOND_MS),
        log2_eighths((now_ms - max(e.time_ms for e in buys)) // SECOND_MS) if buys else 255,
        log2_eighths((now_ms - min(e.time_ms for e in events)) // SECOND_MS),
        log2_eighths(len(in_window(events, "1h", now_ms))),
        log2_eighths(len(in_window(events, "1d", now_ms))),
        log2_eighths(count(events, "7d", PRODUCT_VIEW, now_ms)),
        log2_eighths(count(events, "1d", CART_ADD, now_ms)),
        log2_eighths(count(events, "7d", FAVOURITE, now_ms)),
        log2_eighths(count(events, "30d", ORDER_PLACED, now_ms)),
        weight * 128 // total if total else 0,
        log2_eighths(last_products.count(event.product) if event.product else 0),
        log2_eighths(session(events)[2]),
        event.time_ms // HOUR_MS % 24,
        log2_eighths(event.price_minor),
        sum(e.discount_minor > 0 for e in buys) * 128 // len(buys) if buys else 0,
    ]


def steps(events: Sequence[Event]) -> list[list[int]]:
    """For each event its step, sixteen zeros where it makes none (a duplicate, bookkeeping)."""
    made = []
    so_far: list[Event] = []
    for event, applies in zip(events, which_apply(events), strict=True):
        if applies and event.kind < N_KINDS_WINDOWED:
            so_far.append(event)
            made.append(step(so_far))
        else:
            made.append([0] * 16)
    return made


def row(events: Sequence[Event]) -> dict[str, Any]:
    """Every field of the row that events determine, after all of them."""
    applied = [e for e, applies in zip(events, which_apply(events), strict=True) if applies]
    did = [e for e in applied if e.kind < N_KINDS_WINDOWED]
    made = [s for s in steps(events) if any(s)]  # no step is all zero: if it is not late, it counts itself
    buys = [e for e in did if e.kind == ORDER_PLACED]
    products = [e.product for e in did if e.product]
    clock_ms = max((e.time_ms for e in did), default=0)
    session_id, session_start_ms, session_events = session(did)
    profile = Event(0, PROFILE, 0)
    for e in applied:
        if e.kind == PROFILE and e.time_ms >= profile.time_ms:
            profile = e
    counts = {name: [[0] * N_KINDS_WINDOWED for _ in range(tiles)] for name, (tiles, _) in WINDOWS.items()}
    for name, (tiles, tile_ms) in WINDOWS.items():
        for e in in_window(did, name, clock_ms):
            counts[name][e.time_ms // tile_ms % tiles][e.kind] += 1
    return {
        "last_ms": clock_ms,
        "first_ms": min((e.time_ms for e in did), default=0),
        "seq": len(did),
        "step_pos": len(made) % 32,
        "step_count": min(len(made), 32),
        "consent": profile.consent,
        "objection": profile.objection,
        "tier": profile.tier,
        "recent_ids_pos": len(applied) % 16,
        "recent_products_pos": len(products) % 16,
        "session": session_id,
        "session_start_ms": session_start_ms,
        "session_events": session_events,
        "dwell_s": min(sum(e.dwell_ms // SECOND_MS for e in did), U4_MAX),
        "first_buy_ms": min((e.time_ms for e in buys), default=0),
        "spend_minor": sum(e.amount_minor for e in buys),
        "refund_minor": sum(e.amount_minor for e in did if e.kind in {ORDER_CANCELLED, ORDER_RETURNED}),
        "discount_minor": sum(e.discount_minor for e in buys),
        "orders_discounted": sum(e.discount_minor > 0 for e in buys),
        "searches_empty": sum(e.kind == SEARCH and e.results == 1 for e in did),
        "rating_sum": sum(e.rating for e in did if e.kind == RATING),
        "profile_ms": profile.time_ms,
        "registered_ms": profile.registered_ms,
        "birthday": profile.birthday,
        "kind_total": [sum(e.kind == kind for e in applied) for kind in range(N_KINDS)],
        "kind_last_ms": [max((e.time_ms for e in applied if e.kind == kind), default=0) for kind in range(N_KINDS)],
        "category": [key for key, _ in sketch(did, "category")],
        "category_weight": [weight for _, weight in sketch(did, "category")],
        "brand": [key for key, _ in sketch(did, "brand")],
        "brand_weight": [weight for _, weight in sketch(did, "brand")],
        "recent_products": ring(products, 16, 0),
        "recent_ids": ring([identity(e) for e in applied], 16, 0),
        **{f"count_{name}": [[min(n, U2_MAX) for n in tile] for tile in tiles] for name, tiles in counts.items()},
        "steps": ring(made, 32, [0] * 16),
    }
