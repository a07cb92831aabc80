"""What a broker still knows of a decision: the decision, its user's events, and the control topics of that time."""

import json
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from stream.campaigns.control import Shop, compile_campaigns
from stream.core.campaign import CampaignSet
from stream.core.events import SOURCES
from stream.errors import SetupError
from stream.kafka.topics import Record, Topics
from stream.scoring.artefact import ModelRefused
from stream.scoring.control import file_key
from stream.scoring.model import Model, load

_NO_BATCH_MS = 2**62

STATES_MAX = 20
"""Former states of the campaigns that are looked at for the one that decided."""

Decision = Mapping[str, Any]
"""A value of topic decisions."""


@dataclass
class Batches:
    """What all decisions of a partition tell of its batches: one decision time each, in offset order."""

    of_topic: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """By topic: (offset of a trigger, time of its decision)."""
    times_ms: set[int] = field(default_factory=set)

    def bounds(self, topic: str, offset: int, published_ms: int) -> tuple[int, int]:
        """The earliest and the latest batch that a record can have been in, by decision time; 2^62 = none yet."""
        if self._sorted_of != len(self.times_ms):
            self._sort()
        marks = self._marks.get(topic, [])
        at = bisect_left(marks, (offset, 0))
        latest = marks[at][1] if at < len(marks) else _NO_BATCH_MS
        earliest_ms = max(published_ms, marks[at - 1][1] if at else 0)
        after = bisect_left(self._times, earliest_ms)
        earliest = self._times[after] if after < len(self._times) else _NO_BATCH_MS
        return min(earliest, latest), latest if marks else min(earliest, latest)

    def _sort(self) -> None:
        self._marks = {topic: sorted(marks) for topic, marks in self.of_topic.items()}
        self._times = sorted(self.times_ms)
        self._sorted_of = len(self.times_ms)

    _marks: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    _times: list[int] = field(default_factory=list)
    _sorted_of: int = 0


@dataclass
class History:
    """What there is of one user."""

    partition: int
    n_partitions: int
    batches: Batches
    records: dict[str, list[Record]] = field(default_factory=lambda: {source: [] for source in SOURCES})
    """By source, in offset order."""
    decisions: dict[tuple[str, int], Decision] = field(default_factory=dict)
    """By topic and offset of their trigger."""


class Published(NamedTuple):
    """A record of topic campaigns."""

    time_ms: int
    id: str
    value: bytes | None


class ControlLog:
    """The control topics, as far as compaction has left them."""

    def __init__(self, campaigns: list[Published], models: dict[bytes, bytes], shop: Shop) -> None:
        self._campaigns = campaigns
        self._models = models
        self._shop = shop
        self._loaded: dict[str, Model | None] = {"": None}
        self._states: dict[int, CampaignSet] = {}

    def campaigns(self, decision: Decision) -> CampaignSet | None:
        """The campaigns by which a decision was made; None = its version is not in the topic any more.

        A worker takes records over within seconds, so the latest state before the decision that holds the version of
        the campaign that decided is taken.
        """
        wanted = decision["campaign_id"], decision["campaign_version"]
        n = sum(published.time_ms <= decision["time_ms"] for published in self._campaigns)
        for end in range(n, max(n - STATES_MAX, 0), -1):
            state = self._state(end)
            if wanted in {(campaign.id, campaign.version) for campaign in state.campaigns}:
                return state
        return None

    def _state(self, end: int) -> CampaignSet:
        """The set in force after the first `end` records; an invalid one leaves the valid one before it."""
        if end not in self._states:
            valid: dict[str, bytes] = {}
            for _, id_, value in self._campaigns[:end]:
                if value is None:
                    valid.pop(id_, None)
                elif not compile_campaigns({id_: value}, self._shop)[1]:
                    valid[id_] = value
            self._states[end] = compile_campaigns(valid, self._shop)[0]
        return self._states[end]

    def model(self, sha256_hex: str) -> Model | None:
        """The model with this hash; None where there was none.

        Raises:
            LookupError: it is not in the topic any more, or cannot be read.
        """
        if sha256_hex not in self._loaded:
            data = self._models.get(file_key(sha256_hex))
            if data is None:
                raise LookupError(f"the model {sha256_hex[:12]} is not in the topic models any more")
            try:
                self._loaded[sha256_hex] = load(data)
            except ModelRefused as error:
                raise LookupError(f"the model {sha256_hex[:12]} cannot be read: {error}") from error
        return self._loaded[sha256_hex]


def read_control_log(topics: Topics, topic_prefix: str, shop: Shop) -> ControlLog:
    """The control topics of a broker.

    Raises:
        SetupError: no broker answers, or a topic is missing.
    """
    campaigns: list[Published] = []
    models: dict[bytes, bytes] = {}
    for (name, _), records in topics.read(topics.places([topic_prefix + "campaigns", topic_prefix + "models"])):
        for record in records:
            if name == topic_prefix + "campaigns":
                id_ = (record.key or b"").decode("utf-8", "replace")
                campaigns.append(Published(record.timestamp, id_, record.value))
            elif record.value is not None:
                models[record.key or b""] = record.value
    return ControlLog(campaigns, models, shop)


def find_decision(topics: Topics, topic_prefix: str, decision_id: str) -> tuple[bytes, int] | None:
    """(user, partition) of a decision, or of the offer that it became; None = there is none of this id.

    Raises:
        SetupError: no broker answers, or a topic is missing.
    """
    wanted = decision_id.encode()
    for (_, partition), records in topics.read(topics.places([topic_prefix + "decisions"])):
        for record in records:
            if wanted in (record.value or b"") and json.loads(record.value or b"")["decision_id"] == decision_id:
                return record.key or b"", partition
    return None


def read_histories(
    topics: Topics, topic_prefix: str, partition: int, only: frozenset[bytes] | None = None
) -> dict[bytes, History]:
    """The users of one partition, or some of them, with what there is of each.

    Raises:
        SetupError: no broker answers, a topic is missing, or topics differ in their number of partitions.
    """
    sources = {topic_prefix + source: source for source in SOURCES}
    decisions = topic_prefix + "decisions"
    counts = topics.partitions([*sources, decisions])
    if len(set(counts.values())) != 1:
        raise SetupError(f"the topics have different partition counts: {counts}")
    histories: dict[bytes, History] = {}
    batches = Batches()
    for name, record in _records(topics, [(name, partition) for name in counts]):
        user = record.key or b""
        asked = only is None or user in only
        if asked and user not in histories:
            histories[user] = History(partition, counts[decisions], batches)
        if name == decisions:
            decision = json.loads(record.value or b"{}")
            trigger = decision["trigger"]
            if trigger["kind"] == "silence":
                place = trigger["topic"], trigger["time_ms"]
            else:
                place = trigger["topic"], trigger["offset"]
                batches.of_topic.setdefault(place[0], []).append((place[1], decision["time_ms"]))
                batches.times_ms.add(decision["time_ms"])
            if asked:
                histories[user].decisions[place] = decision
        elif asked:
            histories[user].records[sources[name]].append(record)
    return histories


def _records(topics: Topics, places: list[tuple[str, int]]) -> Iterator[tuple[str, Record]]:
    for (name, _), records in topics.read(places):
        for record in records:
            yield name, record
