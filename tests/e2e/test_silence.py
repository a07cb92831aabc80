"""A user who falls silent gets one offer, on a real broker: over kills in the middle of sweeps, and restarts."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from stream.campaigns.why_cli import why_command
from tests.core import oracle
from tests.e2e import expect
from tests.e2e.harness import Event, Site, Worker, wait_until
from tests.e2e.logs import profile, trigger
from tests.e2e.test_offers import check_schema
from tests.faults.crashing_worker import SWEEP_POINTS, CrashingWorker, Orders

SILENT_S = 4
N_USERS = 60
WIN_BACK = {
    "id": "win-back", "name": "Win back", "version": 1, "trigger": {"silent_for": f"{SILENT_S}s"},
    "arms": [{"id": "ten", "kind": "percent", "percent": 10}],
    "policy": {"kind": "segment", "arms": {"new": "ten"}}, "valid_for": "24h",
}  # fmt: skip
SETTINGS: dict[str, Any] = {
    "sweep_interval_ms": 200,
    "sweep_lag_ms": 1_000,
    "batch_rows": 10,  # a sweep has several turns
    "hot_rows": 20,  # most users are not in memory
    "store_flush_interval_ms": 1_000,
    "instance_id": "one",  # who comes back gets its partitions at once
}


@pytest.fixture
def site(broker: str, topic_prefix: str, tmp_path: Path) -> Site:
    made = Site(broker, topic_prefix, tmp_path, partitions=2)
    made.publish_campaigns(WIN_BACK)
    return made


def test_who_falls_silent_gets_one_offer_whenever_its_worker_is_killed(site: Site) -> None:
    users = [f"user-{i}" for i in range(N_USERS)]
    begin_ms = time.time_ns() // 1_000_000
    site.publish([profile(user, begin_ms) for user in users])
    with site.worker(**SETTINGS) as worker:
        site.wait_applied([worker])
        _wait_swept(site, worker, begin_ms)  # what falls due from here on is answered
    crashed = []
    last: dict[str, int] = {}
    for point in SWEEP_POINTS:
        last |= _come(site, users, f"before-{point}")
        with CrashingWorker(site, Orders(point), **SETTINGS) as worker:
            assert worker.wait(60) == -9, worker.log()
            crashed.append(worker.crashed_at())
    assert crashed == list(SWEEP_POINTS)
    with site.worker(**SETTINGS) as worker:
        _wait_swept(site, worker, max(last.values()) + 1_000 * SILENT_S)
        come_back = _come(site, users[: N_USERS // 2], "back")
        _wait_swept(site, worker, max(come_back.values()) + 1_000 * SILENT_S)
        metrics = worker.metrics()
    assert metrics["offerstream_swept_rows_total"] >= N_USERS
    assert metrics["offerstream_silences_total"] >= N_USERS // 2
    past = expect.check_all(site, [])
    for user in users:
        expect.check_silences(past[user.encode()], 1_000 * SILENT_S)
    offers = Counter(record.json["offer_id"] for record in site.out("offers"))
    answered = {d["decision_id"] for p in past.values() for d in p.silences if d["reason"] == "offered"}
    assert offers == dict.fromkeys(answered, 1)
    of_user = Counter(record.json["user_id"] for record in site.out("offers"))
    assert all(of_user[user] > 1 for user in come_back)
    for name in ("offers", "decisions"):
        check_schema(name, site.out(name))
    asked = ["--bootstrap", site.settings.bootstrap, "--topic-prefix", site.settings.topic_prefix]
    said = CliRunner().invoke(why_command, [next(iter(answered)), *asked])
    assert said.exit_code == 2
    assert "nothing came" in said.output


def _come(site: Site, users: list[str], name: str) -> dict[str, int]:
    """One event of each user now; when that was, by user."""
    now_ms = time.time_ns() // 1_000_000
    events: Iterator[Event] = (trigger(user, f"{name}-{user}", now_ms) for user in users)
    site.publish(events)
    return dict.fromkeys(users, now_ms)


def _wait_swept(site: Site, worker: Worker, until_ms: int) -> None:
    """Return when everything that fell due by then was come by."""

    def swept() -> bool:
        assert worker.poll() is None, worker.log()
        records = site.applied()
        return len(records) == 2 and all(r.sweep.swept_ms > until_ms for r in records.values())

    wait_until(swept, "a sweep", 60)


def _past(decided_ms: Sequence[int], silences: Sequence[tuple[int, int, int]]) -> expect.Past:
    """One event every 10 s, decided on at those times; answers as (row_seq, due, decided)."""
    events = [oracle.Event(time_ms=10_000 * (i + 1), kind=3, event_id=i + 1) for i in range(len(decided_ms))]
    answers = [{"row_seq": seq, "trigger": {"time_ms": due_ms}, "time_ms": at_ms} for seq, due_ms, at_ms in silences]
    return expect.Past([], events, [{"time_ms": ms} for ms in decided_ms], answers)


@pytest.mark.parametrize(
    ("decided_ms", "silences", "complaint"),
    [
        ([10_000, 20_000], [(1, 14_000, 14_500), (2, 24_000, 24_500)], None),
        ([10_000, 20_000], [(2, 24_000, 24_500)], None),  # the next event may have been there before the sweep
        ([10_000, 24_001], [(1, 14_000, 14_500)], None),  # it came too late for its silence to be seen
        ([10_000, 20_000], [(1, 14_000, 14_500)], "nobody answered"),
        ([10_000, 20_000], [(2, 24_000, 24_500), (2, 24_000, 24_900)], "answered twice"),
        ([10_000, 20_000], [(2, 23_000, 24_500)], "fell due at 24000"),
        ([10_000, 20_000], [(2, 24_000, 23_999)], "before it fell due"),
    ],
)
def test_the_judge_of_silences_finds_what_is_wrong(
    decided_ms: list[int], silences: list[tuple[int, int, int]], complaint: str | None
) -> None:
    past = _past(decided_ms, silences)
    if complaint is None:
        expect.check_silences(past, 4_000)
    else:
        with pytest.raises(AssertionError, match=complaint):
            expect.check_silences(past, 4_000)
