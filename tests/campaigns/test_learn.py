"""Learning the response: a made-up truth with known probabilities is found again, by depth and by user."""

import numpy as np
import pytest
from numpy.typing import NDArray

from stream.campaigns.learn import Records, fit
from stream.core.response import Feature, Forecast, from_document, sigmoid, to_document

DEPTHS = np.array([0.05, 0.1, 0.2])
FEATURES = (Feature("0"), Feature("1"), Feature("2"))


class Given:
    def __init__(self, facts: NDArray[np.float64]) -> None:
        self.facts = facts

    def event(self, field: str) -> NDArray[np.float64]:
        raise KeyError(field)

    def fact(self, name: str) -> NDArray[np.float64]:
        return self.facts[:, int(name)]


def world(n: int, seed: int) -> tuple[Records, NDArray[np.float64], NDArray[np.float64]]:
    """(records, P(purchase) without an offer, true uplift by depth): the larger fact 0, the more."""
    draw = np.random.default_rng(seed)
    facts = np.floor(np.exp(draw.normal(2, 1, (n, 3))))
    facts[draw.random(n) < 0.1, 2] = np.nan
    z = (np.log1p(facts[:, 0]) - 2.2) / 0.9
    base = -2.5 + 0.4 * np.log1p(facts[:, 1])
    p_none = sigmoid(base)
    by_depth = sigmoid(base[:, None] + np.maximum(0.8 + 0.6 * z, 0)[:, None] * (0.3 + 6 * DEPTHS))
    arm = draw.integers(-1, 3, n)
    p = np.where(arm < 0, p_none, by_depth[np.arange(n), arm])
    chance = draw.random(n)
    bought = chance < p
    # Who buys because of an offer uses it; of the others, whom it finds willing, four in five do.
    redeemed = bought & (arm >= 0) & ((chance >= p_none) | (draw.random(n) < 0.8))
    basket = np.exp(draw.normal(9, 0.7, n))
    records = Records(
        facts, np.where(arm < 0, 0.0, DEPTHS[arm]), np.full(n, 0.25), bought, redeemed, np.where(bought, basket, 0)
    )
    return records, p_none, by_depth - p_none[:, None]


def forecast(records: Records) -> tuple[Forecast, NDArray[np.float64]]:
    response = fit(FEATURES, (), records, 3_600_000)
    judged, _, _ = world(4_000, 99)
    at = np.arange(4_000)
    told = response.forecast(Given(judged.facts), at)
    again = from_document(to_document(response)).forecast(Given(judged.facts), at)
    assert np.array_equal(told.added, again.added)
    one = response.forecast(Given(judged.facts), at[7:8])
    assert (one.added[0], one.basket[0]) == (told.added[7], told.basket[7])
    return told, np.broadcast_to(DEPTHS, (4_000, 3))


def test_a_known_response_is_found_again() -> None:
    records, _, _ = world(30_000, 1)
    told, depth = forecast(records)
    _, p_none, uplift = world(4_000, 99)
    found = told.buys(depth) - told.buys_unprompted[:, None]
    assert told.buys_unprompted.mean() == pytest.approx(p_none.mean(), rel=0.06)
    assert found.mean(axis=0) == pytest.approx(uplift.mean(axis=0), rel=0.2)
    assert np.corrcoef(found[:, 1], uplift[:, 1])[0, 1] > 0.85
    # Calibrated: in each fifth by what was foretold, about as much as is true. The truth here has a kink at 0, which
    # what is learned has not.
    for fifth in np.array_split(np.argsort(found[:, 2]), 5):
        assert found[fifth, 2].mean() == pytest.approx(uplift[fifth, 2].mean(), abs=0.06)
    expected_basket = np.exp(9 + 0.7**2 / 2)
    assert told.basket.mean() == pytest.approx(expected_basket, rel=0.1)
    used = 0.8 * p_none.mean() + uplift[:, 1].mean()
    assert told.redeems(depth)[:, 1].mean() == pytest.approx(used, rel=0.1)
    assert told.offset == 0


def test_a_deeper_offer_is_never_less_likely_to_be_taken() -> None:
    records, _, _ = world(600, 2)  # few: much of what is learned is chance
    told, _ = forecast(records)
    depths = np.broadcast_to(np.linspace(0.01, 1, 40), (4_000, 40))
    for probabilities in (told.buys(depths), told.redeems(depths)):
        assert (np.diff(probabilities, axis=1) >= 0).all()


def test_where_offers_put_people_off_no_uplift_is_found() -> None:
    records, _, _ = world(20_000, 3)
    draw = np.random.default_rng(4)
    offered = records.depth > 0
    put_off = records._replace(bought=np.where(offered, draw.random(20_000) < 0.05, draw.random(20_000) < 0.15))
    told, depth = forecast(put_off._replace(redeemed=put_off.bought & offered, basket_minor=np.full(20_000, 100.0)))
    assert (told.buys(depth) < told.buys_unprompted[:, None]).mean() > 0.99


def test_what_is_no_response_is_refused() -> None:
    document = to_document(fit(FEATURES, (), world(500, 5)[0], 1))
    for change in (
        *({"features": "0"}, {"features": ["0", "1", "2"]}, {"scale": [1, 1, 0]}, {"weights": [[0]]}),
        *({"horizon_ms": 0}, {"centre": ["x"] * 3}, {"depth_power": -1.0}, {"offset": "none"}, {"used_anyway": 1.5}),
    ):
        with pytest.raises((ValueError, KeyError, TypeError)):
            from_document({**document, **change})
