"""Emit: what a batch has to tell the world, as bytes that wait for the commit."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from stream.core.absorb import Events
from stream.core.campaign import CampaignSet, Silence
from stream.core.decide import Decisions, Reason
from stream.core.events import SOURCES
from stream.core.features import LATE
from stream.core.row import gather
from stream.kafka.codec import DeadLetter, dead_letter_record
from stream.kafka.control import InForce
from stream.kafka.encode import SourceTopic, encode_decisions, encode_offers, offer_hashes, offer_ids, silence_ids
from stream.kafka.event_time import count_late
from stream.kafka.producer import BulkProducer, Header
from stream.metrics import Tally
from stream.settings import Settings

SWEEP = SourceTopic("sweep", "")
"""In the place of a topic, where no event was answered, but that none came."""

_NO_MODEL = {0: ""}
"""Names of the models that score where nothing came."""

DeadRecord = tuple[bytes | None, bytes | None, list[Header]]


class OutcomeT(Protocol):
    """What `stream.topology.process` returns."""

    @property
    def steps(self) -> NDArray[np.uint8]:
        """[N, F]."""

    @property
    def models(self) -> NDArray[np.uint64]:
        """[N]."""

    @property
    def row_seqs(self) -> NDArray[np.uint64]:
        """[N]."""

    @property
    def decisions(self) -> Decisions:
        """[N]."""


class Emitted(NamedTuple):
    """Outputs of one piece of a batch."""

    offered: NDArray[np.int64]
    """Places of the events that got an offer."""
    offer_ids: list[int]
    """Their 64-bit hashes, as events carry them."""
    offer_users: list[bytes]
    offers: list[bytes]
    decision_users: list[bytes]
    decisions: list[bytes]


@dataclass
class Outputs:
    """What waits for a commit."""

    offer_users: list[bytes] = field(default_factory=list)
    offers: list[bytes] = field(default_factory=list)
    decision_users: list[bytes] = field(default_factory=list)
    decisions: list[bytes] = field(default_factory=list)
    dead: list[DeadRecord] = field(default_factory=list)
    rows: dict[bytes, bytes | None] = field(default_factory=dict)
    """Packed rows by user, None for one who was erased: of several changes the last."""
    merges: list[tuple[int, bytes, bytes]] = field(default_factory=list)
    """For other partitions, see `stream.kafka.identities`."""
    n_bytes: int = 0

    def add(self, emitted: Emitted) -> None:
        """Take in a piece of a batch."""
        self.offer_users += emitted.offer_users
        self.offers += emitted.offers
        self.decision_users += emitted.decision_users
        self.decisions += emitted.decisions
        self.n_bytes += sum(map(len, emitted.offers)) + sum(map(len, emitted.decisions))

    def add_dead(self, dead: Iterable[DeadRecord]) -> None:
        """Take in dead letters."""
        for record in dead:
            self.dead.append(record)
            self.n_bytes += len(record[1] or b"")

    def add_rows(self, users: list[bytes], rows: list[bytes]) -> None:
        """Take in changed rows."""
        self.rows.update(zip(users, rows, strict=True))
        self.n_bytes += sum(map(len, rows))

    def add_merges(self, merges: list[tuple[int, bytes, bytes]]) -> None:
        """Take in claims and rows for other partitions: partition, key, value."""
        self.merges += merges
        self.n_bytes += sum(len(value) for _, _, value in merges)

    def add_erasures(self, users: Iterable[bytes]) -> None:
        """Take in users whose rows are gone."""
        for user in users:
            self.rows[user] = None
            self.n_bytes += len(user)

    def send(self, producer: BulkProducer, settings: Settings) -> None:
        """Hand over everything but the rows; it is out after a flush."""
        producer.send(settings.topic("offers"), self.offer_users, self.offers)
        producer.send(settings.topic("decisions"), self.decision_users, self.decisions)
        producer.send_with_headers(settings.topic("dead-letters"), self.dead)
        producer.send_across(settings.topic("merges"), self.merges)


class Emitter:
    """Turns outcomes into records, for one partition."""

    def __init__(self, settings: Settings, partition: int, topic_ids: dict[str, str]) -> None:
        self._settings = settings
        self._partition = partition
        self._topics = [SourceTopic(settings.topic(source), topic_ids[source]) for source in SOURCES]
        self.topic_hashes = [xxh3_64_intdigest(topic.id.encode()) for topic in self._topics]
        """By source: what the draws of its events are made from."""

    def emit(
        self,
        events: Events,
        users: Sequence[bytes],
        outcome: OutcomeT,
        in_force: InForce,
        now_ms: int,
        sequence: int,
        tally: Tally,
    ) -> Emitted:
        """Offers, and the decisions to log: all where an arm besides "none" was eligible, a sample of the others.

        Args:
            events: EVENT [n], in the order in which they were applied.
            users: their users.
            outcome: of processing them.
            in_force: what they were processed with.
            now_ms: time of the decisions.
            sequence: of the partition before these events.
            tally: decisions are counted here.
        """
        is_step = outcome.row_seqs > 0
        count_late(events, is_step & (outcome.steps[:, 0] >= LATE), tally)
        return self._emitted(
            self._topics, events, users, outcome, is_step, sequence + np.cumsum(is_step),
            in_force.campaigns, in_force.scorer.names, now_ms, tally,
            lambda _, some: offer_ids(self._topics, self._partition, some),
        )  # fmt: skip

    def emit_silences(
        self,
        rule: Silence,
        silences: Events,
        users: Sequence[bytes],
        outcome: OutcomeT,
        campaigns: CampaignSet,
        now_ms: int,
        sequence: int,
        tally: Tally,
    ) -> Emitted:
        """The same of users from whom nothing came; no step and no model belongs to these decisions.

        Args:
            rule: what they are due by.
            silences: EVENT [n], see `stream.core.silence`.
            users: their users.
            outcome: of answering them.
            campaigns: they were answered with.
            now_ms: time of the decisions.
            sequence: of the partition's latest step.
            tally: decisions are counted here.
        """
        n = len(silences)
        return self._emitted(
            [SWEEP], silences, users, outcome, np.ones(n, bool), np.full(n, sequence), campaigns, _NO_MODEL, now_ms,
            tally, lambda some_users, some: silence_ids(rule, some_users, some),
        )  # fmt: skip

    def _emitted(
        self,
        topics: Sequence[SourceTopic],
        events: Events,
        users: Sequence[bytes],
        outcome: OutcomeT,
        decided: NDArray[np.bool_],
        partition_seqs: NDArray[np.int64],
        campaigns: CampaignSet,
        models: Mapping[int, str],
        now_ms: int,
        tally: Tally,
        ids_of: Callable[[list[bytes], Events], list[str]],
    ) -> Emitted:
        """What comes of those events that were `decided` on; `ids_of` names decisions by their users and events."""
        decisions = outcome.decisions
        _count(gather(decisions, np.flatnonzero(decided)), campaigns, tally)
        sampled = decisions["draw"] < self._settings.decision_sample
        logged = np.flatnonzero(decided & ((decisions["eligible"] != 0) | sampled))
        offered = np.flatnonzero(decisions["reason"] == Reason.OFFERED)
        decision_users, offer_users = ([users[i] for i in at.tolist()] for at in (logged, offered))
        triggers, offer_triggers = gather(events, logged), gather(events, offered)
        ids = ids_of(offer_users, offer_triggers)
        return Emitted(
            offered,
            offer_hashes(ids) if campaigns.budgeted else [],
            offer_users,
            encode_offers(
                topics,
                self._partition,
                offer_users,
                offer_triggers,
                gather(decisions, offered),
                campaigns,
                [models[model] for model in outcome.models[offered].tolist()],
                now_ms,
                self._settings.currency,
                ids,
            ),
            decision_users,
            encode_decisions(
                topics,
                self._partition,
                decision_users,
                triggers,
                gather(decisions, logged),
                outcome.steps[logged],
                outcome.row_seqs[logged],
                partition_seqs[logged],
                campaigns,
                [models[model] for model in outcome.models[logged].tolist()],
                now_ms,
                ids_of(decision_users, triggers),
            ),
        )

    def dead_letters(self, dead: Sequence[DeadLetter], tally: Tally) -> list[DeadRecord]:
        """Records for dead-letters."""
        for reason, n in Counter(letter.reason for letter in dead).items():
            tally.add(tally.metrics.dead_letters.labels(reason), n)
        return [dead_letter_record(d) for d in dead]


def _count(decisions: Decisions, campaigns: CampaignSet, tally: Tally) -> None:
    for reason, n in enumerate(np.bincount(decisions["reason"], minlength=len(Reason)).tolist()):
        if n:
            tally.add(tally.metrics.decisions.labels(Reason(reason).name.lower()), n)
    offered = decisions["campaign"][decisions["reason"] == Reason.OFFERED]
    for campaign, n in enumerate(np.bincount(offered).tolist() if len(offered) else []):
        if n:
            tally.add(tally.metrics.offers.labels(campaigns.campaigns[campaign].id), n)
