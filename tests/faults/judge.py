"""The verdict on a run of the fault suite: counts of what is wrong, from the topics alone."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from stream.core.events import SOURCES
from stream.scoring.model import load
from tests.core import oracle
from tests.e2e import expect
from tests.faults.shop import SILENT_S, Shop


class Verdict(NamedTuple):
    """What was found; `said` has a line for each thing that is wrong."""

    events: int
    """Published, broken ones left out."""
    applied: int
    """Different events that a decision names."""
    duplicate: int
    """Published again with the same id."""
    dead: int
    offers: int
    lost: int
    """Events without a decision, triggers without their offer, broken records without a dead letter."""
    duplicated: int
    """Decisions, offers or dead letters that a read_committed reader sees again."""
    mismatched_rows: int
    said: list[str]


def judge(shop: Shop, models: Sequence[bytes], *, all_swept: bool = False) -> Verdict:
    """Compare what lies in the topics with what was published.

    Args:
        shop: what was published.
        models: that were in force.
        all_swept: sweeps went on until everybody's last silence had fallen due.
    """
    site = shop.site
    loaded = {model.hex: model for model in map(load, models)}
    topics = {site.settings.topic(source): source for source in SOURCES}
    decisions, offers, dead = (site.out(name) for name in ("decisions", "offers", "dead-letters"))
    silences = Counter(record.json["decision_id"] for record in decisions if expect.is_silence(record.json))
    of_logins = [record for record in decisions if shop.logins.knows(record) and not expect.is_silence(record.json)]
    decisions = [record for record in decisions if not shop.logins.knows(record)]
    event_at = {place: expect.oracle_event(event, place) for event, place in shop.good}
    user_at = {place: event.key for event, place in shop.good}
    by_id = {(user_at[p], e.source, e.event_id): e for p, e in event_at.items()}
    steps = {key for key, e in by_id.items() if e.kind < oracle.N_KINDS_WINDOWED}
    said: list[str] = []

    def note(what: str, some: set[Any]) -> int:
        if some:
            said.append(f"{len(some)} {what}: {sorted(map(str, some))[:3]}")
        return len(some)

    on_events = [record.json for record in decisions if not expect.is_silence(record.json)]
    triggers = [
        (topics[t["topic"]], t["partition"], t["offset"]) for t in (decision["trigger"] for decision in on_events)
    ]
    applied = Counter((user_at[place], event_at[place].source, event_at[place].event_id) for place in triggers)
    offered = Counter(record.json["offer_id"] for record in offers)
    promised = {
        d["decision_id"]
        for d in (record.json for record in decisions)
        if d["reason"] == "offered" or d["campaign_id"] == "always"
    }
    letters = Counter(
        (topics[r.headers["topic"].decode()], int(r.headers["partition"]), int(r.headers["offset"])) for r in dead
    )
    lost = note("events without a decision", steps - applied.keys())
    lost += note("offers promised and not made", promised - offered.keys())
    lost += note("broken records without a dead letter", set(shop.bad) - letters.keys())
    lost += note("offers nobody promised", offered.keys() - promised)
    duplicated = sum(
        note(f"{what} repeated", {key for key, n in counted.items() if n > 1})
        for what, counted in (
            ("decisions", applied),
            ("answers to silences", silences),
            ("offers", offered),
            ("dead letters", letters),
        )
    )
    said += [
        f"offer {key}: partition {r.partition} offset {r.offset} produced at {r.timestamp_ms} ms"
        for r in offers
        if offered[key := r.json["offer_id"]] > 1
    ]
    rows = site.rows()
    said += (wrong_logins := shop.logins.judge(rows, of_logins))
    mismatched = len(wrong_logins)
    try:
        past = expect.pasts(site, decisions, shop.good)
    except AssertionError as e:
        said.append(f"no order of application: {e}")
        past, mismatched = {}, max(1, len(rows))
    for user, of_user in past.items():
        try:
            expect.check_silences(of_user, 1_000 * SILENT_S, to_the_end=all_swept)
        except AssertionError as e:
            lost += 1
            said.append(f"{user!r}: {str(e)[:300]}")
        try:
            expect.check_rows({user: rows[user]}, {user: of_user})
            expect.check_bits({user: rows[user]}, {user: of_user}, loaded)
        except (AssertionError, KeyError) as e:
            mismatched += 1
            said.append(f"row of {user!r}: {str(e)[:300]}")
    return Verdict(
        events=len(shop.good),
        applied=len(applied),
        duplicate=len(event_at) - len(by_id),
        dead=letters.total(),
        offers=len(offered),
        lost=lost,
        duplicated=duplicated,
        mismatched_rows=mismatched,
        said=said,
    )
