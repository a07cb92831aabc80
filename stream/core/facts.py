"""Facts: what conditions can ask about a trigger, each defined once, of its row, the event and the time of decision.

A fact is float64 [n]; NaN where it is not known (days since the first order of a user who has none). What goes in are
integers, so comparisons are exact up to 2^53.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from stream.core import windows
from stream.core.absorb import Events
from stream.core.caps import offers_since
from stream.core.events import N_KINDS_WINDOWED, Kind
from stream.core.row import DAY_MS, N_STEPS, WINDOWS, Rows
from stream.core.segments import Segment, SegmentRules

Floats = NDArray[np.float64]
Column = NDArray[Any]


class Triggers:
    """Some events with their rows and the time of the decision.

    Rows are wide and few of their fields matter to a decision, so columns are gathered, and facts worked out, when
    first asked for.
    """

    def __init__(
        self, events: Events, rows: Rows, at: NDArray[np.int64], now_ms: int, segment_rules: SegmentRules
    ) -> None:
        self._events, self._rows = events, rows
        self._at = at if len(at) < len(events) else None
        self.now_ms = now_ms
        self._segment_rules = segment_rules
        self._columns: dict[str, Column] = {}
        self._event_columns: dict[str, Column] = {}
        self._counts: dict[tuple[str, int], NDArray[np.int64]] = {}
        self._offers: dict[tuple[int, int], NDArray[np.int64]] = {}
        self._facts: dict[str, Floats] = {}
        self._segments: NDArray[np.uint8] | None = None

    def __getitem__(self, field: str) -> Column:
        """A column of the rows, [n]."""
        column = self._columns.get(field)
        if column is None:
            column = self._rows[field] if self._at is None else self._rows[field][self._at]
            self._columns[field] = column
        return column

    def event(self, field: str) -> Column:
        """A column of the events, [n]."""
        column = self._event_columns.get(field)
        if column is None:
            column = self._events[field] if self._at is None else self._events[field][self._at]
            self._event_columns[field] = column
        return column

    def count(self, window: str, kind: int) -> NDArray[np.int64]:
        """Events of one kind in a window that ends at the time of the decision, int64 [n]."""
        count = self._counts.get((window, kind))
        if count is None:
            _, tile_ms = WINDOWS[window]
            moved = self.now_ms // tile_ms > int(self["last_ms"].min()) // tile_ms
            count = windows.count(cast("Rows", self), window, kind, self.now_ms if moved else None)
            self._counts[window, kind] = count
        return count

    def offers(self, today: int, n_days: int) -> NDArray[np.int64]:
        """Offers made in the `n_days` days of the shop that end today, int64 [n]; see `stream.core.caps`."""
        offers = self._offers.get((today, n_days))
        if offers is None:
            offers = self._offers[today, n_days] = offers_since(self["offer_day"], self["offer_days"], today, n_days)
        return offers

    def fact(self, name: str) -> Floats:
        """A fact by name, float64 [n]."""
        fact = self._facts.get(name)
        if fact is None:
            fact = self._facts[name] = FACTS[name].of(self)
        return fact

    def segments(self) -> NDArray[np.uint8]:
        """The `Segment` of each user at the time of the decision, uint8 [n]."""
        if self._segments is None:
            rules = self._segment_rules
            ordered = self["kind_total"][:, Kind.ORDER_PLACED] > 0
            dormant = ordered & (self.now_ms - self["last_ms"] > rules.dormant_days * DAY_MS)
            frequent = self.count(rules.frequent_window, Kind.ORDER_PLACED) > rules.frequent_more_than
            new = self.now_ms - self["first_ms"] < rules.new_days * DAY_MS
            segments = np.where(dormant, np.uint8(Segment.DORMANT), np.uint8(Segment.REGULAR))
            segments[frequent] = Segment.FREQUENT
            segments[new] = Segment.NEW
            self._segments = segments
        return self._segments

    def learned_segments(self) -> Floats:
        """What the published classifier says of each row's newest step, float64 [n]; NaN where there is none."""
        of = self._segment_rules.learned
        held = self["step_count"] > 0
        if of is None or not held.any():
            return np.full(len(held), np.nan)
        newest = (self["step_pos"].astype(np.int64) - 1) % N_STEPS
        return _where(held, of(self["steps"][np.arange(len(held)), newest]))


def offers_earned(triggers: Triggers, at: NDArray[np.int64], free: int, per_order: float) -> Floats:
    """How many offers users may still use: what they earned by orders at full price, less those used, float64 [n].

    An order that used an offer is not at full price, whether or not it says so. One that was cancelled or returned
    earns nothing, whichever it was: who orders at full price to be offered something, and sends it back, gains nothing.
    """
    total = triggers["kind_total"][at].astype(np.int64)
    used = total[:, Kind.OFFER_REDEEMED]
    undone = total[:, Kind.ORDER_CANCELLED] + total[:, Kind.ORDER_RETURNED]
    full_price = total[:, Kind.ORDER_PLACED] - np.maximum(triggers["orders_discounted"][at], used) - undone
    left: Floats = free + per_order * np.maximum(full_price, 0) - used
    return left


class Fact(NamedTuple):
    """One fact that conditions can name."""

    unit: str
    meaning: str
    of: Callable[[Triggers], Floats]


def _where(known: NDArray[np.bool_], value: Column) -> Floats:
    return np.where(known, value, np.nan).astype(np.float64)


def _column(field: str) -> Callable[[Triggers], Floats]:
    return lambda t: t[field].astype(np.float64)


def _given(field: str) -> Callable[[Triggers], Floats]:
    return lambda t: _where(t.event(field) != 0, t.event(field))


def _total(kind: Kind) -> Callable[[Triggers], Floats]:
    return lambda t: t["kind_total"][:, kind].astype(np.float64)


def _counted(window: str, kind: Kind) -> Callable[[Triggers], Floats]:
    return lambda t: t.count(window, kind).astype(np.float64)


def _since(time_ms: NDArray[np.int64], now_ms: int, unit_ms: int) -> Floats:
    """Whole units between a time (0 = never: not known) and now, not below 0."""
    return _where(time_ms != 0, np.maximum(now_ms - time_ms, 0) // unit_ms)


def _share(part: Column, whole: Column) -> Floats:
    return _where(whole > 0, part / np.maximum(whole, 1))


_PLURALS = {
    Kind.PAGE_VIEW: "page_views",
    Kind.PRODUCT_VIEW: "views",
    Kind.SEARCH: "searches",
    Kind.CART_ADD: "carts",
    Kind.CART_REMOVE: "cart_removals",
    Kind.FAVOURITE: "favourites",
    Kind.CHECKOUT_START: "checkouts",
    Kind.SERVICE_USE: "service_uses",
    Kind.ORDER_PLACED: "purchases",
    Kind.ORDER_CANCELLED: "cancellations",
    Kind.ORDER_RETURNED: "returns",
    Kind.RATING: "ratings",
    Kind.COMPLAINT: "complaints",
    Kind.OFFER_SEEN: "offers_seen",
    Kind.OFFER_DISMISSED: "offers_dismissed",
    Kind.OFFER_REDEEMED: "offers_redeemed",
}
if len(_PLURALS) != N_KINDS_WINDOWED:
    raise AssertionError(_PLURALS)

FACTS: dict[str, Fact] = {
    **{
        f"{plural}_{window}": Fact(
            "count", f"events of kind {kind.name.lower()} in the last {window}", _counted(window, kind)
        )
        for kind, plural in _PLURALS.items()
        for window in WINDOWS
    },
    "events": Fact("count", "events since ever", _column("seq")),
    "orders": Fact("count", "orders placed since ever", _total(Kind.ORDER_PLACED)),
    "orders_cancelled": Fact("count", "orders cancelled since ever", _total(Kind.ORDER_CANCELLED)),
    "orders_returned": Fact("count", "orders returned since ever", _total(Kind.ORDER_RETURNED)),
    "complaints": Fact("count", "complaints since ever", _total(Kind.COMPLAINT)),
    "offers_made": Fact("count", "offers made since ever, by any campaign", _column("offers_made")),
    "offers_redeemed": Fact("count", "offers redeemed since ever", _total(Kind.OFFER_REDEEMED)),
    "searches_empty": Fact("count", "searches since ever that found nothing", _column("searches_empty")),
    "session_events": Fact("count", "events of this session", _column("session_events")),
    "dwell_s": Fact("seconds", "time spent on pages since ever", _column("dwell_s")),
    "spend_minor": Fact("minor units", "paid for orders since ever", _column("spend_minor")),
    "refund_minor": Fact("minor units", "paid back since ever", _column("refund_minor")),
    "discount_minor": Fact("minor units", "saved by discounts since ever", _column("discount_minor")),
    "discount_share": Fact(
        "share",
        "orders bought on discount; known after the first order",
        lambda t: _share(t["orders_discounted"], t["kind_total"][:, Kind.ORDER_PLACED]),
    ),
    "rating_mean": Fact(
        "1 to 5",
        "mean of the ratings given; known after the first",
        lambda t: _share(t["rating_sum"], t["kind_total"][:, Kind.RATING]),
    ),
    "days_since_first_seen": Fact("days", "since the first event", lambda t: _since(t["first_ms"], t.now_ms, DAY_MS)),
    "silent_days": Fact("days", "since the last event", lambda t: _since(t["last_ms"], t.now_ms, DAY_MS)),
    "days_since_first_buy": Fact(
        "days", "since the first order; known after it", lambda t: _since(t["first_buy_ms"], t.now_ms, DAY_MS)
    ),
    "time_since_last_buy_s": Fact(
        "seconds",
        "since the last order; known after it",
        lambda t: _since(t["kind_last_ms"][:, Kind.ORDER_PLACED], t.now_ms, 1000),
    ),
    "time_since_last_offer_s": Fact(
        "seconds", "since the last offer made; known after it", lambda t: _since(t["offer_last_ms"], t.now_ms, 1000)
    ),
    "cart_waiting_s": Fact(
        "seconds",
        "since the last cart_add, where no order was placed after it; known where there is one",
        lambda t: _since(
            np.where(
                t["kind_last_ms"][:, Kind.CART_ADD] > t["kind_last_ms"][:, Kind.ORDER_PLACED],
                t["kind_last_ms"][:, Kind.CART_ADD],
                0,
            ),
            t.now_ms,
            1000,
        ),
    ),
    "session_age_s": Fact(
        "seconds", "since this session began", lambda t: _since(t["session_start_ms"], t.now_ms, 1000)
    ),
    "member_days": Fact(
        "days", "since registration; known from the profile", lambda t: _since(t["registered_ms"], t.now_ms, DAY_MS)
    ),
    "tier": Fact(
        "tier", "basic < silver < gold < platinum; known from the profile", lambda t: _where(t["tier"] != 0, t["tier"])
    ),
    "learned_segment": Fact(
        "number",
        "the segment that a published classifier gives after this event; known while one is published",
        lambda t: t.learned_segments(),
    ),
    "trigger_price_minor": Fact(
        "minor units",
        "unit price in the trigger, an order's total before discount; known if given",
        _given("price_minor"),
    ),
    "trigger_quantity": Fact("count", "quantity in the trigger; known if given", _given("quantity")),
}
"""Every fact by name. Names are in campaign documents: append, never rename."""
