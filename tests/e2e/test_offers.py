"""Offers and decisions as their readers see them: schema, ids, age, consent, holdout; what changes while it runs."""

import functools
import hashlib
import json
import time
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest

from stream.scoring.artefact import features_hash
from stream.scoring.control import CHAMPION_KEY, file_key, pointer_json
from stream.scoring.model import Model, load
from tests.e2e import expect
from tests.e2e.harness import ROOT, Place, Read, Site, Worker, event, wait_until
from tests.e2e.logs import profile, trigger
from training.seeded import seeded_model, seeded_window_model

CAMPAIGN: dict[str, Any] = {
    "id": "nudge",
    "name": "Nudge",
    "version": 1,
    "priority": 10,
    "trigger": {"kinds": ["cart_add"]},
    "arms": [{"id": "ten", "kind": "percent", "percent": 10, "max_discount_minor": 2_000}],
    "policy": {"kind": "threshold", "probability": 0.0, "arm": "ten"},
    "valid_for": "24h",
    "currency": "EUR",
}


def campaign(**changes: Any) -> dict[str, Any]:
    return CAMPAIGN | changes


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def check_schema(name: str, records: list[Read]) -> None:
    """Every value is what the contract promises to its readers."""
    schema = json.loads((ROOT / "schemas" / f"{name}.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    for record in records:
        validator.validate(record.json)


class Desk:
    """Asks a running worker for decisions."""

    def __init__(self, site: Site, worker: Worker) -> None:
        self.site, self.worker = site, worker
        self._n = 0

    def tell(self, *users: str, **facts: Any) -> None:
        """A customers record for each user."""
        self.site.publish([profile(user, now_ms(), **facts) for user in users])
        self.site.wait_applied([self.worker])

    def ask(self, *users: str, age_ms: int = 0, kind: str = "cart_add") -> dict[str, Any]:
        """One trigger of each user: the decision on it."""
        self._n += 1
        events = [
            event("clickstream", event_id=f"ask-{self._n}-{u}", user_id=u, time_ms=now_ms() - age_ms, kind=kind)
            for u in users
        ]
        places = dict(zip(users, self.site.publish(events), strict=True))
        self.site.wait_applied([self.worker])
        of_place = {place_of(r.json["trigger"]): r.json for r in self.site.out("decisions")}
        return {user: of_place[place] for user, place in places.items()}

    def ask_until(self, user: str, holds: Callable[[Any], bool], what: str) -> Any:
        """Ask until a change has arrived."""
        answer = None

        def asked() -> bool:
            nonlocal answer
            answer = self.ask(user)[user]
            return holds(answer)

        wait_until(asked, what, 15)
        return answer


def place_of(trigger: Any) -> Place:
    return "clickstream", trigger["partition"], trigger["offset"]


def test_offers_of_every_arm_and_policy(site: Site, model: Model, model_file: bytes) -> None:
    site.publish_model(model_file, model.hex)
    tiers = [{"min_spend_minor": 5_000, "off_minor": 500}, {"min_spend_minor": 9_000, "off_minor": 1_000}]
    site.publish_campaigns(
        campaign(),
        campaign(
            id="depth",
            trigger={"kinds": ["product_view"]},
            arms=[{"id": "deep", "kind": "percent", "max_discount_minor": 500}],
            policy={"kind": "linear", "a": 0.2, "b": 0.05, "min": 0.05, "max": 0.3, "arm": "deep"},
        ),
        campaign(
            id="loyal",
            trigger={"kinds": ["search"]},
            arms=[{"id": "off", "kind": "amount", "tiers": tiers}],
            policy={"kind": "frequency", "window": "30d", "more_than": 0, "arm": "off"},
        ),
        campaign(
            id="segments",
            trigger={"kinds": ["favourite"]},
            arms=[
                {"id": "coupon", "kind": "coupon", "value_minor": 700, "min_spend_minor": 2_000},
                {"id": "shipping", "kind": "free_shipping"},
            ],
            policy={"kind": "segment", "arms": {"new": "coupon", "frequent": "shipping"}},
        ),
        campaign(
            id="gifts",
            trigger={"kinds": ["checkout_start"]},
            arms=[{"id": "mug", "kind": "gift", "product": "mug-1", "min_spend_minor": 1_000}],
            policy={"kind": "threshold", "probability": 0.0, "arm": "mug"},
        ),
    )
    users = [f"u{i}" for i in range(20)]
    order = {"order_id": "o", "kind": "placed", "total_minor": 1_000, "currency": "EUR"}
    with site.worker(decision_sample=0) as worker:
        desk = Desk(site, worker)
        desk.tell(*users)
        site.publish([event("orders", event_id=f"o{u}", user_id=u, time_ms=now_ms(), **order) for u in users[:9]])
        site.wait_applied([worker])
        kinds = ("cart_add", "product_view", "search", "favourite", "checkout_start", "page_view")
        site.publish(
            [
                event("clickstream", event_id=f"{kind}-{u}", user_id=u, time_ms=now_ms(), kind=kind)
                for u in users
                for kind in kinds
            ]
        )
        site.wait_applied([worker])
        metrics = worker.metrics()
    offers, decisions = site.out("offers"), site.out("decisions")
    check_schema("offers", offers)
    check_schema("decisions", decisions)
    # Nothing about page views and orders, which no campaign answers: sampled at 0.
    assert {r.json["trigger"]["kind"] for r in decisions} == set(kinds) - {"page_view"}

    of_campaign: dict[str, list[Any]] = {}
    for record in offers:
        of_campaign.setdefault(record.json["campaign_id"], []).append(record.json)
    assert {name: len(made) for name, made in of_campaign.items()} == {
        "nudge": 20,
        "depth": 20,
        "loyal": 9,
        "segments": 20,
        "gifts": 20,
    }
    for name, made in of_campaign.items():
        assert metrics[f'offerstream_offers_total{{campaign="{name}"}}'] == len(made)
    assert {o["percent"] for o in of_campaign["nudge"]} == {10}
    scores = {r.json["decision_id"]: r.json["score"] for r in decisions}
    for o in of_campaign["depth"]:
        depth = min(max(0.2 * scores[o["offer_id"]] + 0.05, 0.05), 0.3)
        assert o["percent"] == pytest.approx(100 * depth, abs=0.005)
    assert all(o["tiers"] == tiers for o in of_campaign["loyal"])
    coupons = {(o["kind"], o["value_minor"], o["min_spend_minor"]) for o in of_campaign["segments"]}
    assert coupons == {("coupon", 700, 2_000)}
    assert {(o["kind"], o["gift_product_id"]) for o in of_campaign["gifts"]} == {("gift", "mug-1")}

    ids = site.topic_ids()
    of_decision = {r.json["decision_id"]: r for r in decisions}
    seen = set()
    for record in offers:
        offer, decision = record.json, of_decision[record.json["offer_id"]]
        where = offer["trigger"]
        assert offer["offer_id"] == expect.offer_id(ids[where["topic"]], place_of(where))
        assert where == decision.json["trigger"]
        assert record.key == decision.key == offer["user_id"].encode()
        assert record.partition == decision.partition == where["partition"]
        assert offer["valid_until_ms"] - offer["valid_from_ms"] == 86_400_000
        assert offer["valid_from_ms"] == decision.json["time_ms"]
        assert offer["model"] == decision.json["model"] == model.hex
        assert (decision.json["arm"], decision.json["reason"]) == (offer["arm"], "offered")
        assert offer["disclosure"] is True
        seen.add(offer["offer_id"])
    assert len(seen) == len(offers)
    for record in decisions:
        assert 0 < record.json["propensity"] <= 1
        assert 0 <= record.json["draw"] < 1
        assert (record.json["reason"] == "offered") == (record.json["decision_id"] in seen)


def test_age_consent_and_objection(site: Site) -> None:
    site.publish_campaigns(campaign(policy={"kind": "frequency", "window": "30d", "more_than": 0, "arm": "ten"}))
    order = {"order_id": "o", "kind": "placed", "total_minor": 1_000, "currency": "EUR", "user_id": "u"}
    with site.worker(offer_max_age_ms=30_000) as worker:
        desk = Desk(site, worker)

        def reason(**how: Any) -> str:
            said: str = desk.ask("u", **how)["u"]["reason"]
            return said

        assert reason() == "no_consent"
        desk.tell("u", consent=None)
        assert reason() == "no_consent"
        desk.tell("u", consent=True)
        assert reason() == "policy_none"
        site.publish([event("orders", event_id="o", time_ms=now_ms(), **order)])
        site.wait_applied([worker])
        assert reason() == "offered"
        assert reason(age_ms=15_000) == "offered"
        assert reason(age_ms=31_000) == "stale"
        assert reason(age_ms=86_400_000) == "stale"
        assert reason(kind="page_view") == "not_triggered"
        desk.tell("u", consent=True, objection=True)
        assert reason() == "objection"
        desk.tell("u", consent=False)
        assert reason() == "no_consent"
        desk.tell("u")
        assert reason() == "offered"
    said = [r.json for r in site.out("decisions")]
    assert len(site.out("offers")) == sum(d["reason"] == "offered" for d in said) == 3
    assert all(d["arm"] == "none" for d in said if d["reason"] != "offered")
    expect.check_all(site, [])


def test_the_holdout_gets_nothing_and_stays(site: Site, model: Model, model_file: bytes) -> None:
    site.publish_model(model_file, model.hex)
    site.publish_campaigns(campaign(holdout=0.3))
    users = [f"u{i}" for i in range(400)]
    with site.worker() as worker:
        desk = Desk(site, worker)
        desk.tell(*users)
        first = {u: d["reason"] for u, d in desk.ask(*users).items()}
    with site.worker() as worker:
        again = Desk(site, worker)
        again._n = 1
        assert {u: d["reason"] for u, d in again.ask(*users).items()} == first
    held = sum(reason == "holdout" for reason in first.values())
    assert set(first.values()) == {"holdout", "offered"}
    assert 80 < held < 160  # 0.3 of 400, 4 standard deviations of a binomial
    offered = {r.json["user_id"] for r in site.out("offers")}
    assert offered == {u for u, reason in first.items() if reason == "offered"}


def test_campaigns_change_while_it_runs(site: Site, model: Model, model_file: bytes) -> None:
    site.publish_model(model_file, model.hex)
    site.publish_campaigns(campaign())
    with site.worker() as worker:
        desk = Desk(site, worker)
        desk.tell("u")
        assert desk.ask("u")["u"]["campaign_version"] == 1
        site.publish_campaigns(campaign(version=2, arms=[{"id": "ten", "kind": "percent", "percent": 12.5}]))
        desk.ask_until("u", lambda d: d["campaign_version"] == 2, "version 2 in force")
        assert site.out("offers")[-1].json["percent"] == 12.5
        # A document that is not valid: refused by name, version 2 goes on.
        site.publish_campaigns(campaign(version=3, policy={"kind": "threshold", "probability": 7, "arm": "ten"}))
        worker.wait_log(r"campaign nudge refused")
        site.put_control("campaigns", [(b"broken", b"{not json"), (b"\xff\xfe", b"null")])
        worker.wait_log(r"campaign broken refused")
        assert desk.ask("u")["u"]["campaign_version"] == 2
        site.publish_campaigns(campaign(version=4, state="dry_run"))
        dry = desk.ask_until("u", lambda d: d["reason"] == "dry_run", "a dry run")
        assert dry["arm"] == "ten"
        n_offers = len(site.out("offers"))
        site.publish_campaigns(campaign(version=5, state="paused"))
        desk.ask_until("u", lambda d: d["reason"] == "not_triggered", "a pause")
        site.publish_campaigns(campaign(version=6))
        desk.ask_until("u", lambda d: d["reason"] == "offered", "active again")
        site.put_control("campaigns", [(b"nudge", None)])
        desk.ask_until("u", lambda d: d["reason"] == "not_triggered", "deleted")
        offered = [r.json for r in site.out("decisions") if r.json["reason"] == "offered"]
        assert len(site.out("offers")) == len(offered)
        assert len(site.out("offers")) > n_offers
    # The next worker reads the topic whole: the deleted campaign stays deleted.
    with site.worker() as worker:
        again = Desk(site, worker)
        again._n = 1000
        assert again.ask("u")["u"]["reason"] == "not_triggered"
    expect.check_all(site, [model])


def _with_other_features(file: bytes) -> bytes:
    """As made for another version's step."""
    ours = features_hash().encode()
    assert file.count(ours) == 1
    return file.replace(ours, ours[::-1])


def test_models_change_while_it_runs(site: Site, model: Model, model_file: bytes) -> None:
    other_file = seeded_model(2)
    other = load(other_file)
    window_file = seeded_window_model(2)
    window = load(window_file)
    users = [f"u{i}" for i in range(30)]
    with site.worker() as worker:
        desk = Desk(site, worker)
        desk.tell(*users)
        assert desk.ask("u0")["u0"]["model"] == ""
        desk.ask(*users)
        site.publish_model(model_file, model.hex)
        worker.wait_log(rf"model in force: {model.hex[:12]}")
        assert all(d["model"] == model.hex for d in desk.ask(*users).values())
        assert worker.metrics()[f'offerstream_model_info{{hash="{model.hex}"}}'] == 1
        # Bad ones are refused, each with its reason; the old one goes on.
        sha = "0" * 64
        for reason, records in {
            "not_onnx": [(file_key(sha256_hex(b"x" * 1000)), b"x" * 1000), pointer(sha256_hex(b"x" * 1000))],
            "features_differ": published(_with_other_features(other_file)),
            "file_missing": [pointer(sha)],
            "sha256_differs": [(file_key(sha), other_file), pointer(sha)],
            "pointer_invalid": [(CHAMPION_KEY, b"{")],
        }.items():
            site.put_control("models", records)
            counted = f'offerstream_model_refused_total{{reason="{reason}"}}'
            wait_until(functools.partial(worker.metric, counted), f"{reason} counted", 15)
            assert desk.ask("u0")["u0"]["model"] == model.hex
        # A good one is taken over, hidden states are rebuilt from the steps.
        site.publish_model(other_file, other.hex)
        worker.wait_log(rf"model in force: {other.hex[:12]}")
        assert all(d["model"] == other.hex for d in desk.ask(*users[:20]).values())
        # So is one of the other kind, which carries no state.
        site.publish_model(window_file, window.hex)
        worker.wait_log(rf"model in force: {window.hex[:12]}")
        assert all(d["model"] == window.hex for d in desk.ask(*users[:10]).values())
        site.publish_model(model_file, model.hex)  # and back, for all but those who were not there meanwhile
        worker.wait_log(rf"model in force: {model.hex[:12]}", times=2)
        desk.ask(*users)
        metrics = worker.metrics()
        assert metrics[f'offerstream_model_info{{hash="{model.hex}"}}'] == 1
        assert f'offerstream_model_info{{hash="{other.hex}"}}' not in metrics
    expect.check_all(site, [model, other, window])


def sha256_hex(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def pointer(named: str) -> tuple[bytes, bytes]:
    return CHAMPION_KEY, pointer_json(named, now_ms())


def published(data: bytes) -> list[tuple[bytes, bytes]]:
    return [(file_key(sha256_hex(data)), data), pointer(sha256_hex(data))]


def test_one_trigger_gets_one_offer_however_often_it_comes(site: Site) -> None:
    """Copies of an event, and two campaigns that both want to answer it."""
    policy = {"kind": "frequency", "window": "30d", "more_than": 0, "arm": "ten"}
    site.publish_campaigns(campaign(policy=policy), campaign(id="second", priority=20, policy=policy))
    order = {"order_id": "o", "kind": "placed", "total_minor": 1_000, "currency": "EUR", "user_id": "u"}
    with site.worker() as worker:
        desk = Desk(site, worker)
        desk.tell("u")
        site.publish([event("orders", event_id="o", time_ms=now_ms(), **order)])
        site.wait_applied([worker])
        copies = [trigger("u", "same", now_ms())] * 5
        site.publish(copies[:2])
        site.wait_applied([worker])
        site.publish(copies[2:])
        site.wait_applied([worker])
        assert worker.outcomes()["duplicate"] == 4
    (offer,) = site.out("offers")
    assert offer.json["campaign_id"] == "nudge"
