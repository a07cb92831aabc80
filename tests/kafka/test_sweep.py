"""Sweeps of a partition without Faust around it, on a real broker: who fell silent is found, and answered once."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from xxhash import xxh3_128_hexdigest

from stream.campaigns.control import compile_campaigns
from stream.kafka import applied, sweep
from stream.kafka.applied import Applied, SweepState
from stream.kafka.control import InForce
from stream.kafka.partition import Partition
from stream.kafka.topics import Topics
from stream.kafka.transport import EventBatch
from stream.scoring.scorer import Scorer
from stream.settings import GUARANTEES
from tests.e2e.harness import Event, Site
from tests.e2e.logs import profile, trigger
from tests.kafka.test_partition import NOTHING, Room, batch_of

MONTH_MS = 30 * 86_400_000
SOON_MS = 1_500
SETTINGS: dict[str, Any] = {"sweep_interval_ms": 100, "sweep_lag_ms": 0}
WIN_BACK = {
    "id": "win-back", "name": "Win back", "version": 1, "trigger": {"silent_for": "30d"},
    "arms": [{"id": "ten", "kind": "percent", "percent": 10}],
    "policy": {"kind": "segment", "arms": {"regular": "ten", "new": "ten"}}, "valid_for": "24h",
}  # fmt: skip


def in_force(*documents: dict[str, Any]) -> InForce:
    campaigns, refused = compile_campaigns({d["id"]: json.dumps(d).encode() for d in documents})
    assert not refused
    return InForce(Scorer(), campaigns)


@pytest.fixture(params=GUARANTEES)
def site(request: pytest.FixtureRequest, broker: str, topic_prefix: str, tmp_path: Path) -> Site:
    return Site(broker, topic_prefix, tmp_path, partitions=1, guarantee=request.param)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No event is to be waited for."""
    monkeypatch.setattr(sweep, "_QUIET_S", 0.0)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def published(site: Site, events: Iterable[Event], **how: Any) -> EventBatch:
    """Events in their topics, and as the transport would hand them over."""
    places = site.publish(events)
    since: dict[tuple[str, int], int] = {}
    for source, partition, offset in places:
        place = site.settings.topic(source), partition
        since[place] = min(since.get(place, offset), offset)
    with Topics(site.settings.bootstrap) as topics:
        read = list(topics.read(since, since=since))
    return batch_of({topic.removeprefix(site.settings.topic_prefix): records for (topic, _), records in read}, **how)


def pieces_of(batch: EventBatch, most: int) -> list[EventBatch]:
    """The same records, source by source, in smaller batches."""
    return [
        batch_of({source: records[i : i + most]})
        for source, records in sorted(batch.records.items(), reverse=True)  # customers first
        for i in range(0, len(records), most)
    ]


async def swept(partition: Partition, force: InForce, until_ms: int = 0) -> None:
    """Sweep until all that fell due by then was come by, and that is committed."""
    while True:
        await partition.sweep(force)
        found = applied.decode(partition._store.applied).sweep if partition._store.applied else SweepState()
        if not found.tick_ms and found.swept_ms > max(until_ms, 1):
            return
        await asyncio.sleep(0.01)
        if not until_ms and partition._sweep.state.swept_ms:  # the first sweep looks at nothing, and commits nothing
            return


def last_seen(users: Iterable[str], at_ms: int) -> list[Event]:
    """Consent, and one event at that time."""
    users = list(users)
    return [profile(user, at_ms) for user in users] + [trigger(user, f"e-{user}", at_ms) for user in users]


def offered(site: Site) -> Counter[str]:
    return Counter(record.json["user_id"] for record in site.out("offers"))


def test_who_is_silent_for_a_month_gets_one_offer(site: Site) -> None:
    """Not who came back, never came, or does not want to; however often is swept, and by whom."""
    force = in_force(WIN_BACK)
    users = [f"user-{i}" for i in range(10)]

    async def story() -> int:
        room = Room(site, hot_rows=4, batch_rows=3, **SETTINGS)  # who is silent is not in memory any more
        async with room.partition() as partition:
            await swept(partition, force)
            since_ms = now_ms() - MONTH_MS + SOON_MS
            events = [*last_seen(users, since_ms), profile("never", since_ms), trigger("mute", "e-mute", since_ms)]
            batch = published(site, [*events, trigger("user-3", "back", now_ms())])
            for piece in pieces_of(batch, 3):
                await partition.apply(piece, force)
            assert offered(site) == {}
            await swept(partition, force, since_ms + MONTH_MS)
            assert partition.rows_hot() <= 4
        for _ in range(2):
            async with room.partition() as partition:
                await swept(partition, force, now_ms())
        assert not room.fatal
        assert room.metrics.registry.get_sample_value("offerstream_silences_total") == 10  # "mute" is one
        assert (room.metrics.registry.get_sample_value("offerstream_swept_rows_total") or 0) > 3 * 11
        return since_ms

    since_ms = asyncio.run(story())
    assert offered(site) == dict.fromkeys(set(users) - {"user-3"}, 1)
    due_ms = since_ms + MONTH_MS
    decisions = {r.json["decision_id"]: r.json for r in site.out("decisions") if r.json["trigger"]["topic"] == "sweep"}
    for offer in (record.json for record in site.out("offers")):
        id_ = xxh3_128_hexdigest(f"silence:{MONTH_MS}:0:{due_ms}:{offer['user_id']}".encode())
        assert offer["offer_id"] == id_
        assert offer["trigger"] == {
            "topic": "sweep", "partition": 0, "offset": MONTH_MS, "time_ms": due_ms, "kind": "silence",
        }  # fmt: skip
        decision = decisions[id_]
        assert (decision["reason"], decision["arm"], decision["propensity"]) == ("offered", "ten", 1)
        assert (decision["score"], decision["model"], decision["row_seq"]) == (None, "", 1)
        assert offer["valid_from_ms"] == decision["time_ms"] > due_ms
    assert {d["user_id"]: d["reason"] for d in decisions.values() if d["reason"] != "offered"} == {"mute": "no_consent"}
    rows = site.rows()
    for user in users:
        row = rows[user.encode()]
        assert (row["offers_made"], row["seq"]) == ((0, 2) if user == "user-3" else (1, 1))


def test_a_sweep_goes_on_where_its_last_commit_left_it(site: Site) -> None:
    """Taken over after every turn, what was not committed is as if it had never begun, and nobody is left out."""
    force = in_force(WIN_BACK)
    users = [f"user-{i}" for i in range(9)]
    cursors = []

    async def story() -> None:
        room = Room(site, batch_rows=2, commit_interval_ms=60_000, **SETTINGS)
        async with room.partition() as partition:
            await swept(partition, force)
            since_ms = now_ms() - MONTH_MS + SOON_MS
            await partition.apply(published(site, last_seen(users, since_ms)), force)
            await partition.drain()
        await asyncio.sleep(max(0, since_ms + MONTH_MS - now_ms() + 1) / 1000)
        for life in range(30):
            async with room.partition() as partition:
                await partition.sweep(force)
                state = partition._sweep.state
                if life % 2:
                    continue  # dropped with what it found
                await partition.drain()
                if state.tick_ms:
                    cursors.append(state.cursor)
                elif state.swept_ms > since_ms + MONTH_MS:
                    break
        assert not room.fatal

    asyncio.run(story())
    assert cursors == [b"user-1", b"user-3", b"user-5", b"user-7"]
    assert offered(site) == dict.fromkeys(users, 1)


def test_an_event_that_comes_while_a_sweep_is_under_way_ends_the_silence(site: Site) -> None:
    force = in_force(WIN_BACK)

    async def story() -> None:
        room = Room(site, batch_rows=2, **SETTINGS)
        async with room.partition() as partition:
            since_ms = now_ms() - MONTH_MS + 100
            partition._sweep.state = SweepState(swept_ms=since_ms)
            await partition.apply(published(site, last_seen(["a", "b", "c", "d"], since_ms)), NOTHING)
            await partition.drain()
            await asyncio.sleep(0.2)
            await partition.sweep(force)
            assert partition._sweep.state.cursor == b"b"
            await partition.apply(published(site, [trigger("d", "back", now_ms())]), force)  # not in the store yet
            await swept(partition, force, since_ms + MONTH_MS)

    asyncio.run(story())
    assert offered(site) == {"a": 1, "b": 1, "c": 1}


def test_a_row_whose_commit_is_late_is_seen(site: Site) -> None:
    """Brokers may take their time: what was applied is stored before a sweep looks into the store."""
    force = in_force(WIN_BACK | {"trigger": {"silent_for": "1s"}})

    async def story() -> None:
        room = Room(site, sweep_interval_ms=100, sweep_lag_ms=60_000, commit_interval_ms=60_000)
        async with room.partition() as partition:
            await partition.apply(published(site, last_seen(["z"], now_ms())), force)
            await partition.drain()
            await asyncio.sleep(0.2)  # for the commit that was asked for; the next one comes a minute later
            begin_ms = now_ms()
            partition._sweep.state = SweepState(swept_ms=begin_ms)
            await partition.apply(published(site, last_seen(["a"], begin_ms), more_waits=True), force)
            await partition.apply(published(site, last_seen(["b"], begin_ms + 1_500), more_waits=True), force)
            await asyncio.sleep(max(0, begin_ms + 1_600 - now_ms()) / 1000)
            await swept(partition, force, begin_ms + 1_000)

    asyncio.run(story())
    assert offered(site)["a"] == 1


def test_what_was_silent_before_the_first_sweep_gets_nothing_and_repeats_reach_it(site: Site) -> None:
    """History that is loaded gives nobody an offer; a campaign that repeats reaches the long silent in their time."""
    force = in_force(WIN_BACK | {"trigger": {"silent_for": "30d", "repeat_every": "30d"}})

    async def story() -> int:
        room = Room(site, **SETTINGS)
        async with room.partition() as partition:
            begin_ms = now_ms()
            history = last_seen(["long"], begin_ms - 5 * MONTH_MS - 60_000)
            soon = last_seen(["soon"], begin_ms - 4 * MONTH_MS + SOON_MS)
            await partition.apply(published(site, [*history, *soon]), force)
            await partition.drain()
            await swept(partition, force)
            await swept(partition, force, begin_ms + SOON_MS)
        return begin_ms

    begin_ms = asyncio.run(story())
    assert offered(site) == {"soon": 1}
    (offer,) = site.out("offers")
    assert offer.json["trigger"]["time_ms"] == begin_ms + SOON_MS


def test_nobody_is_taken_for_silent_while_events_are_behind(site: Site) -> None:
    """Who catches up has not seen what came last; how late events may come is a setting."""
    force = in_force(WIN_BACK)

    async def story() -> None:
        room = Room(site, sweep_interval_ms=100, sweep_lag_ms=60_000)
        async with room.partition() as partition:
            since_ms = now_ms() - MONTH_MS + 300
            partition._sweep.state = SweepState(swept_ms=since_ms)
            await partition.apply(published(site, last_seen(["a", "b"], since_ms), more_waits=True), force)
            await asyncio.sleep(0.5)
            for _ in range(5):
                await partition.sweep(force)
            assert partition._sweep.state == SweepState(swept_ms=since_ms)
            # Events of less than the lag ago: they tell the time.
            recent = [trigger("b", "b2", now_ms() - 10), trigger("c", "c1", now_ms())]
            await partition.apply(published(site, recent, more_waits=True), force)
            await swept(partition, force, since_ms + MONTH_MS)

    asyncio.run(story())
    assert offered(site) == {"a": 1}


def test_a_budget_holds_for_the_silent_too(site: Site) -> None:
    """The first one gets what there is, the others a reason; a longer silence comes before a shorter one."""
    paid = WIN_BACK | {
        "arms": [{"id": "ten", "kind": "coupon", "value_minor": 500}],
        "budget": {"total_minor": 1_200, "pacing": "asap"}, "currency": "EUR",
    }  # fmt: skip
    short = WIN_BACK | {"id": "short", "trigger": {"silent_for": "29d"}}

    async def story() -> None:
        room = Room(site, **SETTINGS)
        async with room.partition() as partition:
            since_ms = now_ms() - MONTH_MS + 100
            partition._sweep.state = SweepState(swept_ms=since_ms)  # both fall due in one sweep
            await partition.apply(published(site, last_seen(["a", "b", "c", "d"], since_ms)), NOTHING)
            await partition.drain()
            await asyncio.sleep(max(0, since_ms + MONTH_MS - now_ms() + 1) / 1000)
            await swept(partition, in_force(paid, short), since_ms + MONTH_MS)

    asyncio.run(story())
    told = {(r.json["user_id"], r.json["campaign_id"]): r.json["reason"] for r in site.out("decisions")}
    assert {key: told[key] for key in told if key[1] == "win-back"} == {
        ("a", "win-back"): "offered", ("b", "win-back"): "offered", ("c", "win-back"): "budget",
        ("d", "win-back"): "budget",
    }  # fmt: skip
    assert {key[0] for key in told if key[1] == "short"} == {"c", "d"}
    assert offered(site) == {"a": 1, "b": 1, "c": 1, "d": 1}
    (purse,) = site.applied()[0].budgets.values()
    assert purse["reserved_minor"] == 1_000


def test_an_applied_record_of_before_there_were_sweeps_is_read() -> None:
    """As version 0.1 wrote it."""
    before = (
        b'{"row_format":2,"partitions":4,"sequence":17,"sources":{"clickstream":{"topic_id":"Zm9v","next_offset":18}},'
        b'"model":"","campaigns":{"nudge":3},"budgets":{},"moved_to":"","filled_from":""}'
    )
    read = applied.decode(before)
    assert (read.sequence, read.sources["clickstream"].next_offset, read.sweep) == (17, 18, SweepState())
    now = Applied(2, 4, 17, {}, sweep=SweepState(5, 7, "schön".encode()))
    assert applied.decode(applied.encode(now)) == now
