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
from stream.shop import evaluate
from stream.shop.earned import Earned, forked, summary
from stream.shop.judged import Run
from stream.shop.population import DAY_MS, TYPES
from stream.shop.truth import Oracle, unprompted

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
    table = unprompted(77, 300, 3, evaluate.HORIZON_MS)
    oracle = Oracle(run.shop.population, run.user_hashes, table)
    assert oracle.responds.tolist() == [t.responds for t in TYPES]
    assert (table >= 0).all()
    assert (table <= 1).all()


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
    monkeypatch.setattr(evaluate, "REFERENCE_SHOPS", (6,))
    found = evaluate.one_seed(5, 300, evaluate.POLICIES, evaluate.reachable(300))
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
