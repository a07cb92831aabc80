"""`campaigns simulate`: what it tells of a recorded log is what a count by hand says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from stream.campaigns.cli import campaigns
from stream.core.response import HEADS, Feature, Response, to_document
from stream.core.row import DAY_MS

HEADER = "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session"
COUPON = """\
id: cart-coupon
name: Coupon
version: 1
state: paused
trigger: {kinds: [cart_add]}
arms: [{id: five, kind: coupon, value_minor: 500, min_spend_minor: 2000}]
policy: {kind: segment, arms: {new: five}}
cool_down: {after_offer: 1d}
valid_for: 1h
margin_rate: 0.4
currency: EUR
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KAFKA_BOOTSTRAP", "OFFERSTREAM_TOPIC_PREFIX", "OFFERSTREAM_CURRENCY", "OFFERSTREAM_TIMEZONE"):
        monkeypatch.delenv(name, raising=False)


def line(time: str, kind: str, user: int, price: str) -> str:
    return f"2019-11-01 {time} UTC,{kind},{user}9,1,,acme,{price},{user},s{user}"


LOG = [
    HEADER,
    line("10:00:00", "cart", 1, "50.00"),  # an offer, used by the order at 10:30
    line("10:10:00", "cart", 1, "50.00"),  # too soon
    line("10:30:00", "purchase", 1, "50.00"),
    line("10:00:00", "cart", 2, "10.00"),  # an offer; the order spends too little
    line("10:20:00", "purchase", 2, "10.00"),
    line("10:00:00", "cart", 3, "30.00"),  # an offer; the order comes an hour and a second later
    line("11:00:31", "purchase", 3, "30.00"),
    line("10:00:00", "view", 4, "30.00"),
    "not,a,line",
]


def run(folder: Path, *arguments: str, campaign: str = COUPON) -> Result:
    (folder / "campaign.yaml").write_text(campaign)
    (folder / "log.csv").write_text("\n".join(LOG) + "\n")
    files = [str(folder / "campaign.yaml"), "--events", str(folder / "log.csv"), "--format", "rees46"]
    result = CliRunner().invoke(campaigns, ["simulate", *files, "--json", str(folder / "out.json"), *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def told(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "out.json").read_text())
    return result


def test_offers_cost_and_break_even_are_those_counted_by_hand(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert result.exit_code == 0, result.output
    found = told(tmp_path)
    assert (found["events"], found["users"], found["triggers"], found["broken"]) == (8, 4, 4, 1)
    (one,) = found["campaigns"]
    assert one["decisions"] == {"offered": 3, "cool_down": 1}
    assert (one["offers"], one["users"], one["arms"]) == (3, 3, {"five": 3})
    assert one["cost"] == {"if_nothing_changes_minor": 500, "used": 1, "most_minor": 1500}
    # An order like the one that used the coupon earns 0.4 x 50.00 - 5.00 = 15.00: a third of one pays for the 5.00.
    assert one["effect"] == {"break_even_orders": 1, "break_even_share": round(500 / 1500 / 3, 4)}
    assert "cart-coupon: 3 offers to 3 users" in result.output
    assert "cost had they changed nothing: 5.00 EUR on 1 orders; at most: 15.00 EUR" in result.output
    assert "to break even: 1 more orders, 11.1% of the offers" in result.output


def test_a_discount_as_deep_as_the_margin_never_breaks_even(tmp_path: Path) -> None:
    run(tmp_path, campaign=COUPON.replace("margin_rate: 0.4", "margin_rate: 0.1"))
    (one,) = told(tmp_path)["campaigns"]
    because = "an order with the offer earns nothing: it takes off its margin"
    assert one["effect"] == {"break_even_orders": None, "because": because}


def test_a_learned_response_tells_what_is_expected(tmp_path: Path) -> None:
    heads = {"base": -2.0, "added": -1.0, "basket": np.log(5_000)}
    intercepts = np.array([heads[head] for head in HEADS])
    one_fact, weights = (Feature("orders"),), np.zeros((2, len(HEADS)))
    response = Response(one_fact, np.zeros(1), np.ones(1), intercepts, weights, 1.0, 1.0, 0.0, 7 * DAY_MS)
    (tmp_path / "learned.json").write_text(json.dumps(to_document(response)))
    result = run(tmp_path, "--learned", str(tmp_path / "learned.json"))
    (one,) = told(tmp_path)["campaigns"]
    without = 1 / (1 + np.exp(2.0))
    with_ = without + (1 - without) / (1 + np.exp(1.0))  # 5.00 off 50.00 is a tenth
    more, cost = 3 * (with_ - without), 3 * with_ * 500
    assert one["effect"]["expected_orders"] == pytest.approx(more, abs=0.006)
    assert one["effect"]["expected_revenue_minor"] == round(more * 5_000)
    assert one["effect"]["expected_cost_minor"] == round(cost)
    assert one["effect"]["expected_margin_minor"] == round(more * 5_000 * 0.4 - cost)
    assert "expected: " in result.output


def test_lines_of_records_are_a_log_too(tmp_path: Path) -> None:
    click = {"event_id": "1", "user_id": "u", "time_ms": 1_572_600_000_000, "kind": "cart_add"}
    lines = [
        json.dumps({"topic": "clickstream", "value": click}),
        json.dumps({"topic": "clickstream", "value": click | {"kind": "cart_ad"}}),
        json.dumps({"topic": "offers", "value": {}}),
        json.dumps({"topic": "clickstream", "timestamp_ms": 5, "value": None}),
        "no JSON",
    ]
    (tmp_path / "records.jsonl").write_text("\n".join(lines) + "\n")
    result = run(tmp_path, "--events", str(tmp_path / "records.jsonl"), "--format", "records")
    assert result.exit_code == 0, result.output
    found = told(tmp_path)
    assert (found["events"], found["broken"], found["campaigns"][0]["offers"]) == (1, 4, 1)


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    assert run(tmp_path, campaign=COUPON.replace("version: 1", "version: 0")).exit_code == 2
    (tmp_path / "learned.json").write_text('{"facts": 3}')
    result = run(tmp_path, "--learned", str(tmp_path / "learned.json"))
    assert (result.exit_code, "no learned response" in result.output) == (2, True)
    (tmp_path / "model.onnx").write_bytes(b"no model")
    assert run(tmp_path, "--model", str(tmp_path / "model.onnx")).exit_code == 2
    missing = run(tmp_path, "--events", str(tmp_path / "nothing.csv"))
    assert (missing.exit_code, "no such file" in missing.output) == (2, True)
    unknown = run(tmp_path, "--format", "csv")
    assert (unknown.exit_code, "known are taobao, rees46, completejourney" in unknown.output) == (2, True)
    taobao = run(tmp_path, "--format", "taobao")
    assert (taobao.exit_code, "no event could be read" in taobao.output) == (1, True)
