"""A thousand offers drawn at random are made again, each the same, by `python -m stream why`."""

import json
import random
import time
from typing import Any

import numpy as np
from click.testing import CliRunner

from stream.campaigns.control import Shop
from stream.campaigns.evidence import read_control_log, read_histories
from stream.campaigns.why import why
from stream.campaigns.why_cli import why_command
from stream.core.events import SOURCES
from stream.core.response import HEADS, Feature, Response, to_document
from stream.core.row import DAY_MS
from stream.kafka.topics import Topics
from stream.scoring.model import Model
from tests.e2e.harness import Event, Site, event
from tests.e2e.logs import profile

N_USERS, N_WAVES, N_OFFERS = 200, 30, 1_000
KINDS = ("product_view", "cart_add", "search", "favourite", "checkout_start")


def campaign(id_: str, kinds: list[str], policy: dict[str, Any], **more: Any) -> dict[str, Any]:
    arms = [
        {"id": "five", "kind": "percent", "percent": 5, "max_discount_minor": 500},
        {"id": "ten", "kind": "percent", "percent": 10, "max_discount_minor": 900},
        {"id": "coupon", "kind": "coupon", "value_minor": 300},
    ]
    document = {"id": id_, "name": id_, "version": 1, "trigger": {"kinds": kinds}, "policy": policy, "arms": arms}
    return document | {"valid_for": "1h", "currency": "EUR", "holdout": 0.1} | more


def learned() -> dict[str, object]:
    """A response by which the best arm depends on the row."""
    draw = np.random.default_rng(5)
    facts = ("carts_1h", "views_1h"), ("views_1h",), ("session_events",), ("trigger_price_minor",)
    features = tuple(Feature(*names) for names in facts)
    intercepts = np.array([-2.0, -1.0, 8.5])
    weights = draw.normal(0, 0.4, (2 * len(features), len(HEADS)))
    n = len(features)
    return to_document(Response(features, np.full(n, 2.0), np.ones(n), intercepts, weights, 0.7, 0.5, 0.0, 7 * DAY_MS))


def wave(draw: random.Random, n: int) -> list[Event]:
    now_ms = time.time_ns() // 1_000_000
    events = []
    for i in range(n):
        user = f"u{draw.randrange(N_USERS)}"
        fields: dict[str, Any] = {"event_id": f"{now_ms}-{i}", "user_id": user}
        time_ms = now_ms - draw.choice([0, 0, 1, 500, 20_000])  # some come late
        if draw.random() < 0.1:
            order = {"kind": "placed", "order_id": f"o{now_ms}-{i}", "total_minor": 2_000, "currency": "EUR"}
            events.append(event("orders", time_ms=time_ms, **fields, **order))
            continue
        fields |= {"kind": draw.choice(KINDS), "price_minor": draw.choice([1_000, 5_000, 20_000])}
        events.append(event("clickstream", time_ms=time_ms, **fields))
        if draw.random() < 0.05:
            events.append(events[-1])  # a duplicate
    return events


def test_a_thousand_random_offers_are_reproduced(site: Site, model: Model, model_file: bytes) -> None:
    site.publish_model(model_file, model.hex)
    profit = {
        **campaign("profit", ["cart_add", "favourite"], {"kind": "profit"}, exploration=0.2, margin_rate=0.4),
        "from": "2020-01-01",
        "until": "2100-01-01",
        "budget": {"total_minor": 60_000, "pacing": "asap"},
        "learned": learned(),
    }
    likely = campaign("likely", ["product_view"], {"kind": "threshold", "probability": 0.45, "arm": "ten"}, priority=1)
    likely |= {"parity": {"by": "tier", "ratio_min": 1}}  # withholds now and then
    linear = campaign(
        "linear", ["search", "cart_add"], {"kind": "linear", "a": 0.2, "b": 0.01, "min": 0, "max": 1, "arm": "d"}
    )
    linear |= {"arms": [{"id": "d", "kind": "percent"}], "priority": 200, "cool_down": {"after_offer": "1s"}}
    orders = campaign("orders", ["order_placed"], {"kind": "frequency", "window": "1h", "more_than": 1, "arm": "five"})
    seldom = campaign("seldom", ["checkout_start"], {"kind": "segment", "arms": {"new": "coupon"}}, caps={"1d": 9})
    site.publish_campaigns(profit, likely, linear, orders, seldom)
    draw = random.Random(7)
    now_ms = time.time_ns() // 1_000_000
    with site.worker(decision_sample=0) as worker:
        site.publish([profile(f"u{i}", now_ms, tier=("gold", "basic")[i % 2]) for i in range(N_USERS)])
        site.wait_applied([worker])
        for n in range(N_WAVES):
            if n == N_WAVES // 2:  # the campaign changes half-way
                site.publish_campaigns(
                    likely | {"version": 2, "arms": likely["arms"][:2], "policy": {**likely["policy"], "arm": "five"}}
                )
            site.publish(wave(draw, draw.choice([1, 20, 200, 600])))
            if n % 3 == 0:
                site.wait_applied([worker])
        site.wait_applied([worker])
    offers = [record.json for record in site.out("offers")]
    assert len(offers) >= N_OFFERS
    drawn = random.Random(8).sample(offers, N_OFFERS)
    bootstrap, prefix = site.settings.bootstrap, site.settings.topic_prefix
    with Topics(bootstrap) as topics:
        histories = {u: h for p in range(2) for u, h in read_histories(topics, prefix, p).items()}
        control = read_control_log(topics, prefix, Shop("UTC", "EUR"))
    sources = {prefix + source: source for source in SOURCES}
    wrong = []
    for offer in drawn:
        history = histories[offer["user_id"].encode()]
        (decision,) = (d for d in history.decisions.values() if d["decision_id"] == offer["offer_id"])
        answer = why(decision, history, control, sources, "EUR", 60_000)
        told = answer.again.told
        if answer.differences:
            wrong.append((offer["offer_id"], answer.differences))
        elif (told["campaign_id"], told["arm"]) != (offer["campaign_id"], offer["arm"]):
            wrong.append((offer["offer_id"], ["the offer says something else than its decision"]))
        elif offer["kind"] == "percent":
            assert told["depth_bp"] / 100 == offer["percent"]
    assert wrong == [], len(wrong)
    # So is an offer that parity withheld, though no record says what there was left.
    withheld = [
        (d, history) for history in histories.values() for d in history.decisions.values() if d["reason"] == "parity"
    ]
    assert {d["campaign_id"] for d, _ in withheld} == {"likely"}
    for decision, history in random.Random(9).sample(withheld, min(len(withheld), 50)):
        assert why(decision, history, control, sources, "EUR", 60_000).differences == []
    assert {offer["campaign_id"] for offer in drawn} == {"profit", "likely", "linear", "orders", "seldom"}
    assert {offer["campaign_version"] for offer in drawn if offer["campaign_id"] == "likely"} == {1, 2}

    asked = ["--bootstrap", bootstrap, "--topic-prefix", prefix]
    said = CliRunner().invoke(why_command, [drawn[0]["offer_id"], "--json", *asked])
    assert said.exit_code == 0, said.output
    document = json.loads(said.stdout)
    assert document["reproduced"]
    assert [one["campaign_id"] for one in document["asked"]] == ["likely", "orders", "profit", "seldom", "linear"]
    of_profit = next(offer["offer_id"] for offer in drawn if offer["campaign_id"] == "profit")
    text = CliRunner().invoke(why_command, [of_profit, *asked]).output
    assert "uplift" in text
    assert "reproduced" in text
    nobody = CliRunner().invoke(why_command, ["0" * 32, *asked])
    assert (nobody.exit_code, "no decision" in nobody.output) == (2, True)
