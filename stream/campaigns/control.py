"""The `campaigns` topic: from its records to the set that the core decides by.

Compacted, one partition, key = id, value = the document as JSON with `published_ms` and, while paused by command,
`resume_state`. Each worker reads it whole and calls `compile_campaigns` on what it holds.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import xxhash
from numpy.typing import NDArray

from stream.campaigns.problems import Document, Problem
from stream.campaigns.schema import CAP_DAYS, SEGMENTS
from stream.campaigns.validate import duration_ms, local_ms, validate
from stream.core.campaign import (
    N_CAMPAIGNS_MAX,
    Arm,
    ArmKind,
    Budget,
    BySegment,
    Calendar,
    Campaign,
    CampaignSet,
    Condition,
    Explore,
    Frequency,
    Guard,
    Linear,
    Objective,
    Occasion,
    Parity,
    Policy,
    Profit,
    Silence,
    Threshold,
)
from stream.core.events import N_KINDS, SILENCE, TIERS, Kind
from stream.core.response import Responds, from_document
from stream.core.segments import SEGMENT_RULES, SegmentRules

RECORD_FIELDS = ("published_ms", "resume_state", "learned", "document_version")
"""What a record has besides the document."""

PRIORITY_DEFAULT = 100
FOREVER_MS = 2**62


class Shop(NamedTuple):
    """What campaigns are compiled for."""

    timezone: str = "UTC"
    currency: str = ""  # "" = any
    segment_rules: SegmentRules = SEGMENT_RULES


SHOP_DEFAULT = Shop()


class Refused(NamedTuple):
    """A record that is not in force, and why; its last valid version stays."""

    id: str
    message: str


def compile_campaigns(
    records: Mapping[str, bytes], shop: Shop = SHOP_DEFAULT, previous: CampaignSet | None = None
) -> tuple[CampaignSet, list[Refused]]:
    """The campaigns in force.

    Args:
        records: latest value by id, deleted ones left out.
        shop: time zone, currency and segments.
        previous: the set in force until now, whose version of a campaign stays where the new record is refused.

    Returns:
        (the set, refused records in order of id).
    """
    in_force = {campaign.id: campaign for campaign in previous.campaigns} if previous else {}
    campaigns: list[Campaign] = []
    refused: list[Refused] = []
    for id_, value in sorted(records.items()):
        if len(campaigns) == N_CAMPAIGNS_MAX:
            refused.append(Refused(id_, f"there are {N_CAMPAIGNS_MAX} campaigns already"))
            continue
        compiled = _compile_record(id_, value, shop)
        if isinstance(compiled, Campaign):
            campaigns.append(compiled)
            continue
        refused.append(Refused(id_, "; ".join(map(str, compiled))))
        if id_ in in_force:
            campaigns.append(in_force[id_])
    return CampaignSet(campaigns, shop.segment_rules, ZoneInfo(shop.timezone)), refused


def parse_record(value: bytes) -> dict[str, Any]:
    """A record's fields, the document's and RECORD_FIELDS.

    Raises:
        ValueError: it is not a JSON object in UTF-8.
    """
    try:
        record = json.loads(value.decode(), parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 the value is wrong, not the caller's type
    return record


def document_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The document within a record."""
    return {name: value for name, value in record.items() if name not in RECORD_FIELDS}


@lru_cache(maxsize=N_CAMPAIGNS_MAX)
def _compile_record(id_: str, value: bytes, shop: Shop) -> Campaign | list[Problem]:
    try:
        record = parse_record(value)
    except ValueError as error:
        return [Problem((), f"not JSON: {error}")]
    document = document_of(record)
    problems = validate(document, shop.currency)
    if not problems and document["id"] != id_:
        problems = [Problem(("id",), f"the record's key is {id_!r}, this is {document['id']!r}")]
    response = None
    if "learned" in record:
        try:
            response = from_document(record["learned"])
        except (ValueError, KeyError, TypeError) as error:
            problems = [*problems, Problem(("learned",), f"no learned response: {error}")]
    return problems or compile_document(document, shop, response)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number in JSON")


def compile_document(document: Document, shop: Shop, response: Responds | None = None) -> Campaign:
    """What the core decides by, of a document that `validate` found nothing wrong with.

    Args:
        document: the campaign.
        shop: what it is compiled for.
        response: for the profit policy, what was learned.
    """
    zone = ZoneInfo(shop.timezone)
    eligibility = document.get("eligibility", {})
    segments = eligibility.get("segments")
    cool_down = document.get("cool_down", {})
    trigger = document["trigger"]
    kinds = np.zeros(N_KINDS + 1, bool)
    kinds[[Kind[name.upper()] for name in trigger.get("kinds", ())]] = True
    silence = None
    if "silent_for" in trigger:
        kinds[SILENCE] = True
        repeat = trigger.get("repeat_every")
        silence = Silence(duration_ms(trigger["silent_for"]), duration_ms(repeat) if repeat else 0)
    state = document.get("state", "active")
    return Campaign(
        id=document["id"],
        version=int(document["version"]),
        name=document["name"],
        priority=int(document.get("priority", PRIORITY_DEFAULT)),
        paused=state == "paused",
        dry_run=state == "dry_run",
        from_ms=local_ms(document["from"], zone) if "from" in document else -FOREVER_MS,
        until_ms=local_ms(document["until"], zone) if "until" in document else FOREVER_MS,
        kinds=kinds,
        segments=np.isin(SEGMENTS, segments) if segments else None,
        products=_hashes(eligibility.get("products")),
        categories=_hashes(eligibility.get("categories")),
        brands=_hashes(eligibility.get("brands")),
        conditions=tuple(_condition(condition) for condition in eligibility.get("conditions", ())),
        arms=tuple(_arm(arm) for arm in document["arms"]),
        policy=_policy(document, response),
        after_offer_ms=duration_ms(cool_down["after_offer"]) if "after_offer" in cool_down else 0,
        after_redemption_ms=duration_ms(cool_down["after_redemption"]) if "after_redemption" in cool_down else 0,
        holdout=float(document.get("holdout", 0)),
        salt=xxhash.xxh3_64_intdigest(document["id"].encode()),
        valid_for_ms=duration_ms(document["valid_for"]),
        stacking_group=document.get("stacking_group", "default"),
        currency=document.get("currency", ""),
        disclosure=document.get("disclosure", True),
        caps=tuple((CAP_DAYS[span], int(most)) for span, most in document.get("caps", {}).items()),
        exploration=1.0 if document["policy"]["kind"] == "explore" else float(document.get("exploration", 0)),
        margin_rate=float(document.get("margin_rate", 0)),
        budget=_budget(document.get("budget")),
        parity=_parity(document.get("parity")),
        guard=_guard(document.get("guard")),
        scope={name: tuple(of) for name, of in document["scope"].items()} if "scope" in document else None,
        silence=silence,
    )


def _budget(budget: Document | None) -> Budget | None:
    return Budget(int(budget["total_minor"]), budget.get("pacing", "even") == "even") if budget else None


def _parity(parity: Document | None) -> Parity | None:
    return Parity(parity["by"], float(parity["ratio_min"])) if parity else None


def _guard(guard: Document | None) -> Guard | None:
    return Guard(int(guard["free"]), float(guard["per_order"])) if guard else None


def _date(text: str) -> tuple[int, int, int]:
    """(year, month, day), 0 for what is not said."""
    parts = [int(part) for part in text.split("-")]
    year, month, day = [0] * (3 - len(parts)) + parts
    return year, month, day


def _hashes(names: list[str] | None) -> NDArray[np.uint32] | None:
    return None if names is None else name_hashes(tuple(names))


@lru_cache(maxsize=N_CAMPAIGNS_MAX)
def name_hashes(names: tuple[str, ...]) -> NDArray[np.uint32]:
    """Names as events carry them: the low 32 bits of xxh3-64, never 0; ascending."""
    return np.unique(np.array([xxhash.xxh3_64_intdigest(name.encode()) & 0xFFFFFFFF or 1 for name in names], np.uint32))


def _condition(condition: Document) -> Condition:
    values = condition["value"] if isinstance(condition["value"], list) else [condition["value"]]
    if condition["field"] == "tier":
        values = [TIERS.index(name) for name in values]
    return Condition(condition["field"], condition["op"], tuple(map(float, values)))


def _arm(arm: Document) -> Arm:
    tiers = tuple((int(tier["min_spend_minor"]), int(tier["off_minor"])) for tier in arm.get("tiers", ()))
    return Arm(
        id=arm["id"],
        kind=ArmKind[arm["kind"].upper()],
        depth_bp=round(arm.get("percent", 0) * 100),
        value_minor=tiers[-1][1] if tiers else int(arm.get("value_minor", 0)),
        tiers=tiers,
        min_spend_minor=tiers[0][0] if tiers else int(arm.get("min_spend_minor", 0)),
        max_discount_minor=int(arm.get("max_discount_minor", 0)),
        gift=arm.get("product", ""),
        action=arm.get("action", ""),
        terms=tuple(arm.get("terms", {}).items()),
        cost_minor=int(arm.get("cost_minor", 0)),
    )


def _policy(document: Document, response: Responds | None) -> Policy:  # noqa: PLR0911 one for each
    policy = document["policy"]
    arms = {arm["id"]: i for i, arm in enumerate(document["arms"])} | {"none": -1}
    match policy["kind"]:
        case "threshold":
            return Threshold(float(policy["probability"]), arms[policy["arm"]])
        case "frequency":
            return Frequency(policy["window"], int(policy["more_than"]), arms[policy["arm"]])
        case "linear":
            a, b, low, high = (float(policy[name]) for name in ("a", "b", "min", "max"))
            return Linear(a, b, low, high, arms[policy["arm"]])
        case "segment":
            return BySegment(tuple(arms[policy["arms"].get(segment, "none")] for segment in SEGMENTS))
        case "calendar":
            return Calendar(
                Occasion[policy["on"].upper()],
                frozenset(map(_date, policy.get("dates", ()))),
                int(policy.get("days_before", 0)),
                int(policy.get("days_after", 0)),
                arms[policy["arm"]],
            )
        case "profit":
            objective = Objective[document.get("objective", "margin").upper()]
            return Profit(response, objective, float(document.get("margin_rate", 0)))
        case "explore":
            return Explore()
    raise AssertionError(policy["kind"])
