import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.uplift.curves import Ranked, auuc, qini, qini_curve, uplift_at, uplift_curve

# Ten customers, best first: given or not, outcome or not.
GIVEN = [1, 0, 1, 1, 0, 0, 1, 0, 1, 0]
OUTCOME = [1, 0, 1, 0, 0, 1, 0, 0, 0, 1]
SCORE = [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0]


def ranked(score: list[float], treated: list[int], outcome: list[int]) -> Ranked:
    return Ranked.of(np.array(score), np.array(treated, bool), np.array(outcome, bool))


def naive_curve(score: list[float], treated: list[int], outcome: list[int], kind: str) -> list[tuple[float, float]]:
    """The definitions, point by point."""
    points = [(0.0, 0.0)]
    for border in sorted(set(score), reverse=True):
        top = [(t, y) for s, t, y in zip(score, treated, outcome, strict=True) if s >= border]
        n_t, n_c = sum(t for t, _ in top), sum(1 - t for t, _ in top)
        y_t, y_c = sum(y for t, y in top if t), sum(y for t, y in top if not t)
        if kind == "qini":
            gain = y_t - (y_c * n_t / n_c if n_c else 0)
        else:
            gain = ((y_t / n_t if n_t else 0) - (y_c / n_c if n_c else 0)) * len(top)
        points.append((float(len(top)), gain))
    return points


def naive_area(points: list[tuple[float, float]]) -> float:
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points))


def test_the_qini_curve_computed_by_hand() -> None:
    once = np.ones(10)
    curve = qini_curve(ranked(SCORE, GIVEN, OUTCOME), once)
    # After 6 customers: 2 outcomes of 3 given, 1 of 3 not given: 2 - 1 x 3 / 3. At the end: 2 - 2 x 5 / 5.
    assert curve.gain[[0, 1, 3, 6, 10]].tolist() == [0, 1, 2, 1, 0]
    assert curve.n.tolist() == list(range(11))


def test_uplift_at_the_top_computed_by_hand() -> None:
    # Of the best 5: 2 of 3 given, 0 of 2 not given.
    assert uplift_at(ranked(SCORE, GIVEN, OUTCOME), 0.5, np.ones(10)) == pytest.approx(2 / 3)
    assert np.isnan(uplift_at(ranked(SCORE, GIVEN, OUTCOME), 0.1, np.ones(10)))  # nobody who was not given


cases = st.lists(
    st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.booleans(), st.booleans()), min_size=4, max_size=40
)


@given(cases)
def test_curves_are_their_definitions(rows: list[tuple[float, bool, bool]]) -> None:
    score, treated, outcome = ([*column] for column in zip(*rows, strict=True))
    t, y = [int(one) for one in treated], [int(one) for one in outcome]
    of = ranked(score, t, y)
    for curve, kind in ((qini_curve, "qini"), (uplift_curve, "uplift")):
        found = curve(of, np.ones(len(rows)))
        want = naive_curve(score, t, y, kind)
        assert found.n.tolist() == [n for n, _ in want]
        np.testing.assert_allclose(found.gain, [gain for _, gain in want], atol=1e-12)


@given(cases)
def test_normalised_areas_are_against_the_perfect_ranking(rows: list[tuple[float, bool, bool]]) -> None:
    score, treated, outcome = ([*column] for column in zip(*rows, strict=True))
    t, y = [int(one) for one in treated], [int(one) for one in outcome]
    idle = sum(a and not b for a, b in zip(t, y, strict=True))
    not_given = sum(b and not a for a, b in zip(t, y, strict=True))
    perfect = {
        "qini": [float(b * (2 * a - 1)) for a, b in zip(t, y, strict=True)],
        "uplift": [float(2 * (a == b) + (b if not_given > idle else a)) for a, b in zip(t, y, strict=True)],
    }
    for measure, kind in ((qini, "qini"), (auuc, "uplift")):
        points, best = naive_curve(score, t, y, kind), naive_curve(perfect[kind], t, y, kind)
        diagonal = best[-1][0] * best[-1][1] / 2
        found = measure(ranked(score, t, y), np.ones(len(rows)))
        if naive_area(best) - diagonal <= 1e-9:
            assert np.isnan(found) or abs(found) < 1e9
        else:
            assert found == pytest.approx((naive_area(points) - diagonal) / (naive_area(best) - diagonal))


def test_the_perfect_ranking_is_1_and_no_ranking_is_0() -> None:
    perfect = [float(y * (2 * t - 1)) for t, y in zip(GIVEN, OUTCOME, strict=True)]
    assert qini(ranked(perfect, GIVEN, OUTCOME), np.ones(10)) == pytest.approx(1)
    assert qini(ranked([0.5] * 10, GIVEN, OUTCOME), np.ones(10)) == pytest.approx(0)


def test_a_weight_of_two_is_a_customer_who_stands_there_twice() -> None:
    weight = np.array([2, 1, 0, 1, 3, 1, 1, 1, 2, 1])
    again = [np.repeat(column, weight).tolist() for column in (SCORE, GIVEN, OUTCOME)]
    for measure in (qini, auuc, lambda of, w: uplift_at(of, 0.3, w)):
        twice = measure(ranked(*again), np.ones(int(weight.sum())))
        assert measure(ranked(SCORE, GIVEN, OUTCOME), weight) == pytest.approx(twice)
