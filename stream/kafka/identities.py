"""Who is who: the row of an anonymous id goes to the user whom it turned out to be, across partitions, exactly once.

    identities[user]  ──login──>  merges[anonymous id]  ──claim──>  merges[user]  ──row──>  the user's row

1. The user's partition reads a login and claims the row, in the topic `merges`, of the partition of the anonymous id.
2. That one sends the row to the user's partition, in the same topic, and clears its own but for the fence.
3. The user's partition merges it (`stream.core.merge`).

`merges` is an input of partitions like any other: how far it was read is in the applied record, and what a partition
sends to it goes with rows and applied record in one transaction. So each step happens once, whatever crashes between
two of them. A login that is told twice finds a row that holds nothing, and nothing happens. What comes under the
anonymous id later is a new anonymous row, which the next login claims.

An erasure may overtake the row on its way: it is applied to the user's row between 1. and 3., and nothing is left that
would say so. So in 1. the user's row remembers the claim; where it does not any more in 3., and has too few events to
have forgotten it by itself, it was erased, and what was claimed for it is dropped.

At least once, a row may be sent twice; the user's row remembers which ones it has. There a claim may be out without the
row that remembers it (a crash between the two), so erasures are not looked for: a row must not be lost.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest, xxh3_128_hexdigest

from stream.core.merge import await_row, cleared, erased_since, is_blank, merge, remember
from stream.core.row import RowFormatError, Rows, pack, unpack
from stream.kafka.codec import DeadLetter, DeadReason, Identity, Merge
from stream.kafka.columns import Columns
from stream.kafka.decode import Record, dead_letter, decode_others
from stream.kafka.emit import Outputs
from stream.kafka.partitioner import partitions
from stream.kafka.reading import Fault
from stream.metrics import Tally
from stream.settings import Settings

IDENTITIES, MERGES = "identities", "merges"

Sent = tuple[int, bytes, bytes]
"""A record for `merges`: partition, key, value."""


class Joins(NamedTuple):
    """What a batch says about who is who."""

    claims: list[Sent]
    """Of logins: to be sent."""
    keys: list[bytes]
    """Whose rows are concerned, in offset order of each topic ..."""
    told: list[Identity | Merge]
    """... and what is to happen to each: a login to be remembered, a claim of it, or a row to be merged into it."""
    dead: list[DeadLetter]

    def and_those_of(self, other: "Joins") -> "Joins":
        """Both."""
        keys, told = self.keys + other.keys, self.told + other.told
        return Joins(self.claims + other.claims, keys, told, self.dead + other.dead)


NO_JOINS = Joins([], [], [], [])


def decode_identities(records: Sequence[Record], partition: int, settings: Settings) -> Joins:
    """Read one batch of one partition of `identities`: logins become claims."""
    topic, n_partitions = settings.topic(IDENTITIES), settings.partitions
    found = decode_others(IDENTITIES, records, partition, n_partitions, topic)
    remembered = settings.guarantee == "exactly_once"
    joins = Joins([], [], [], list(found.dead))
    anonymous = [login.anonymous_id.encode() for login in found.structs]
    to = partitions(anonymous, n_partitions).tolist() if anonymous else []
    for i, login in enumerate(found.structs):
        if login.anonymous_id == login.user_id:
            fault = Fault(DeadReason.FIELD_VALUE, "$.anonymous_id", "the anonymous id is the user's own")
            joins.dead.append(dead_letter(topic, partition, found.records[i], fault))
            continue
        claim = Merge(
            event_id=login.event_id, user_id=login.anonymous_id, time_ms=login.time_ms, claimed_by=login.user_id,
            claim=login.event_id if remembered else None,
        )  # fmt: skip
        joins.claims.append((to[i], anonymous[i], msgspec.json.encode(claim)))
        if remembered:
            joins.keys.append(found.keys[i])
            joins.told.append(login)
    return joins


def decode_merges(records: Sequence[Record], partition: int, settings: Settings) -> Joins:
    """Read one batch of one partition of `merges`. Only workers write there, but whoever did must not stop one."""
    topic, n_partitions = settings.topic(MERGES), settings.partitions
    found = decode_others(MERGES, records, partition, n_partitions, topic)
    dead, keys = list(found.dead), []
    merges: list[Identity | Merge] = []
    for key, told, record in zip(found.keys, found.structs, found.records, strict=True):
        try:
            if told.row is not None:
                unpack([told.row])
        except RowFormatError as error:
            dead.append(dead_letter(topic, partition, record, Fault(DeadReason.FIELD_VALUE, "$.row", str(error))))
            continue
        keys.append(key)
        merges.append(told)
    return Joins([], keys, merges, dead)


JOINING = {IDENTITIES: decode_identities, MERGES: decode_merges}
"""The inputs that say who is who, and how each is read."""


def join(
    joins: Joins, columns: Columns, slots: NDArray[np.int64], n_partitions: int, outputs: Outputs, tally: Tally
) -> None:
    """Let a batch's logins, claims and rows take effect, one after the other; they are few.

    Args:
        joins: what it says.
        columns: the partition's rows.
        slots: of `joins.keys`, which come first.
        n_partitions: of the topics.
        outputs: what is to be sent grows by claims and rows.
        tally: rows merged are counted.
    """
    outputs.add_merges(joins.claims)
    for key, told, slot in zip(joins.keys, joins.told, slots.tolist(), strict=False):
        rows: Rows = columns.rows[slot : slot + 1]
        if isinstance(told, Identity):
            if not await_row(rows, _claim_id(told.event_id)):
                continue
        elif told.row is not None:
            row_id = xxh3_64_intdigest(told.event_id.encode()) or 1
            if (rows["recent_ids"] == row_id).any():
                continue
            if told.claim is not None and erased_since(rows, _claim_id(told.claim)):
                continue
            merge(rows, unpack([told.row]).copy())
            remember(rows, row_id)
            tally.add(tally.metrics.rows_merged)
        elif told.claimed_by is None or is_blank(rows)[0]:
            continue
        else:
            (row,) = pack(rows)
            user = told.claimed_by.encode()
            sent = Merge(
                event_id=xxh3_128_hexdigest(told.event_id.encode() + row),
                user_id=told.claimed_by, time_ms=told.time_ms, row=row, claim=told.claim,
            )  # fmt: skip
            outputs.add_merges([(int(partitions([user], n_partitions)[0]), user, msgspec.json.encode(sent))])
            rows[:] = cleared(rows)
        outputs.add_rows([key], pack(rows))


def _claim_id(event_id: str) -> int:
    """What a row remembers of a claim: no event's id, nor a row's."""
    return xxh3_64_intdigest(b"claim:" + event_id.encode()) or 1
