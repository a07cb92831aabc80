"""Offers and decisions as the bytes that go out: columns in, one JSON value a row out.

Decisions are written for every trigger, so this costs about as much as decoding; docs/topics.md has the figures. What
many rows of a batch have in common, the terms, is written once and spliced after each row's own part, the head.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
from msgspec import UNSET, Struct, UnsetType, json
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest, xxh3_128_hexdigest

from stream.core.campaign import (
    ArmKind,
    BySegment,
    Calendar,
    CampaignSet,
    Explore,
    Frequency,
    Linear,
    Profit,
    Silence,
    Threshold,
)
from stream.core.decide import Decisions, Reason
from stream.core.events import KINDS_OF_SOURCE, N_KINDS, SILENCE
from stream.core.features import LATE
from stream.core.policies import NONE

Events = NDArray[np.void]
"""An array of `EVENT`."""

OFFER_SCHEMA_VERSION = 1

POLICY_NAMES: dict[type, str] = {
    Threshold: "threshold",
    Frequency: "frequency",
    Linear: "linear",
    BySegment: "segment",
    Calendar: "calendar",
    Profit: "profit",
    Explore: "explore",
}


class SourceTopic(NamedTuple):
    """A source topic as this cluster knows it; the id tells it from one of the same name that was deleted before."""

    name: str
    id: str


class Trigger(Struct, gc=False, frozen=True):
    """The event that a decision or an offer answers."""

    topic: str
    partition: int
    offset: int
    time_ms: int
    kind: str


class DecisionHead(Struct, gc=False, frozen=True):
    """What is this trigger's own in a decision."""

    decision_id: str
    user_id: str
    trigger: Trigger
    propensity: float
    score: float | None  # written from a NaN too, which JSON says as null
    draw: float
    dual_price: float
    row_seq: int
    partition_seq: int
    step: str


class DecisionTerms(Struct, gc=False, frozen=True, kw_only=True):
    """What many decisions of a batch have in common."""

    time_ms: int
    campaign_id: str | None
    campaign_version: int | None
    arm: str
    eligible: tuple[str, ...]
    holdout: bool
    reason: str
    late: bool
    model: str


class Tier(Struct, gc=False, frozen=True):
    """A step of "spend X, save Y"."""

    min_spend_minor: int
    off_minor: int


class OfferTerms(Struct, gc=False, frozen=True, kw_only=True):
    """What an offer says whoever gets it."""

    schema_version: int
    campaign_id: str
    campaign_version: int
    arm: str
    kind: str
    percent: float | UnsetType = UNSET
    value_minor: int | UnsetType = UNSET
    tiers: tuple[Tier, ...] | UnsetType = UNSET
    gift_product_id: str | UnsetType = UNSET
    terms: Mapping[str, int | str] | UnsetType = UNSET
    currency: str
    min_spend_minor: int | UnsetType = UNSET
    max_discount_minor: int | UnsetType = UNSET
    scope: Mapping[str, tuple[str, ...]]
    valid_from_ms: int
    valid_until_ms: int
    stacking_group: str
    cost_reserved_minor: int
    disclosure: bool
    policy: str
    model: str


class OfferHead(Struct, gc=False, frozen=True):
    """Whose offer it is, and why."""

    offer_id: str
    user_id: str
    trace_id: str
    reasons: tuple[str, ...]
    trigger: Trigger


_ENCODER = json.Encoder()

_KINDS = [""] * (N_KINDS + 1)
_KINDS[SILENCE] = "silence"
for _kinds in KINDS_OF_SOURCE.values():
    for _name, _kind in _kinds.items():
        _KINDS[_kind] = _name


def offer_id(topic_id: str, partition: int, offset: int) -> str:
    """Id of the decision, and of the offer if it is one, on the event at these coordinates: 32 hexadecimal digits."""
    return xxh3_128_hexdigest(f"{topic_id}:{partition}:{offset}".encode())


def offer_hashes(ids: Sequence[str]) -> list[int]:
    """Hashes of ids of offers, as later events carry them that speak of the offers."""
    return [xxh3_64_intdigest(id_.encode()) for id_ in ids]


def offer_ids(topics: Sequence[SourceTopic], partition: int, events: Events) -> list[str]:
    """`offer_id` of each event, in their order."""
    heads = [f"{topic.id}:{partition}:".encode() for topic in topics]
    places = zip(events["source"].tolist(), events["offset"].tolist(), strict=True)
    return [xxh3_128_hexdigest(b"%b%d" % (heads[source], offset)) for source, offset in places]


def silence_ids(rule: Silence, users: Sequence[bytes], silences: Events) -> list[str]:
    """Ids of the decisions on silences: who was silent, by which rule, and when that fell due."""
    head = b"silence:%d:%d:" % rule
    moments = silences["time_ms"].tolist()
    return [xxh3_128_hexdigest(b"%b%d:%b" % (head, due_ms, user)) for user, due_ms in zip(users, moments, strict=True)]


def _triggers(topics: Sequence[SourceTopic], partition: int, events: Events) -> Iterator[Trigger]:
    """Of the decisions on events, in their order."""
    names = [topic.name for topic in topics]
    topic_names = [names[source] for source in events["source"].tolist()]
    kinds = [_KINDS[kind] for kind in events["kind"].tolist()]
    return map(Trigger, topic_names, repeat(partition), events["offset"].tolist(), events["time_ms"].tolist(), kinds)


def _spliced(terms: Struct) -> bytes:
    """JSON that goes on where a head without its closing brace ends."""
    return b"," + _ENCODER.encode(terms)[1:]


def encode_decisions(
    topics: Sequence[SourceTopic],
    partition: int,
    users: Sequence[bytes],
    events: Events,
    decisions: Decisions,
    steps: NDArray[np.uint8],
    row_seqs: NDArray[np.integer[Any]],
    partition_seqs: NDArray[np.integer[Any]],
    campaigns: CampaignSet,
    models: Sequence[str],
    now_ms: int,
    ids: Sequence[str],
) -> list[bytes]:
    """Values for topic decisions, one a row, in order.

    Args:
        topics: source topics, indexed by `EVENT["source"]`.
        partition: of the events, and of what is written.
        users: n user ids in UTF-8.
        events: EVENT [n], the triggers.
        decisions: DECISION [n], made on them with `campaigns`.
        steps: [n, F], the steps served.
        row_seqs: [n], `ROW["seq"]` after the event was applied.
        partition_seqs: [n], the place of the event in the order in which the partition applied its events.
        campaigns: in force.
        models: n hashes of the models that scored, in hexadecimal digits; "" where there was none.
        now_ms: time of the decision.
        ids: n, by `offer_ids` or `silence_ids`.
    """
    all_hex = np.ascontiguousarray(steps).tobytes().hex()
    width = 2 * steps.shape[1]
    heads = map(
        DecisionHead,
        ids,
        map(bytes.decode, users),
        _triggers(topics, partition, events),
        decisions["propensity"].tolist(),
        decisions["score"].tolist(),
        decisions["draw"].tolist(),
        decisions["dual_price"].tolist(),
        row_seqs.tolist(),
        partition_seqs.tolist(),
        [all_hex[i : i + width] for i in range(0, len(all_hex), width)],
    )
    late = steps[:, 0] >= LATE
    codes = list(zip(_codes(decisions, late), models, strict=True))
    row_of = dict(zip(codes, range(len(codes)), strict=True))  # any row of those that are alike
    terms = {
        code: _decision_terms(decisions[i], bool(late[i]), campaigns, code[1], now_ms) for code, i in row_of.items()
    }
    encode = _ENCODER.encode  # many small values: one large one costs more in memory than it saves in calls
    return [encode(head)[:-1] + terms[code] for head, code in zip(heads, codes, strict=True)]


def _codes(decisions: Decisions, late: NDArray[np.bool_]) -> list[int]:
    """One integer a row for what its terms are made from; N_CAMPAIGNS_MAX and N_ARMS_MAX fit into their bits."""
    codes = decisions["campaign"].astype(np.int64) + 1
    for column, bits in (("arm", 6), ("eligible", 32), ("reason", 8), ("holdout", 1)):
        codes = (codes << bits) | (decisions[column].astype(np.int64) - (NONE if column == "arm" else 0))
    return ((codes << 1) | late).tolist()


def _decision_terms(decision: np.void, late: bool, campaigns: CampaignSet, model: str, now_ms: int) -> bytes:
    """The terms of a row, to be put after its head."""
    campaign_index, arm_index, eligible = (int(decision[name]) for name in ("campaign", "arm", "eligible"))
    campaign = campaigns.campaigns[campaign_index] if campaign_index != NONE else None
    arms = campaign.arms if campaign else ()
    terms = DecisionTerms(
        time_ms=now_ms,
        campaign_id=campaign.id if campaign else None,
        campaign_version=campaign.version if campaign else None,
        arm=arms[arm_index].id if arm_index != NONE else "none",
        eligible=tuple(arm.id for i, arm in enumerate(arms) if eligible >> i & 1),
        holdout=bool(decision["holdout"]),
        reason=Reason(decision["reason"]).name.lower(),
        late=late,
        model=model,
    )
    return _spliced(terms)


def encode_offers(
    topics: Sequence[SourceTopic],
    partition: int,
    users: Sequence[bytes],
    events: Events,
    decisions: Decisions,
    campaigns: CampaignSet,
    models: Sequence[str],
    now_ms: int,
    currency: str,
    ids: Sequence[str],
) -> list[bytes]:
    """Values for topic offers, one a row, in order.

    Args:
        topics: source topics, indexed by `EVENT["source"]`.
        partition: of the events, and of what is written.
        users: n user ids in UTF-8.
        events: EVENT [n], the triggers.
        decisions: DECISION [n], made on them with `campaigns`, each with reason OFFERED.
        campaigns: in force.
        models: n hashes of the models that scored, in hexadecimal digits; "" where there was none.
        now_ms: time of the decision: offers are valid from then on.
        currency: the reporting currency.
        ids: n, by `offer_ids` or `silence_ids`.
    """
    triggers = _triggers(topics, partition, events)
    parts = list(
        zip(
            *(decisions[column].tolist() for column in ("campaign", "arm", "depth_bp", "value_minor")),
            models,
            strict=True,
        )
    )
    terms = {part: _offer_terms(part, campaigns, now_ms, currency) for part in set(parts)}
    policies = [POLICY_NAMES[type(campaign.policy)] for campaign in campaigns.campaigns]
    values = []
    for id_, user, trigger, part in zip(ids, users, triggers, parts, strict=True):
        head = OfferHead(id_, user.decode(), id_, (policies[part[0]], trigger.kind), trigger)
        values.append(_ENCODER.encode(head)[:-1] + terms[part])
    return values


def _offer_terms(part: tuple[int, int, int, int, str], campaigns: CampaignSet, now_ms: int, currency: str) -> bytes:
    """The terms of a row, to be put after its head."""
    campaign_index, arm_index, depth_bp, value_minor, model = part
    campaign = campaigns.campaigns[campaign_index]
    arm = campaign.arms[arm_index]
    is_percent = arm.kind == ArmKind.PERCENT
    max_discount_minor = (
        value_minor if is_percent else 0
    ) or arm.max_discount_minor  # under a budget: what is reserved
    terms = OfferTerms(
        schema_version=OFFER_SCHEMA_VERSION,
        campaign_id=campaign.id,
        campaign_version=campaign.version,
        arm=arm.id,
        kind=arm.action or arm.kind.name.lower(),
        percent=depth_bp / 100 if is_percent else UNSET,
        value_minor=value_minor if arm.kind in {ArmKind.AMOUNT, ArmKind.COUPON} else UNSET,
        tiers=tuple(Tier(*tier) for tier in arm.tiers) or UNSET,
        gift_product_id=arm.gift or UNSET,
        terms=dict(arm.terms) or UNSET,
        currency=campaign.currency or currency,
        min_spend_minor=(arm.tiers[0][0] if arm.tiers else arm.min_spend_minor) or UNSET,
        max_discount_minor=max_discount_minor or UNSET,
        scope=campaign.scope or {},
        valid_from_ms=now_ms,
        valid_until_ms=now_ms + campaign.valid_for_ms,
        stacking_group=campaign.stacking_group,
        cost_reserved_minor=max_discount_minor if is_percent else value_minor or arm.cost_minor,
        disclosure=campaign.disclosure,
        policy=POLICY_NAMES[type(campaign.policy)],
        model=model,
    )
    return _spliced(terms)
