"""The shop judged on the stream's own code: its events are the decoder's, its policies differ as they must."""

import ast
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from aiokafka.structs import ConsumerRecord

from stream.campaigns import learn
from stream.core.campaign import CampaignSet
from stream.core.events import SOURCES
from stream.core.policies import NONE
from stream.kafka.control import InForce
from stream.kafka.decode import decode
from stream.scoring.scorer import Scorer
from stream.shop import calibration, evaluate
from stream.shop.earned import Earned, forked, summary
from stream.shop.judged import Run
from stream.shop.population import DAY_MS, TYPES
from stream.shop.simulate import response
from stream.shop.truth import Oracle, TrueForecast, observed

START_MS = evaluate.START_MS


def test_events_are_what_the_worker_decodes() -> None:
    run = Run(1, 60, START_MS)
    published = [*run.shop.profiles(), *run.shop.until(START_MS + 4 * DAY_MS)]
    assert {p.source for p in published} >= {"clickstream", "orders", "feedback", "customers"}
    events, users = run._in_columns(published)
    for place, source in enumerate(SOURCES):
        of_source = [p.value for p in published if p.source == source]
        records = [
            ConsumerRecord(
                source, 0, i, v.time_ms, 0, v.user_id.encode(), msgspec.json.encode(v), None, len(v.user_id), 0, ()
            )
            for i, v in enumerate(of_source)
        ]
        decoded = decode(source, records, 0, 1, "EUR", source)
        assert decoded.dead == []
        mine = np.flatnonzero(events["source"] == place)
        assert events[mine].tolist() == decoded.events.tolist()
        assert [f"c{users[i]:07d}".encode() for i in mine] == decoded.users


def test_learning_knows_nothing_of_the_shop() -> None:
    tree = ast.parse(Path(learn.__file__).read_text())
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"typing", "numpy.typing", "stream.core.response"}
    # What is handed to it: facts by name, and what decisions and orders say; no customer, no type.
    assert set(learn.Records._fields) == {"facts", "depth", "propensity", "bought", "redeemed", "basket_minor"}


def test_the_oracle_knows_types_and_no_draws() -> None:
    run = Run(2, 300, START_MS)
    habits = observed(77, 300, 3, evaluate.HORIZON_MS, 300_000)
    oracle = Oracle(run.shop.population, run.user_hashes, habits)
    assert oracle.responds.tolist() == [t.responds for t in TYPES]
    for chances in habits[:3]:
        assert (chances >= 0).all()
        assert (chances <= 1).all()


def test_a_policy_leaves_the_shop_as_it_was() -> None:
    run = Run(3, 40, START_MS)
    run.until(START_MS + DAY_MS, InForce(Scorer(), CampaignSet()), lambda *_: None, 3_600_000)
    before = run.rows.tobytes(), run.now_ms
    told = forked(lambda: Earned(float(run.rows["seq"].sum()), 1, 2, 3, 0.5))
    assert told.margin_minor == run.rows["seq"].sum()
    assert (run.rows.tobytes(), run.now_ms) == before
    with pytest.raises(RuntimeError, match="could not be judged"):
        forked(lambda: 1 / 0)  # type: ignore[arg-type,return-value]


def test_a_small_shop_from_end_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too small to tell which policy is better; what is reported must be there, and budgets must hold."""
    for name, value in (("HISTORY_DAYS", 1), ("LEARNING_DAYS", 3), ("JUDGED_DAYS", 1), ("BUDGET_SHARE", 2.0)):
        monkeypatch.setattr(evaluate, name, value)
    found = evaluate.one_seed(5, 300, evaluate.POLICIES, evaluate.told_of(6, 300))
    result = json.loads(json.dumps(summary([found], {})))
    assert set(result["policies"]) == {
        *("none", "everybody", "random", "propensity", "threshold", "frequency", "linear", "profit", "oracle")
    }
    for name, policy in result["policies"].items():
        assert set(policy) >= {"incremental_margin", "spent", "offers"}
        assert set(policy["incremental_margin"]) == {"value", "ci"}
        if name not in ("none", "everybody"):
            assert policy["spent"] <= result["budget"] + 0.01, name
    assert result["policies"]["none"]["offers"] == 0
    assert result["policies"]["everybody"]["offers"] > result["policies"]["profit"]["offers"] > 0
    assert NONE == -1


def test_a_shop_that_shifts_is_as_it_was_but_for_those_who_change() -> None:
    population = Run(4, 2_000, START_MS).shop.population
    before = population.type.copy()
    population.shift(0.5)
    changed = (population.type != before).mean()
    # Half are drawn anew, and some of them come out as they were.
    assert changed == pytest.approx(0.5 * (1 - sum(t.share**2 for t in TYPES)), abs=0.05)
    shares = np.bincount(population.type, minlength=len(TYPES)) / population.n
    assert shares == pytest.approx([t.share for t in TYPES], abs=0.04)


def test_the_truth_counts_money_as_the_coupon_service_does() -> None:
    """Of many customers of one kind, played one by one, what offers sell and take off is what is foretold."""
    draw = np.random.default_rng(1)
    other = np.array([1_000.0, 8_000.0, 60_000.0])
    price, depth, n = 20_000.0, 0.1, 400_000
    told = TrueForecast(np.array([price]), np.array([0.1]), np.array([0.3]), np.array([0.2]), np.array([0.6]), other)
    sells, takes_off = told.money(np.array([[depth]]))
    noticed, anyway = draw.random(n) < calibration.NOTICES, draw.random(n) < 0.1
    looked_at = np.where(draw.random(n) < 0.6, draw.choice(other, n), price)
    bought_anyway = np.where(draw.random(n) < 0.2, price, draw.choice(other, n))
    off = np.minimum(depth * looked_at, depth * price)
    moved = draw.random(n) < 0.3 * np.array([response(d) for d in (off / looked_at).tolist()])
    won = noticed & ~anyway & moved
    assert (won * looked_at).mean() == pytest.approx(sells[0, 0], rel=0.02)
    used = noticed & anyway
    cost = won * off + used * np.minimum(depth * bought_anyway, depth * price)
    assert cost.mean() == pytest.approx(takes_off[0, 0], rel=0.02)
    # What the profit policy makes of it is the same money.
    basket = told.basket
    assert (told.buys(np.array([[depth]])) - 0.1)[0, 0] * basket[0] == pytest.approx(sells[0, 0])
    assert told.redeems(np.array([[depth]]))[0, 0] * depth * basket[0] == pytest.approx(takes_off[0, 0])
