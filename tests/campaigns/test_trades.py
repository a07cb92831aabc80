"""Other trades, by configuration alone: a bank's rates in basis points, a publisher's ads and bids."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import numpy as np
import pytest

from stream.campaigns.control import compile_campaigns
from stream.campaigns.files import load
from stream.campaigns.logs import log_of
from stream.campaigns.simulate import simulate
from stream.campaigns.validate import validate
from stream.core.campaign import CampaignSet
from stream.core.decide import DECISION, Reason
from stream.core.events import EVENT
from stream.kafka.codec import SOURCE_VALUES
from stream.kafka.control import InForce
from stream.kafka.encode import SourceTopic, encode_offers, offer_ids
from stream.scoring.scorer import Scored
from tests.campaigns.test_ready import NOON_MS

ROOT = Path(__file__).resolve().parents[2]
TRADES = ROOT / "docs" / "examples" / "trades"


class Certain:
    """A model that is sure of a purchase."""

    hex = "0" * 64

    def score(self, _steps: Any, _users: Any, rows: Any) -> Scored:
        return Scored(np.full((len(rows), 1), 0.9, np.float32), np.zeros(len(rows), np.uint64))


def campaign(name: str, **changes: Any) -> tuple[dict[str, Any], CampaignSet]:
    (document,) = load(TRADES / f"{name}.yaml", "EUR").documents
    document |= changes
    found, refused = compile_campaigns({document["id"]: json.dumps(document).encode()})
    assert refused == []
    return document, found


def offers(name: str, **changes: Any) -> dict[str, list[Any]]:
    """Offers by user, as their reader gets them: each is valid by the published schema."""
    _, campaigns = campaign(name, holdout=0, **changes)
    values = []
    for line in (TRADES / f"{name}-events.jsonl").read_text().splitlines():
        event = json.loads(line)
        schema = json.loads((ROOT / "schemas" / f"{event['topic']}.json").read_text())
        jsonschema.Draft202012Validator(schema).validate(event["value"])
        values.append((event["topic"], msgspec.convert(event["value"], SOURCE_VALUES[event["topic"]])))
    log, dead = log_of(values, "EUR")
    assert dead == 0
    found: dict[str, list[Any]] = {}
    schema = json.loads((ROOT / "schemas" / "offers.json").read_text())
    for given in simulate(log, InForce(Certain(), campaigns)).offers:  # type: ignore[arg-type]
        decision = np.zeros(1, DECISION)
        decision["campaign"], decision["arm"], decision["reason"] = given.campaign, given.arm, Reason.OFFERED
        trigger = np.zeros(1, EVENT)
        trigger["time_ms"] = given.time_ms
        user, topics = log.users[given.user], [SourceTopic("clickstream", "AAAAAAAAAAAAAAAAAAAAAA")]
        ids = offer_ids(topics, 0, trigger)
        (value,) = encode_offers(topics, 0, [user], trigger, decision, campaigns, [""], given.time_ms, "EUR", ids)
        offer = json.loads(value)
        jsonschema.Draft202012Validator(schema).validate(offer)
        found.setdefault(user.decode(), []).append(offer)
    return found


def test_a_bank_reduces_a_rate_by_basis_points() -> None:
    (offer,) = offers("loans", exploration=1e-9)["borrower"]
    assert (offer["kind"], offer["terms"]) == ("rate_reduction", {"basis_points": 25, "term_months": 60})
    assert (offer["cost_reserved_minor"], offer["currency"]) == (12_500, "EUR")
    assert "percent" not in offer
    assert offer["valid_until_ms"] - offer["valid_from_ms"] == 7 * 86_400_000
    assert "saver" not in offers("loans", exploration=1e-9)
    short = offers("loans", exploration=1e-9, budget={"total_minor": 20_000, "pacing": "asap"})
    assert len(short["borrower"]) == 1


def test_a_publisher_chooses_the_ad_and_its_bid() -> None:
    found = offers("advertising")
    chosen = {user: [(o["kind"], o["terms"]["ad"], o["terms"]["bid_minor"]) for o in of] for user, of in found.items()}
    # Those who were seen for the first time 45 days ago were new then.
    assert chosen == {
        "passer-by": [("show_ad", "brand-film", 12)],
        "reader": [("show_ad", "brand-film", 12), ("show_ad", "catalogue", 25)],
        "fan": [("show_ad", "brand-film", 12), ("show_ad", "accessories", 40)],
    }
    assert NOON_MS - 1_790_424_000_000 == 45 * 86_400_000


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"action": "Rate"}, "arms[0].action", "must be a name: 1 to 64"),
        ({"action": "coupon"}, "arms[0].action", "write `kind: coupon`"),
        ({"terms": {}}, "arms[0].terms", "at least 1 field"),
        ({"terms": {f"f{i}": i for i in range(17)}}, "arms[0].terms", "at most 16 fields, this has 17"),
        ({"terms": {"basis_points": 2.5}}, "arms[0].terms.basis_points", "must be a whole number or text"),
        ({"terms": {"Basis": 2}}, "arms[0].terms", "must be a name"),
        ({"percent": 5}, "arms[0].percent", "unknown field"),
        ({"cost_minor": None}, "arms[0].cost_minor", "must be a whole number"),
    ],
)
def test_what_is_wrong_with_an_action_is_said(changes: dict[str, Any], field: str, message: str) -> None:
    document, _ = campaign("loans")
    document["arms"] = [document["arms"][0] | changes, document["arms"][1]]
    problems = [str(problem) for problem in validate(document)]
    assert any(problem.startswith(f"{field}: ") and message in problem for problem in problems), problems


SHOP_WORDS = re.compile(r"shop|basket|cart|coupon|gift|shipping|product|percent|brand", re.IGNORECASE)
DECISION_CODE = ("decide.py", "caps.py")
NAMED = {
    "percent_arms",  # what a budget reserves for a percentage depends on the price
}


@pytest.mark.parametrize("name", DECISION_CODE)
def test_the_code_that_decides_knows_no_shop(name: str) -> None:
    tree = ast.parse((ROOT / "stream" / "core" / name).read_text())
    words = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    words |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    words |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    assert {word for word in words if SHOP_WORDS.search(word)} <= NAMED
