"""What must be in the topics after a log was worked through: told from what was published, in the order of `decisions`.

Two judges: the naive oracle of tests/core, event by event in plain Python, and `stream.core` itself, bit by bit, for
what the oracle does not know (hidden state, scores). Published JSON is reduced to events here, with nothing of
`stream.kafka.decode`.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest, xxh3_128_hexdigest

from stream.core.absorb import absorb
from stream.core.events import SOURCES, TIERS
from stream.core.fold import turns
from stream.core.row import ROW, new_rows
from stream.scoring.model import Model, unscored
from tests.core import oracle
from tests.core.logs import as_columns
from tests.e2e.harness import Event, Place, Read, Site

KIND_NAMES = (
    *("page_view", "product_view", "search", "cart_add", "cart_remove", "favourite", "checkout_start", "service_use"),
    *("placed", "cancelled", "returned", "rating", "complaint", "offer_seen", "offer_dismissed"),
    *("redeemed", "issued", "expired", "released", "profile"),
)
"""Kind names of the contract by code (stream/core/events.py)."""

OF_DECISIONS = ("offers_made", "offer_last_ms", "offer_day", "offer_days")
"""Fields of a row that decisions determine."""

OF_BUDGETS = ("offer_used", "open_offer", "open_campaign", "open_cost")
"""Of these too, where a campaign has a budget; none here has."""

UNDETERMINED = ("fence", "model", "state", *OF_DECISIONS, *OF_BUDGETS, "recent_ids")
"""What the oracle's row does not say, or, of `recent_ids`, says too strictly: bookkeeping makes no decision, so nothing
states when among the steps it was applied. `_check_ids` looks at that field."""


def hash64(text: str | None) -> int:
    return (xxh3_64_intdigest(text.encode()) or 1) if text else 0


def hash32(text: str | None) -> int:
    return (hash64(text) & 0xFFFFFFFF or 1) if text else 0


def oracle_event(event: Event, place: Place) -> oracle.Event:
    """A good event as numbers."""
    v = json.loads(event.value or b"")
    source, _, offset = place
    line = (v.get("lines") or [{}])[0] if source == "orders" else v
    month, day = (v.get("birthday") or "00-00").split("-")
    paid = v.get("total_minor", v.get("amount_minor")) or 0
    off = v.get("discount_minor") or 0
    return oracle.Event(
        time_ms=v["time_ms"],
        kind=KIND_NAMES.index(v.get("kind", "profile")),
        event_id=hash64(v["event_id"]),
        source=SOURCES.index(source),
        offset=offset,
        user=xxh3_64_intdigest(event.key or b""),
        session=hash64(v.get("session_id")) if source in {"clickstream", "orders"} else 0,
        offer=hash64(v.get("offer_id")),
        price_minor=paid + off if source == "orders" else v.get("price_minor") or 0,
        amount_minor=paid,
        discount_minor=off,
        registered_ms=v.get("registered_ms") or 0,
        product=hash32(line.get("product_id")),
        category=hash32(line.get("category_id")),
        brand=hash32(line.get("brand")),
        dwell_ms=v.get("dwell_ms") or 0,
        quantity=sum(x["quantity"] for x in v.get("lines") or []) if source == "orders" else v.get("quantity") or 0,
        results=0 if v.get("result_count") is None else v["result_count"] + 1,
        birthday=int(month) * 32 + int(day),
        rating=v.get("rating") or 0,
        tier=TIERS.index(v.get("tier") or ""),
        consent={None: 0, False: 1, True: 2}[v.get("consent")],
        objection=int(bool(v.get("objection"))),
    )


class Past(NamedTuple):
    """What one user's row is made of."""

    notes: list[oracle.Event]
    """Bookkeeping, in offset order."""
    steps: list[oracle.Event]
    """In the order in which they were applied."""
    decisions: list[Any]
    """On the steps: the record that counts for each."""
    silences: list[Any]
    """Decisions on silences, in the order of the moments at which they fell due."""


def is_silence(decision: Any) -> bool:
    """Whether a decision, or an offer, answers that no event came."""
    found: bool = decision["trigger"]["topic"] == "sweep"
    return found


def final_decisions(records: Sequence[Read]) -> dict[bytes, dict[int, Any]]:
    """By user and row_seq the decision that counts: the last one.

    Earlier ones were made in a life that did not come to its commit.
    """
    final: dict[bytes, dict[int, Any]] = defaultdict(dict)
    for record in records:  # those of one user lie in one partition, in offset order
        decision = record.json
        if not is_silence(decision):
            final[record.key or b""][decision["row_seq"]] = decision
    return final


def pasts(
    site: Site, decisions: Sequence[Read], sent: Sequence[tuple[Event, Place]] | None = None
) -> dict[bytes, Past]:
    """Every user's past: what was published, in the order that `decisions` (all of them logged) states.

    Raises:
        AssertionError: an event was lost or applied twice.
    """
    at: dict[Place, tuple[bytes, oracle.Event]] = {}
    ids: dict[bytes, dict[tuple[int, int], oracle.Event]] = defaultdict(dict)
    for event, place in sorted(site.sent if sent is None else sent, key=lambda s: s[1]):
        e = oracle_event(event, place)
        at[place] = event.key or b"", e
        ids[event.key or b""].setdefault((e.source, e.event_id), e)
    sources = {site.settings.topic(source): source for source in SOURCES}
    final = final_decisions(decisions)
    silences: dict[bytes, dict[str, Any]] = defaultdict(dict)
    for record in decisions:
        if is_silence(record.json):
            silences[record.key or b""][record.json["decision_id"]] = record.json
    found = {}
    for user, by_id in ids.items():
        notes = [e for e in by_id.values() if e.kind >= oracle.N_KINDS_WINDOWED]
        own = final.get(user, {})
        assert sorted(own) == list(range(1, len(own) + 1)), f"{user!r}: row_seqs {sorted(own)}"
        records = [own[seq] for seq in sorted(own)]
        triggers = [
            (sources[r["trigger"]["topic"]], r["trigger"]["partition"], r["trigger"]["offset"]) for r in records
        ]
        assert all(at[t][0] == user for t in triggers), user
        steps = [at[t][1] for t in triggers]
        wanted = {key for key, e in by_id.items() if e.kind < oracle.N_KINDS_WINDOWED}
        applied = [(e.source, e.event_id) for e in steps]
        twice = [(seq, e) for seq, e in enumerate(steps, 1) if applied.count((e.source, e.event_id)) > 1]
        assert not twice, f"{user!r}: applied twice, at row_seq: {twice}"
        assert set(applied) == wanted, (
            f"{user!r}: {len(wanted - set(applied))} events lost, {len(set(applied) - wanted)} invented"
        )
        own_silences = sorted(silences[user].values(), key=lambda d: d["trigger"]["time_ms"])
        found[user] = Past(notes, steps, records, own_silences)
    return found


def check_rows(rows: Mapping[bytes, np.void], past: Mapping[bytes, Past]) -> None:
    """Every row against the naive oracle, every field that events and decisions determine.

    Raises:
        AssertionError: names user and field.
    """
    assert set(rows) == set(past), f"rows without events or events without rows: {set(rows) ^ set(past)}"
    for user, (notes, steps, decisions, silences) in past.items():
        row, wanted = rows[user], oracle.row([*notes, *steps])
        offered = [d["time_ms"] for d in (*decisions, *silences) if d["reason"] == "offered"]
        wanted |= {"offers_made": len(offered), "offer_last_ms": max(offered, default=0)} | _offer_days(offered)
        named = set(wanted) - {"recent_ids"}
        assert named | set(UNDETERMINED) == set(ROW.names or ()), named ^ set(ROW.names or ())
        for name in named:
            assert row[name].tolist() == wanted[name], f"{user!r}.{name}: {row[name].tolist()}, must be {wanted[name]}"
        _check_ids(user, row["recent_ids"].tolist(), notes, steps)


def check_silences(past: Past, after_ms: int, *, to_the_end: bool = True) -> None:
    """Each silence of more than `after_ms` that was there to be seen was decided on once, and nothing else was.

    The last one was there, if the event before it was applied before it fell due. Of those before it nothing says
    whether a sweep came by before the next event was applied; nor of the last one, unless sweeps went on `to_the_end`.

    Raises:
        AssertionError: names the silence.
    """
    told = {d["row_seq"]: d for d in past.silences}
    assert len(told) == len(past.silences), f"a silence was answered twice: {past.silences}"
    last_ms = 0
    for seq, (step, decision) in enumerate(zip(past.steps, past.decisions, strict=True), 1):
        last_ms = max(last_ms, step.time_ms)
        due_ms = last_ms + after_ms
        if seq in told:
            assert told[seq]["trigger"]["time_ms"] == due_ms, f"{told[seq]} fell due at {due_ms}"
            assert told[seq]["time_ms"] > due_ms, f"{told[seq]} was answered before it fell due"
        is_last = seq == len(past.steps)
        missed = is_last and to_the_end and seq not in told
        assert not missed or decision["time_ms"] > due_ms, f"nobody answered the silence after {step}"


def _offer_days(offered_ms: Sequence[int]) -> dict[str, object]:
    """Offers by day, UTC: the last 32 days up to the newest, day d in the lower or upper half of byte d % 32 // 2."""
    days = Counter(ms // 86_400_000 for ms in offered_ms)
    newest, halves = max(days, default=0), [0] * 32
    for day, n in days.items():
        if newest - day < 32:
            halves[day % 32] = min(n, 15)
    return {"offer_day": newest, "offer_days": [halves[i] + 16 * halves[i + 1] for i in range(0, 32, 2)]}


def _check_ids(user: bytes, ring: list[int], notes: Sequence[oracle.Event], steps: Sequence[oracle.Event]) -> None:
    """The 16 ids applied last: among them the last steps, bookkeeping where there is room for doubt."""
    of_steps, of_notes = list(map(oracle.identity, steps)), set(map(oracle.identity, notes))
    held = [i for i in ring if i]
    assert len(held) == min(16, len(of_steps) + len(of_notes)), user
    held_steps = [i for i in held if i not in of_notes]
    assert set(held_steps) == set(of_steps[len(of_steps) - len(held_steps) :]), f"{user!r}: recent_ids"


class Played(NamedTuple):
    """What `stream.core` makes of a past."""

    users: list[bytes]
    rows: NDArray[np.void]
    steps: list[list[bytes]]
    """By user, in order of application."""
    scores: list[list[float]]


def play(past: Mapping[bytes, Past], models: Mapping[str, Model]) -> Played:
    """Fold each user's past in its order of application, each step scored by the model that its decision names."""
    users = list(past)
    log = [(u, e) for u, user in enumerate(users) for e in (*past[user].notes, *past[user].steps)]
    of_log = [d for user in users for d in (*([None] * len(past[user].notes)), *past[user].decisions)]
    rows = new_rows(len(users))
    steps: list[list[bytes]] = [[] for _ in users]
    scores: list[list[float]] = [[] for _ in users]
    if log:
        events, slots = as_columns(log)
        for turn in turns(events, slots, rows):
            made = absorb(turn.events, turn.rows)
            score = np.empty(len(turn.at), np.float32)
            names = [of_log[i]["model"] for i in turn.at.tolist()]
            for name in set(names):
                at = np.array([i for i, n in enumerate(names) if n == name])
                some = turn.rows[at]
                score[at] = (models[name].score(made[at], some) if name else unscored(some))[:, 0]
                turn.rows[at] = some
            for i, step, value in zip(turn.at.tolist(), made, score.tolist(), strict=True):
                steps[log[i][0]].append(step.tobytes())
                scores[log[i][0]].append(value)
    return Played(users, rows, steps, scores)


def check_bits(rows: Mapping[bytes, np.void], past: Mapping[bytes, Past], models: Mapping[str, Model]) -> None:
    """Rows, steps and scores against `stream.core` in the order of application: the same bits.

    Left out are the fence, which is the worker's own, and what decisions and the place of bookkeeping determine:
    `check_rows` sees to those.
    """
    played = play(past, models)
    left_out = {"fence", "recent_ids", *OF_DECISIONS}
    for user, row, steps, scores in zip(*played, strict=True):
        for name in ROW.names or ():
            if name not in left_out:
                assert rows[user][name].tobytes() == row[name].tobytes(), (
                    f"{user!r}.{name}: {rows[user][name]}, must be {row[name]}"
                )
        decisions = past[user].decisions
        assert [bytes.fromhex(d["step"]) for d in decisions] == steps, f"{user!r}: steps"
        said = [np.float32(np.nan if d["score"] is None else d["score"]) for d in decisions]
        assert np.array(said, np.float32).tobytes() == np.array(scores, np.float32).tobytes(), f"{user!r}: scores"


def offer_id(topic_id: str, place: Place) -> str:
    """As the protocol says: a hash of topic id, partition and offset."""
    return xxh3_128_hexdigest(f"{topic_id}:{place[1]}:{place[2]}".encode())


def check_all(
    site: Site, models: Sequence[Model], sent: Sequence[tuple[Event, Place]] | None = None
) -> dict[bytes, Past]:
    """Everything above, on all that was published (or `sent` of it, where something was meant to be refused)."""
    past = pasts(site, site.out("decisions"), sent)
    rows = site.rows()
    check_rows(rows, past)
    check_bits(rows, past, {model.hex: model for model in models})
    return past
