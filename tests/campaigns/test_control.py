"""From the topic's records to the set in force: what a document means, and that a bad record changes nothing."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.campaigns.control import Shop, compile_campaigns
from stream.core.campaign import N_CAMPAIGNS_MAX, ArmKind, BySegment, Frequency, Linear, Threshold
from stream.core.events import Kind
from stream.core.segments import Segment
from stream.kafka.decode import decode

BERLIN = Shop("Europe/Berlin", "EUR")


def document(**fields: Any) -> dict[str, Any]:
    return {
        "id": "c",
        "name": "C",
        "version": 1,
        "trigger": {"kinds": ["search"]},
        "arms": [{"id": "ship", "kind": "free_shipping"}],
        "policy": {"kind": "threshold", "probability": 0.5, "arm": "ship"},
        "valid_for": "24h",
    } | fields


def record(**fields: Any) -> bytes:
    return json.dumps(document(**fields) | {"published_ms": 1}).encode()


def compiled(shop: Shop = BERLIN, **fields: Any) -> Any:
    campaigns, refused = compile_campaigns({"c": record(**fields)}, shop)
    assert refused == []
    return campaigns.campaigns[0]


def test_what_a_document_means() -> None:
    campaign = compiled(
        version=7,
        trigger={"kinds": ["cart_add", "offer_redeemed"]},
        eligibility={
            "segments": ["new", "dormant"],
            "conditions": [
                {"field": "tier", "op": "in", "value": ["gold", "basic"]},
                {"field": "spend_minor", "op": ">", "value": 100},
            ],
        },
        arms=[
            {"id": "p", "kind": "percent", "percent": 12.34, "max_discount_minor": 9, "min_spend_minor": 8},
            {
                "id": "t",
                "kind": "amount",
                "tiers": [{"min_spend_minor": 100, "off_minor": 10}, {"min_spend_minor": 300, "off_minor": 50}],
            },
            {"id": "g", "kind": "gift", "product": "mug"},
        ],
        policy={"kind": "segment", "arms": {"new": "t", "dormant": "g", "frequent": "none"}},
        cool_down={"after_offer": "90m", "after_redemption": "2d"},
        holdout=0.25,
        valid_for="30s",
        currency="EUR",
    )
    assert (campaign.version, campaign.priority, campaign.paused, campaign.dry_run) == (7, 100, False, False)
    assert np.flatnonzero(campaign.kinds).tolist() == [Kind.CART_ADD, Kind.OFFER_REDEEMED]
    assert np.flatnonzero(campaign.segments).tolist() == [Segment.NEW, Segment.DORMANT]
    assert [(c.fact, c.op, c.values) for c in campaign.conditions] == [
        ("tier", "in", (3.0, 1.0)),
        ("spend_minor", ">", (100.0,)),
    ]
    percent, amount, gift = campaign.arms
    assert (percent.kind, percent.depth_bp, percent.max_discount_minor) == (ArmKind.PERCENT, 1234, 9)
    assert (amount.value_minor, amount.min_spend_minor, amount.tiers) == (50, 100, ((100, 10), (300, 50)))
    assert (gift.kind, gift.gift) == (ArmKind.GIFT, "mug")
    by_segment = [-1] * len(Segment)
    by_segment[Segment.NEW], by_segment[Segment.DORMANT] = 1, 2
    assert campaign.policy == BySegment(tuple(by_segment))
    assert (campaign.after_offer_ms, campaign.after_redemption_ms) == (5_400_000, 172_800_000)
    assert (campaign.valid_for_ms, campaign.holdout) == (30_000, 0.25)
    assert (campaign.stacking_group, campaign.disclosure) == ("default", True)


def test_the_other_policies() -> None:
    frequency = {"kind": "frequency", "window": "7d", "more_than": 3, "arm": "ship"}
    assert compiled(policy=frequency).policy == Frequency("7d", 3, 0)
    assert compiled().policy == Threshold(0.5, 0)
    linear = {"kind": "linear", "a": 0.3, "b": 0.05, "min": 0.0, "max": 0.2, "arm": "d"}
    arms = [{"id": "x", "kind": "free_shipping"}, {"id": "d", "kind": "percent"}]
    assert compiled(policy=linear, arms=arms).policy == Linear(0.3, 0.05, 0.0, 0.2, 1)


@pytest.mark.parametrize(
    ("zone", "text", "utc_ms"),
    [
        ("UTC", "2026-01-01", 1_767_225_600_000),
        ("Europe/Berlin", "2026-01-01", 1_767_222_000_000),  # 2025-12-31T23:00Z
        ("Europe/Berlin", "2026-07-01T12:30", 1_782_901_800_000),  # 10:30Z
        ("Europe/Berlin", "2026-10-25T02:30", 1_792_888_200_000),  # passed twice, the first: 00:30Z
        ("Europe/Berlin", "2026-03-29T02:30", 1_774_747_800_000),  # skipped, as if not: 01:30Z
        ("Pacific/Auckland", "2026-01-01", 1_767_178_800_000),  # 2025-12-31T11:00Z
        ("America/Sao_Paulo", "2018-11-04", 1_541_300_400_000),  # that day began at 01:00: 03:00Z
    ],
)
def test_dates_are_the_shops(zone: str, text: str, utc_ms: int) -> None:
    campaign = compiled(Shop(zone, "EUR"), **{"from": text})
    assert campaign.from_ms == utc_ms


def test_names_hash_as_those_of_events() -> None:
    event = {
        "event_id": "1", "user_id": "u", "time_ms": 1_790_000_000_000, "kind": "product_view",
        "product_id": "p-1", "category_id": "Schuhe/Größe 42", "brand": "B",
    }  # fmt: skip
    log = SimpleNamespace(
        key=b"u",
        value=json.dumps(event).encode(),
        offset=0,
        timestamp=1_790_000_000_000,
        headers=[],
        topic="clickstream",
    )
    (row,) = decode("clickstream", [log], 0, 1, "EUR", "clickstream").events
    campaign = compiled(eligibility={"products": ["p-1"], "categories": ["x", "Schuhe/Größe 42"], "brands": ["B", "b"]})
    assert row["product"] in campaign.products
    assert row["category"] in campaign.categories
    assert row["brand"] in campaign.brands
    assert (np.diff(campaign.categories.astype(np.int64)) > 0).all()


def test_the_order_in_which_campaigns_are_asked() -> None:
    fields: dict[str, dict[str, Any]] = {
        "b": {"priority": 2}, "a": {"priority": 2}, "z": {"priority": 1}, "dry": {"state": "dry_run", "priority": 0},
        "off": {"state": "paused", "priority": 0}, "y": {},
    }  # fmt: skip
    campaigns, _ = compile_campaigns({id_: record(id=id_, **more) for id_, more in fields.items()}, BERLIN)
    assert [campaign.id for _, campaign in campaigns.asked] == ["z", "a", "b", "y", "dry"]
    assert all(campaigns.campaigns[index] is campaign for index, campaign in campaigns.asked)


def test_a_paused_campaign_triggers_nothing() -> None:
    campaigns, _ = compile_campaigns({"c": record(state="paused")}, BERLIN)
    assert not campaigns.triggers.any()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"", "not JSON"),
        (b"null", "not a JSON object"),
        (b"[1]", "not a JSON object"),
        (b"\xff\xfe{}", "not JSON"),
        (json.dumps(document()).encode("utf-16"), "not JSON"),
        (b'{"id": NaN}', "NaN is no number in JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"version": 1' + b"0" * 5000 + b"}", "not JSON"),
        (record(name="\ud800"), "half a surrogate pair"),
        (record(id="d"), "id: the record's key is 'c', this is 'd'"),
        (record(version=0), "version: must be at least 1, this is 0"),
        (record(currency="USD"), "currency: the shop's currency is EUR, this is USD"),
    ],
)
def test_a_bad_record_keeps_the_last_valid_version(value: bytes, message: str) -> None:
    before, _ = compile_campaigns({"c": record(version=4), "other": record(id="other")}, BERLIN)
    after, (refusal,) = compile_campaigns({"c": value, "other": record(id="other", version=2)}, BERLIN, before)
    assert [(c.id, c.version) for c in after.campaigns] == [("c", 4), ("other", 2)]
    assert refusal.id == "c"
    assert message in refusal.message
    # Without a last version, as after a restart, it rests; the others go on.
    fresh, _ = compile_campaigns({"c": value, "other": record(id="other", version=2)}, BERLIN)
    assert [(c.id, c.version) for c in fresh.campaigns] == [("other", 2)]
    # Deleted is deleted.
    gone, refused = compile_campaigns({}, BERLIN, before)
    assert (gone.campaigns, refused) == ((), [])


def test_a_set_has_a_bound() -> None:
    records = {f"c{i:04}": record(id=f"c{i:04}") for i in range(N_CAMPAIGNS_MAX + 1)}
    campaigns, (refusal,) = compile_campaigns(records, BERLIN)
    assert len(campaigns.campaigns) == N_CAMPAIGNS_MAX
    assert (refusal.id, "1000 campaigns already" in refusal.message) == ("c1000", True)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_bytes_compile_or_are_refused(data: st.DataObject) -> None:
    good = record()
    start, length = data.draw(st.integers(0, len(good))), data.draw(st.integers(0, 10))
    junk = data.draw(st.binary(max_size=6) | st.sampled_from([b"null", b"{}", b"[]", b'"\\ud800"', b"1e999", b"-0"]))
    campaigns, refused = compile_campaigns({"c": good[:start] + junk + good[start + length :]}, BERLIN)
    assert len(campaigns.campaigns) + len(refused) == 1
