"""Offers and decisions as the bytes that go out: columns in, one JSON value a row out.

Decisions are written for every trigger, so this costs about as much as decoding; docs/topics.md has the figures.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
from msgspec import UNSET, Struct, UnsetType, json
from numpy.typing import NDArray
from xxhash import xxh3_128_hexdigest

from stream.core.campaign import Arm, ArmKind, BySegment, CampaignSet, Frequency, Linear, Threshold
from stream.core.decide import Decisions, Reason
from stream.core.events import KINDS_OF_SOURCE, N_KINDS
from stream.core.features import LATE

Events = NDArray[np.void]
"""An array of `EVENT`."""

OFFER_SCHEMA_VERSION = 1

POLICY_NAMES: dict[type, str] = {
    Threshold: "threshold",
    Frequency: "frequency",
    Linear: "linear",
    BySegment: "segment",
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


class Decision(Struct, gc=False, frozen=True):
    """Topic decisions."""

    decision_id: str
    user_id: str
    time_ms: int
    trigger: Trigger
    campaign_id: str | None
    campaign_version: int | None
    arm: str
    eligible: tuple[str, ...]
    propensity: float
    score: float | None  # written from a NaN too, which JSON says as null
    dual_price: float
    draw: float
    holdout: bool
    reason: str
    model: str
    row_seq: int
    partition_seq: int
    step: str
    late: bool


class Tier(Struct, gc=False, frozen=True):
    """A step of "spend X, save Y"."""

    min_spend_minor: int
    off_minor: int


class Scope(Struct, gc=False, frozen=True):
    """What the offer is about: the whole order, or one product."""

    kind: str
    product_id: str | UnsetType = UNSET


class Offer(Struct, gc=False, frozen=True, kw_only=True):
    """Topic offers."""

    schema_version: int
    offer_id: str
    user_id: str
    campaign_id: str
    campaign_version: int
    arm: str
    kind: str
    percent: float | UnsetType = UNSET
    value_minor: int | UnsetType = UNSET
    tiers: tuple[Tier, ...] | UnsetType = UNSET
    currency: str
    min_spend_minor: int | UnsetType = UNSET
    max_discount_minor: int | UnsetType = UNSET
    scope: Scope
    valid_from_ms: int
    valid_until_ms: int
    stacking_group: str
    budget_id: str | UnsetType = UNSET
    cost_reserved_minor: int
    reasons: tuple[str, ...]
    disclosure: bool
    model: str
    policy: str
    trace_id: str
    trigger: Trigger


_ENCODER = json.Encoder()

_REASONS = [reason.name.lower() for reason in sorted(Reason)]

_KINDS = [""] * N_KINDS
for _kinds in KINDS_OF_SOURCE.values():
    for _name, _kind in _kinds.items():
        _KINDS[_kind] = _name


def offer_id(topic_id: str, partition: int, offset: int) -> str:
    """Id of the decision, and of the offer if it is one, on the event at these coordinates: 32 hexadecimal digits."""
    return xxh3_128_hexdigest(f"{topic_id}:{partition}:{offset}".encode())


class _Eligible(dict[int, tuple[str, ...]]):
    """Ids of the arms of one campaign by bit mask."""

    def __init__(self, arms: Sequence[Arm]) -> None:
        super().__init__()
        self._arms = arms

    def __missing__(self, mask: int) -> tuple[str, ...]:
        ids = self[mask] = tuple(arm.id for i, arm in enumerate(self._arms) if mask >> i & 1)
        return ids


class _Names(NamedTuple):
    """Texts of a campaign set by index; the last element is for index -1, "none"."""

    ids: list[str | None]
    versions: list[int | None]
    arms: list[list[str]]
    eligible: list[_Eligible]


@lru_cache(maxsize=8)  # a set is compared by identity, and few are in force at a time
def _names(campaigns: CampaignSet) -> _Names:
    every = campaigns.campaigns
    return _Names(
        ids=[*(c.id for c in every), None],
        versions=[*(c.version for c in every), None],
        arms=[*([*(arm.id for arm in c.arms), "none"] for c in every), ["none"]],
        eligible=[*(_Eligible(c.arms) for c in every), _Eligible(())],
    )


def _triggers(topics: Sequence[SourceTopic], partition: int, events: Events) -> tuple[list[str], list[Trigger]]:
    """Ids and triggers of the decisions on events, in their order."""
    offsets = events["offset"].tolist()
    sources = events["source"].tolist()
    heads = [f"{topic.id}:{partition}:".encode() for topic in topics]
    ids = [xxh3_128_hexdigest(b"%b%d" % (heads[s], offset)) for s, offset in zip(sources, offsets, strict=True)]
    names = [topic.name for topic in topics]
    kinds = [_KINDS[kind] for kind in events["kind"].tolist()]
    topic_names = [names[s] for s in sources]
    triggers = list(map(Trigger, topic_names, repeat(partition), offsets, events["time_ms"].tolist(), kinds))
    return ids, triggers


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
    model: str,
    now_ms: int,
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
        model: hash of the model in hexadecimal digits, "" where there is none.
        now_ms: time of the decision.
    """
    n = len(events)
    ids, triggers = _triggers(topics, partition, events)
    names = _names(campaigns)
    campaign = decisions["campaign"].tolist()
    all_hex = np.ascontiguousarray(steps).tobytes().hex()
    width = 2 * steps.shape[1]
    structs = map(
        Decision,
        ids,
        map(bytes.decode, users),
        repeat(now_ms),
        triggers,
        [names.ids[c] for c in campaign],
        [names.versions[c] for c in campaign],
        [names.arms[c][a] for c, a in zip(campaign, decisions["arm"].tolist(), strict=True)],
        [names.eligible[c][mask] for c, mask in zip(campaign, decisions["eligible"].tolist(), strict=True)],
        decisions["propensity"].tolist(),
        decisions["score"].tolist(),
        repeat(0.0),  # without a budget there is no price on it
        decisions["draw"].tolist(),
        decisions["holdout"].astype(bool).tolist(),
        [_REASONS[reason] for reason in decisions["reason"].tolist()],
        repeat(model),
        row_seqs.tolist(),
        partition_seqs.tolist(),
        [all_hex[i : i + width] for i in range(0, width * n, width)],
        (steps[:, 0] >= LATE).tolist(),
    )
    return list(map(_ENCODER.encode, structs))


def encode_offers(
    topics: Sequence[SourceTopic],
    partition: int,
    users: Sequence[bytes],
    events: Events,
    decisions: Decisions,
    campaigns: CampaignSet,
    model: str,
    now_ms: int,
    currency: str,
) -> list[bytes]:
    """Values for topic offers, one a row, in order.

    Args:
        topics: source topics, indexed by `EVENT["source"]`.
        partition: of the events, and of what is written.
        users: n user ids in UTF-8.
        events: EVENT [n], the triggers.
        decisions: DECISION [n], made on them with `campaigns`, each with reason OFFERED.
        campaigns: in force.
        model: hash of the model in hexadecimal digits, "" where there is none.
        now_ms: time of the decision: offers are valid from then on.
        currency: the reporting currency.
    """
    ids, triggers = _triggers(topics, partition, events)
    values = []
    columns = zip(
        ids,
        triggers,
        users,
        decisions["campaign"].tolist(),
        decisions["arm"].tolist(),
        decisions["depth_bp"].tolist(),
        decisions["value_minor"].tolist(),
        strict=True,
    )
    for id_, trigger, user, campaign_index, arm_index, depth_bp, value_minor in columns:
        campaign = campaigns.campaigns[campaign_index]
        arm = campaign.arms[arm_index]
        policy = POLICY_NAMES[type(campaign.policy)]
        offer = Offer(
            schema_version=OFFER_SCHEMA_VERSION,
            offer_id=id_,
            user_id=user.decode(),
            campaign_id=campaign.id,
            campaign_version=campaign.version,
            arm=arm.id,
            kind=arm.kind.name.lower(),
            percent=depth_bp / 100 if arm.kind == ArmKind.PERCENT else UNSET,
            value_minor=value_minor if arm.kind in {ArmKind.AMOUNT, ArmKind.COUPON} else UNSET,
            tiers=tuple(Tier(*tier) for tier in arm.tiers) or UNSET,
            currency=campaign.currency or currency,
            min_spend_minor=_min_spend_minor(arm) or UNSET,
            max_discount_minor=arm.max_discount_minor or UNSET,
            scope=Scope("product", arm.gift) if arm.gift else Scope("order"),
            valid_from_ms=now_ms,
            valid_until_ms=now_ms + campaign.valid_for_ms,
            stacking_group=campaign.stacking_group,
            cost_reserved_minor=arm.max_discount_minor if arm.kind == ArmKind.PERCENT else value_minor,
            reasons=(policy, trigger.kind),
            disclosure=campaign.disclosure,
            model=model,
            policy=policy,
            trace_id=id_,
            trigger=trigger,
        )
        values.append(_ENCODER.encode(offer))
    return values


def _min_spend_minor(arm: Arm) -> int:
    return arm.tiers[0][0] if arm.tiers else arm.min_spend_minor
