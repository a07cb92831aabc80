"""Each policy alone: the arm and the depth for given scores and counts, against exact arithmetic."""

import dataclasses
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.campaigns.control import Shop, compile_document
from stream.core.campaign import BySegment, CampaignSet, Frequency, Linear, Policy, Threshold
from stream.core.events import EVENT, Kind
from stream.core.facts import Triggers
from stream.core.policies import NONE, Choice, choose, needs_score
from stream.core.row import DAY_MS, new_rows
from stream.core.segments import SegmentRules

NOW_MS = 1_790_000_000_000
RULES = SegmentRules()
CAMPAIGN = compile_document(
    {
        "id": "any",
        "name": "Any",
        "version": 1,
        "trigger": {"kinds": ["product_view"]},
        "arms": [{"id": "ten", "kind": "percent", "percent": 10}],
        "policy": {"kind": "explore"},
        "valid_for": "1d",
    },
    Shop(),
)


def ask(policy: Policy, scores: list[float], rows: np.ndarray[Any, Any] | None = None) -> Choice:
    n = len(scores)
    at = np.arange(n)
    triggers = Triggers(np.zeros(n, EVENT), new_rows(n) if rows is None else rows, at, NOW_MS, RULES)
    campaign = dataclasses.replace(CAMPAIGN, policy=policy)
    return choose(campaign, np.array(scores, np.float32), triggers, at, CampaignSet().today(NOW_MS), 0.0)


SCORES = st.floats(0, 1, width=32)
SHARES = st.integers(0, 100).map(lambda percent: percent / 100)


@given(st.lists(SCORES, min_size=1, max_size=5), st.floats(0, 1))
def test_threshold_is_above_and_not_at(scores: list[float], probability: float) -> None:
    choice = ask(Threshold(probability, 1), [*scores, math.nan])
    expected = [1 if Fraction(score) > Fraction(probability) else NONE for score in scores]
    assert choice.arm.tolist() == [*expected, NONE]
    assert choice.depth_bp is None


@given(st.lists(SCORES, min_size=1, max_size=5), st.floats(-1, 1), st.floats(-1, 1), SHARES, SHARES)
def test_linear_is_a_p_plus_b_clipped(scores: list[float], a: float, b: float, one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    choice = ask(Linear(a, b, low, high, 2), [*scores, math.nan])
    assert choice.depth_bp is not None
    for score, arm, depth_bp in zip(scores, choice.arm.tolist(), choice.depth_bp.tolist(), strict=False):
        exact = min(max(Fraction(a) * Fraction(score) + Fraction(b), Fraction(low)), Fraction(high)) * 10_000
        assert abs(depth_bp - exact) <= Fraction(1, 2) + Fraction(1, 10**9)
        assert round(low * 10_000) <= depth_bp <= round(high * 10_000)
        assert arm == (2 if depth_bp > 0 else NONE)
    assert choice.arm[-1] == NONE


def test_frequency_counts_orders_in_its_window_at_the_time_of_the_decision() -> None:
    rows = new_rows(5)
    rows["last_ms"] = NOW_MS
    place = NOW_MS // (3 * DAY_MS) % 10
    rows["count_30d"][:, place, Kind.ORDER_PLACED] = [2, 3, 4, 0, 9]
    rows["count_30d"][3, (place + 1) % 10, Kind.ORDER_PLACED] = 7  # the oldest tile
    rows["last_ms"][4] = NOW_MS - 30 * DAY_MS  # his tiles are those of a month ago
    rows["count_30d"][:, place, Kind.CART_ADD] = 99
    assert ask(Frequency("30d", 3, 0), [math.nan] * 5, rows).arm.tolist() == [NONE, NONE, 0, 0, NONE]


@pytest.mark.parametrize(
    ("first_days", "last_days", "orders", "orders_30d", "arm"),
    [
        (1, 0, 0, 0, 1),  # new
        (29.99, 0, 9, 9, 1),  # new comes first
        (30, 0, 9, 4, 2),  # frequent
        (30, 0, 9, 3, 0),  # regular
        (300, 30, 1, 0, 0),
        (300, 30.01, 1, 0, 3),  # dormant
        (300, 31, 0, 0, 0),  # never ordered
    ],
)
def test_segments_in_their_order(first_days: float, last_days: float, orders: int, orders_30d: int, arm: int) -> None:
    rows = new_rows(1)
    rows["first_ms"], rows["last_ms"] = NOW_MS - int(first_days * DAY_MS), NOW_MS - int(last_days * DAY_MS)
    rows["kind_total"][0, Kind.ORDER_PLACED] = orders
    rows["count_30d"][0, rows["last_ms"][0] // (3 * DAY_MS) % 10, Kind.ORDER_PLACED] = orders_30d
    regular, new, frequent, dormant = range(4)
    assert ask(BySegment((regular, new, frequent, dormant)), [math.nan], rows).arm.tolist() == [arm]
    assert ask(BySegment((NONE, NONE, NONE, NONE)), [math.nan], rows).arm.tolist() == [NONE]


def test_which_need_a_model() -> None:
    assert needs_score(Threshold(0.5, 0))
    assert needs_score(Linear(0, 0, 0, 0, 0))
    assert not needs_score(Frequency("30d", 3, 0))
    assert not needs_score(BySegment((0, 0, 0, 0)))
