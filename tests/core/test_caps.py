"""Caps: the counts of offers a day against a list of the days on which offers were made."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream.core.caps import count_offers, offers_since
from stream.core.row import new_rows

# Days between one offer and the next; a clock may step back.
GAPS = st.lists(st.sampled_from([0, 0, 0, 0, 1, 1, 2, 6, 7, 29, 30, 31, 32, 33, 70, -1, -3]), max_size=40)


@given(GAPS, st.integers(0, 40))
def test_offers_are_counted_by_day(gaps: list[int], later: int) -> None:
    rows = new_rows(3)  # the offers go to the middle one
    days: list[int] = []
    today = 20_000
    for gap in gaps:
        today += gap
        count_offers(rows, np.array([1]), today)
        days.append(today)
    today = max([*days, today]) + later
    for n_days in (1, 7, 30):
        in_span = [day for day in days if day > today - n_days]
        full = any(in_span.count(day) >= 15 for day in in_span)
        found = offers_since(rows["offer_day"], rows["offer_days"], today, n_days).tolist()
        assert found[0] == found[2] == 0
        assert found[1] >= 15 if full else found[1] == len(in_span), (days, today, n_days)


def test_a_clock_that_stepped_back_by_months_counts_nowhere() -> None:
    rows = new_rows(1)
    for day in (20_000, 19_900):
        count_offers(rows, np.array([0]), day)
    assert offers_since(rows["offer_day"], rows["offer_days"], 20_000, 30).tolist() == [1]
