"""Decisions are what a loop over triggers and campaign documents says, and what must never happen does not."""

import json
import math
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.campaigns.control import compile_campaigns
from stream.core.campaign import CampaignSet
from stream.core.decide import Reason, decide, draws, holdout, splitmix64
from stream.core.events import EVENT, Kind
from stream.core.facts import FACTS, Triggers
from stream.core.fold import fold
from stream.core.row import Rows, new_rows
from stream.core.segments import SEGMENT_RULES, Segment
from tests.core import decide_oracle as oracle
from tests.core.oracle import DAY_MS, PROFILE, Event

NOW_MS = 1_790_000_000_000  # 2026-09-21
AGE_MS = 60_000
SEGMENTS = ["new", "frequent", "dormant", "regular"]
NAMES = ["", "red", "green", "blau"]


def hash32(name: str) -> int:
    return (xxhash.xxh3_64_intdigest(name.encode()) & 0xFFFFFFFF or 1) if name else 0


# --- logs and documents ---------------------------------------------------------------------------------------------

AGO_MS = st.one_of(
    st.sampled_from(
        [0, 1, 60_000, 60_001, 3_600_000, DAY_MS - 1, DAY_MS, 30 * DAY_MS - 1, 30 * DAY_MS, 30 * DAY_MS + 1]
    ),
    st.integers(0, 3 * 3_600_000),
    st.integers(0, 100 * DAY_MS),
)
TRIGGER_AGO_MS = st.sampled_from([0, 1, 5_000, 59_999, 60_000, 60_001, -2_000])


@st.composite
def users(draw: st.DrawFn, index: int) -> oracle.User:
    ago_ms = sorted(draw(st.lists(AGO_MS, max_size=12)), reverse=True)
    trigger_ago_ms = draw(TRIGGER_AGO_MS)
    times_ms = sorted(NOW_MS - ago for ago in ago_ms if ago >= trigger_ago_ms)
    kinds = st.sampled_from([*range(16), PROFILE, *[int(Kind.ORDER_PLACED)] * 12, *[int(Kind.OFFER_REDEEMED)] * 2])
    names = st.sampled_from(NAMES)
    product, category, brand = draw(names), draw(names), draw(names)
    events = []
    if draw(st.integers(0, 9)):
        events.append(
            profile(times_ms[0] if times_ms else NOW_MS - DAY_MS, draw(st.sampled_from([2, 2, 2, 2, 2, 1, 0])), 0)
        )
    for i, time_ms in enumerate([*times_ms, NOW_MS - trigger_ago_ms]):
        last = i == len(times_ms)
        kind = draw(st.sampled_from([1, 1, 1, 1, 3, 8])) if last else draw(kinds)
        if kind == PROFILE:
            events.append(profile(time_ms, draw(st.sampled_from([2] * 9 + [1])), draw(st.sampled_from([0] * 9 + [1]))))
            events[-1] = events[-1]._replace(
                event_id=i + 2,
                tier=draw(st.integers(0, 4)),
                registered_ms=draw(st.sampled_from([0, NOW_MS - 99 * DAY_MS])),
            )
            continue
        small = draw(st.integers(0, 3))
        events.append(
            Event(
                time_ms,
                kind,
                event_id=i + 2,
                session=draw(st.sampled_from([0, 7])),
                price_minor=1000 * small,
                amount_minor=700 * small,
                discount_minor=300 * small,
                quantity=small,
                results=small,
                dwell_ms=1500 * small,
                rating=5 if kind == 11 else 0,
                product=hash32(product) if last else 5,
                category=hash32(category) if last else 6,
                brand=hash32(brand) if last else 7,
            )
        )
    score = draw(st.sampled_from([0.7, 0.3, 0.5, 0.123456, 1.0, 0.0, math.nan]))
    offered_ago_ms = draw(st.sampled_from([None, 0, 3_599_999, 3_600_000, 3_600_001]))
    return oracle.User(
        id=draw(st.integers(1, 2**64 - 1)),
        events=events,
        product=product,
        category=category,
        brand=brand,
        offers_made=0 if offered_ago_ms is None else 1 + index,
        offer_last_ms=0 if offered_ago_ms is None else NOW_MS - offered_ago_ms,
        score=float(np.float32(score)),
    )


def profile(time_ms: int, consent: int, objection: int) -> Event:
    return Event(time_ms, PROFILE, event_id=1, source=4, consent=consent, objection=objection)


@st.composite
def conditions(draw: st.DrawFn) -> dict[str, Any]:
    field = draw(st.sampled_from(sorted(FACTS)))
    value = st.sampled_from(oracle.TIERS[1:]) if field == "tier" else st.one_of(st.integers(0, 3), st.just(0.5))
    op = draw(st.sampled_from(["<", "<=", ">", ">=", "==", "!=", "in", "not_in"]))
    many = op in {"in", "not_in"}
    return {
        "field": field,
        "op": op,
        "value": draw(st.lists(value, min_size=1, max_size=3, unique=True) if many else value),
    }


ARMS: list[dict[str, Any]] = [
    {"id": "ten", "kind": "percent", "percent": 10.5},
    {"id": "depth", "kind": "percent"},
    {
        "id": "tiers",
        "kind": "amount",
        "tiers": [{"min_spend_minor": 10, "off_minor": 1}, {"min_spend_minor": 20, "off_minor": 2}],
    },
    {"id": "coupon", "kind": "coupon", "value_minor": 500, "min_spend_minor": 2500},
    {"id": "ship", "kind": "free_shipping"},
    {"id": "mug", "kind": "gift", "product": "mug"},
]


@st.composite
def policies(draw: st.DrawFn) -> dict[str, Any]:
    arm = st.sampled_from(["ten", "tiers", "coupon", "ship", "mug"])
    share = st.sampled_from([0.0, 0.05, 0.123456, 0.3])
    match draw(st.sampled_from(["threshold", "frequency", "linear", "segment"])):
        case "threshold":
            return {"kind": "threshold", "probability": draw(st.sampled_from([0.0, 0.3, 0.5, 0.7])), "arm": draw(arm)}
        case "frequency":
            window = draw(st.sampled_from(["1h", "1d", "7d", "30d"]))
            return {"kind": "frequency", "window": window, "more_than": draw(st.integers(0, 3)), "arm": draw(arm)}
        case "linear":
            low, high = sorted([draw(share), draw(share)])
            a, b = draw(st.sampled_from([0.3, 0.123456, -0.5])), draw(st.sampled_from([0.05, 0.0, -0.2]))
            return {"kind": "linear", "a": a, "b": b, "min": low, "max": high, "arm": "depth"}
    by_segment = st.dictionaries(st.sampled_from(SEGMENTS), arm, min_size=1)
    return {"kind": "segment", "arms": draw(by_segment)}


@st.composite
def documents(draw: st.DrawFn, id_: str) -> dict[str, Any]:
    names = st.lists(st.sampled_from(NAMES[1:]), min_size=1, max_size=2, unique=True)
    policy = draw(policies())
    arms = [arm for arm in ARMS if arm["id"] != "depth" or policy["kind"] == "linear"]
    document: dict[str, Any] = {
        "id": id_,
        "name": id_,
        "version": 1,
        "trigger": {"kinds": draw(st.sampled_from([["product_view"], ["cart_add", "product_view"], ["order_placed"]]))},
        "arms": arms,
        "policy": policy,
        "valid_for": "1d",
        "currency": "EUR",
    }
    optional: dict[str, st.SearchStrategy[Any]] = {
        "priority": st.integers(0, 2),
        "state": st.sampled_from(["active", "active", "dry_run", "paused"]),
        "holdout": st.sampled_from([0.3, 0.9]),
        "cool_down": st.fixed_dictionaries(
            {},
            optional={
                "after_offer": st.sampled_from(["1s", "60m", "1d"]),
                "after_redemption": st.sampled_from(["1h", "30d"]),
            },
        ),
        "eligibility": st.fixed_dictionaries(
            {},
            optional={
                "segments": st.lists(st.sampled_from(SEGMENTS), min_size=1, unique=True),
                "products": names,
                "categories": names,
                "brands": names,
                "conditions": st.lists(conditions(), min_size=1, max_size=2),
            },
        ),
    }
    for name, values in optional.items():
        if draw(st.sampled_from([name == "cool_down", False, True])):
            document[name] = draw(values)
    dates = [
        {},
        {},
        {},
        {"from": "2026-01-01"},
        {"from": "2026-09-22"},
        {"until": "2026-09-21"},
        {"until": "2026-10-01"},
    ]
    return document | draw(st.sampled_from([*dates, {"from": "2026-09-21", "until": "2026-09-22"}]))


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[oracle.User], list[dict[str, Any]]]:
    n_users, n_documents = draw(st.integers(1, 8)), draw(st.sampled_from([3, 1, 2, 4, 5]))
    return [draw(users(i)) for i in range(n_users)], [draw(documents(f"c{i}")) for i in range(n_documents)]


# --- the core, on the same ------------------------------------------------------------------------------------------


def compiled(campaign_documents: list[dict[str, Any]]) -> CampaignSet:
    campaigns, refused = compile_campaigns({d["id"]: json.dumps(d).encode() for d in campaign_documents})
    assert refused == []
    return campaigns


def rows_of(case_users: list[oracle.User]) -> tuple[np.ndarray[Any, Any], Rows]:
    """(the triggers, the rows after they were absorbed)."""
    rows = new_rows(len(case_users))
    # One event of each user at a time: of a whole batch the profiles would be taken in first.
    for turn in range(max(len(user.events) for user in case_users)):
        who = [i for i, user in enumerate(case_users) if turn < len(user.events)]
        fold(columns([case_users[i].events[turn] for i in who]), np.array(who), rows)
    rows["offers_made"] = [user.offers_made for user in case_users]
    rows["offer_last_ms"] = [user.offer_last_ms for user in case_users]
    return columns([user.events[-1]._replace(user=user.id) for user in case_users]), rows


def columns(events: list[Event]) -> np.ndarray[Any, Any]:
    columns = np.zeros(len(events), EVENT)
    for field in Event._fields:
        columns[field] = [getattr(event, field) for event in events]
    return columns


def told(decisions: np.ndarray[Any, Any], campaigns: CampaignSet) -> list[dict[str, Any]]:
    """Decisions in the oracle's words."""
    out = []
    for d in decisions:
        campaign = campaigns.campaigns[d["campaign"]] if d["campaign"] >= 0 else None
        arms = campaign.arms if campaign else ()
        out.append(
            {
                "campaign": campaign.id if campaign else None,
                "arm": arms[d["arm"]].id if d["arm"] >= 0 else "none",
                "percent": d["depth_bp"] / 100,
                "value_minor": d["value_minor"],
                "eligible": [arm.id for i, arm in enumerate(arms) if int(d["eligible"]) >> i & 1],
                "holdout": bool(d["holdout"]),
                "reason": Reason(d["reason"]).name.lower(),
            }
        )
    return out


def run(
    case_users: list[oracle.User], campaigns: CampaignSet, scores: list[float] | None = None
) -> tuple[np.ndarray[Any, Any], Rows]:
    events, rows = rows_of(case_users)
    score = np.array(scores or [user.score for user in case_users], np.float32)[:, None]
    return decide(events, rows, score, campaigns, NOW_MS, draws(1, 0, np.arange(len(events))), AGE_MS), rows


@settings(max_examples=300, deadline=None)
@given(cases())
def test_every_decision_is_the_oracles(case: tuple[list[oracle.User], list[dict[str, Any]]]) -> None:
    case_users, campaign_documents = case
    campaigns = compiled(campaign_documents)
    decisions, rows = run(case_users, campaigns)
    salts = {campaign.id: campaign.salt for campaign in campaigns.campaigns}
    expected = [oracle.decide(campaign_documents, salts, user, NOW_MS, AGE_MS) for user in case_users]
    assert told(decisions, campaigns) == expected
    for i, user in enumerate(case_users):
        offered = expected[i]["reason"] == "offered"
        assert rows["offers_made"][i] == user.offers_made + offered
        assert rows["offer_last_ms"][i] == (NOW_MS if offered else user.offer_last_ms)
        assert decisions["score"][i] == user.score or math.isnan(user.score)
        assert decisions["propensity"][i] == 1


@settings(max_examples=150, deadline=None)
@given(st.lists(users(0), min_size=1, max_size=6))
def test_every_fact_and_segment_is_the_oracles(case_users: list[oracle.User]) -> None:
    events, rows = rows_of(case_users)
    expected = [oracle.facts(user, NOW_MS) for user in case_users]
    assert set(expected[0]) == set(FACTS)
    for at in (np.arange(len(case_users)), np.arange(len(case_users))[::2]):
        triggers = Triggers(events, rows, at, NOW_MS, SEGMENT_RULES)
        for name in FACTS:
            found = [None if math.isnan(x) else x for x in triggers.fact(name).tolist()]
            assert found == [expected[i][name] for i in at], name
        segments = [Segment(s).name.lower() for s in triggers.segments()]
        assert segments == [oracle.segment(case_users[i], NOW_MS) for i in at]


# --- what must hold -------------------------------------------------------------------------------------------------


def likely(**fields: Any) -> dict[str, Any]:
    return {
        "id": "likely",
        "name": "Likely",
        "version": 1,
        "trigger": {"kinds": ["product_view"]},
        "arms": [{"id": "ten", "kind": "percent", "percent": 10}],
        "policy": {"kind": "threshold", "probability": 0.5, "arm": "ten"},
        "valid_for": "1d",
        **fields,
    }


def viewer(user_id: int = 1, ago_ms: int = 0, consent: int = 2, objection: int = 0, score: float = 0.9) -> oracle.User:
    view = Event(NOW_MS - ago_ms, int(Kind.PRODUCT_VIEW), event_id=2)
    return oracle.User(user_id, [profile(NOW_MS - DAY_MS, consent, objection), view], "", "", "", 0, 0, score)


@pytest.mark.parametrize(
    ("user", "reason"),
    [
        (viewer(), Reason.OFFERED),
        (viewer(consent=0), Reason.NO_CONSENT),
        (viewer(consent=1), Reason.NO_CONSENT),
        (viewer(objection=1), Reason.OBJECTION),
        (viewer(consent=1, objection=1), Reason.OBJECTION),
        (viewer(ago_ms=AGE_MS), Reason.OFFERED),
        (viewer(ago_ms=AGE_MS + 1), Reason.STALE),
        (viewer(score=0.5), Reason.POLICY_NONE),
        (viewer(score=math.nan), Reason.NO_MODEL),
    ],
)
def test_reasons(user: oracle.User, reason: Reason) -> None:
    decisions, rows = run([user], compiled([likely()]))
    assert decisions["reason"][0] == reason
    assert rows["offers_made"][0] == (reason == Reason.OFFERED)
    assert decisions["arm"][0] == (0 if reason == Reason.OFFERED else -1)


@pytest.mark.parametrize(
    ("op", "value", "tiers_met"),
    [
        ("<", "silver", ["basic"]),
        ("<=", "silver", ["basic", "silver"]),
        (">", "silver", ["gold", "platinum"]),
        (">=", "silver", ["silver", "gold", "platinum"]),
        ("==", "silver", ["silver"]),
        ("!=", "silver", ["basic", "gold", "platinum"]),
        ("in", ["gold", "basic"], ["basic", "gold"]),
        ("not_in", ["gold", "basic"], ["silver", "platinum"]),
    ],
)
def test_conditions_are_met_by_what_is_known(op: str, value: object, tiers_met: list[str]) -> None:
    campaigns = compiled([likely(eligibility={"conditions": [{"field": "tier", "op": op, "value": value}]})])
    members = [viewer(user_id=1 + tier) for tier in range(5)]
    members = [m._replace(events=[m.events[0]._replace(tier=tier), m.events[1]]) for tier, m in enumerate(members)]
    decisions, _ = run(members, campaigns)
    met = [oracle.TIERS[tier] for tier in range(5) if decisions["reason"][tier] == Reason.OFFERED]
    assert met == tiers_met  # never "", which is not known


def test_no_campaigns_no_triggers() -> None:
    decisions, _ = run([viewer()], CampaignSet())
    assert decisions["reason"].tolist() == [Reason.NOT_TRIGGERED]
    assert decisions["campaign"].tolist() == [-1]
    empty = decide(
        np.zeros(0, EVENT), new_rows(0), np.zeros((0, 1), np.float32), CampaignSet(), NOW_MS, np.zeros(0), AGE_MS
    )
    assert len(empty) == 0


def test_one_offer_for_one_trigger_and_the_first_by_priority_makes_it() -> None:
    first, second = likely(id="zz", priority=1), likely(id="aa", priority=2)
    campaigns = compiled([second, first])
    decisions, rows = run([viewer()], campaigns)
    assert campaigns.campaigns[decisions["campaign"][0]].id == "zz"
    assert rows["offers_made"].tolist() == [1]


def test_where_the_first_is_silent_the_second_offers() -> None:
    silent = likely(id="silent", priority=1, policy={"kind": "threshold", "probability": 0.95, "arm": "ten"})
    campaigns = compiled([silent, likely(priority=2)])
    decisions, _ = run([viewer()], campaigns)
    assert campaigns.campaigns[decisions["campaign"][0]].id == "likely"
    silent_user, _ = run([viewer(score=0.1)], campaigns)
    assert campaigns.campaigns[silent_user["campaign"][0]].id == "silent"
    assert silent_user["reason"][0] == Reason.POLICY_NONE


def test_a_dry_run_offers_nothing_and_takes_nothing_from_a_live_campaign() -> None:
    dry = likely(id="dry", state="dry_run", priority=0)
    decisions, rows = run([viewer()], compiled([dry]))
    assert (decisions["reason"][0], decisions["arm"][0], decisions["depth_bp"][0]) == (Reason.DRY_RUN, 0, 1000)
    assert (rows["offers_made"][0], rows["offer_last_ms"][0]) == (0, 0)
    live, _ = run([viewer()], compiled([dry, likely(priority=9)]))
    assert live["reason"][0] == Reason.OFFERED


def test_a_dry_run_does_not_cover_what_a_live_campaign_decided() -> None:
    silent = likely(id="silent", priority=9, policy={"kind": "threshold", "probability": 0.95, "arm": "ten"})
    campaigns = compiled([likely(id="dry", state="dry_run", priority=0), silent])
    decisions, _ = run([viewer()], campaigns)
    assert (campaigns.campaigns[decisions["campaign"][0]].id, decisions["reason"][0]) == ("silent", Reason.POLICY_NONE)


@pytest.mark.parametrize(
    ("ago_ms", "reason"), [(0, Reason.COOL_DOWN), (DAY_MS - 1, Reason.COOL_DOWN), (DAY_MS, Reason.OFFERED)]
)
def test_the_cool_down_after_a_redemption(ago_ms: int, reason: Reason) -> None:
    user = viewer()
    redeemed = Event(NOW_MS - ago_ms, int(Kind.OFFER_REDEEMED), event_id=9)
    user = user._replace(events=[user.events[0], redeemed, user.events[1]])
    decisions, _ = run([user], compiled([likely(cool_down={"after_redemption": "1d"})]))
    assert decisions["reason"][0] == reason


def test_the_cool_down_holds_between_the_rounds_of_one_batch() -> None:
    campaigns = compiled([likely(cool_down={"after_offer": "1s"})])
    events, rows = rows_of([viewer()])
    score = np.array([[0.9]], np.float32)
    reasons = [
        int(decide(events, rows, score, campaigns, NOW_MS + later_ms, draws(1, 0, np.arange(1)), AGE_MS)["reason"][0])
        for later_ms in (0, 0, 999, 1000)
    ]
    assert reasons == [Reason.OFFERED, Reason.COOL_DOWN, Reason.COOL_DOWN, Reason.OFFERED]


def test_a_clock_that_steps_back_does_not_shorten_a_cool_down() -> None:
    campaigns = compiled([likely()])
    events, rows = rows_of([viewer()._replace(offers_made=1, offer_last_ms=NOW_MS + 5_000)])
    decide(events, rows, np.array([[0.9]], np.float32), campaigns, NOW_MS, np.zeros(1), AGE_MS)
    assert rows["offer_last_ms"][0] == NOW_MS + 5_000


def test_linear_at_its_edges() -> None:
    arms = [{"id": "depth", "kind": "percent"}]
    linear = {"kind": "linear", "a": 0.5, "b": -0.1, "min": 0.0, "max": 0.3, "arm": "depth"}
    campaigns = compiled([likely(arms=arms, policy=linear)])
    scores = [0.0, 0.2, 0.25, 0.5, 0.8, 1.0]
    decisions, _ = run([viewer(i + 1, score=s) for i, s in enumerate(scores)], campaigns)
    # 0.5 P - 0.1, clipped to 0 and 0.3, in hundredths of a percent
    assert decisions["depth_bp"].tolist() == [0, 0, 250, 1500, 3000, 3000]
    assert (decisions["reason"] == Reason.OFFERED).tolist() == [False, False, True, True, True, True]


# --- draws and holdouts ---------------------------------------------------------------------------------------------


def test_splitmix64_gives_the_published_sequence() -> None:
    """Of the seed 1234567, as printed on rosettacode.org, "Pseudo-random numbers/Splitmix64"."""
    seeds = np.uint64(1234567) + np.arange(5, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    published = [
        6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821,
    ]  # fmt: skip
    assert splitmix64(seeds).tolist() == published
    assert [oracle.splitmix64(int(seed)) for seed in seeds] == published


def test_draws_depend_on_all_coordinates_and_are_uniform() -> None:
    n = 100_000
    base = draws(123, 4, np.arange(n))
    assert ((base >= 0) & (base < 1)).all()
    assert np.array_equal(draws(123, 4, np.arange(5, 9)), base[5:9])
    for other in (draws(124, 4, np.arange(n)), draws(123, 5, np.arange(n))):
        assert abs(np.corrcoef(base, other)[0, 1]) < 5 / math.sqrt(n)
    # Kolmogorov-Smirnov: the largest distance from the uniform distribution passes 1.95 / sqrt(n) once in 1,000.
    assert np.abs(np.sort(base) - np.arange(n) / n).max() < 1.95 / math.sqrt(n)


def test_holdout_is_sticky_nested_and_of_the_right_size() -> None:
    n = 100_000
    user_ids = np.arange(1, n + 1, dtype=np.uint64)
    tenth, fifth, other = holdout(user_ids, 7, 0.1), holdout(user_ids, 7, 0.2), holdout(user_ids, 8, 0.1)
    assert np.array_equal(tenth[:10], holdout(user_ids[:10], 7, 0.1))
    assert not (tenth & ~fifth).any()
    sigma = math.sqrt(0.1 * 0.9 / n)
    assert abs(tenth.mean() - 0.1) < 5 * sigma
    # Groups of two campaigns overlap as chance has it.
    assert abs((tenth & other).mean() - 0.01) < 5 * math.sqrt(0.01 * 0.99 / n)
    assert not holdout(user_ids, 7, 0.0).any()
