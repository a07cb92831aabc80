"""A login merges the anonymous row into the user's: across partitions, once, whatever is killed meanwhile."""

import json
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from stream.core.merge import is_blank
from stream.kafka.partitioner import partitions
from tests.core import oracle
from tests.core.test_merge import OF_THE_SET
from tests.e2e.expect import oracle_event
from tests.e2e.harness import Event, Site, Worker, event, wait_until
from tests.e2e.logs import shop_log

USERS = [f"user-{i}" for i in range(24)]
ANONYMOUS = [f"anon-{i}" for i in range(24)]
STRANGERS = [f"never-logs-in-{i}" for i in range(6)]


@pytest.fixture
def site(broker: str, topic_prefix: str, tmp_path: Path) -> Site:
    return Site(broker, topic_prefix, tmp_path, partitions=3)


def login(site: Site, anonymous: str, user: str, **changes: Any) -> None:
    now_ms = time.time_ns() // 1_000_000
    fields = {"event_id": f"login-{anonymous}", "user_id": user, "time_ms": now_ms, "anonymous_id": anonymous}
    one = event("identities", **(fields | changes))
    site.put_to_partition(site.settings.topic("identities"), user.encode(), one.value or b"")


def events(n: int, name: str, users: Sequence[str] = (*USERS, *ANONYMOUS, *STRANGERS)) -> list[Event]:
    return shop_log(Random(name), n, users, time.time_ns() // 1_000_000, name, duplicates=0)


def wait_merged(site: Site, workers: Sequence[Worker]) -> None:
    """Every login, claim and row is applied: what a transaction took in is gone, and what it sent is there."""
    site.wait_applied(workers)
    wait_until(site.has_joined, "logins are applied", 60)


def check(site: Site, of_user: dict[str, str]) -> None:
    """Each user's row is the oracle's over the events of all its ids; other rows are what they were."""
    past: dict[str, list[oracle.Event]] = defaultdict(list)
    for i, (one, place) in enumerate(sorted(site.sent, key=lambda sent: sent[1])):
        id_ = (one.key or b"").decode()
        past[of_user.get(id_, id_)].append(oracle_event(one, place)._replace(event_id=i + 1))
    rows = site.rows()
    for user, all_ in past.items():
        wanted, row = oracle.row(all_), rows[user.encode()]
        for name in OF_THE_SET:
            assert row[name].tolist() == wanted[name], f"{user}.{name}"
    for anonymous in of_user:
        assert is_blank(np.array([rows[anonymous.encode()]])).all(), anonymous


def test_rows_are_merged_across_partitions_once(site: Site) -> None:
    of_user = dict(zip(ANONYMOUS, USERS, strict=True))
    homes = partitions([one.encode() for one in (*ANONYMOUS, *USERS)], 3).reshape(2, -1)
    assert (homes[0] == homes[1]).any()
    assert (homes[0] != homes[1]).any()
    with site.worker() as worker:
        site.publish(events(900, "before"))
        site.wait_applied([worker])
        for anonymous, user in of_user.items():
            login(site, anonymous, user)
        login(site, "nobody-knows", USERS[0])
        wait_merged(site, [worker])
        check(site, of_user)
        assert worker.metric("offerstream_rows_merged_total") == len(
            {e.key for e, _ in site.sent} & {a.encode() for a in ANONYMOUS}
        )

        before = site.packed_rows()
        login(site, ANONYMOUS[0], USERS[0])  # told twice
        wait_merged(site, [worker])
        assert site.packed_rows() == before

        # What comes late under the anonymous ids waits for the next login; meanwhile users go on.
        site.publish(events(300, "after"))
        for anonymous, user in of_user.items():
            login(site, anonymous, user, event_id=f"again-{anonymous}")
        wait_merged(site, [worker])
        check(site, of_user)
    assert site.out("dead-letters") == []


def test_a_worker_that_is_killed_among_logins(site: Site) -> None:
    """At any moment: between the login, the claim and the row, whichever partitions they are in."""
    of_user = dict(zip(ANONYMOUS, USERS, strict=True))
    site.publish(events(600, "before"))
    with site.worker(instance_id="one") as worker:
        site.wait_applied([worker])
        for anonymous, user in list(of_user.items())[:8]:
            login(site, anonymous, user)
        worker.kill()
    for piece in (slice(8, 16), slice(16, 24)):
        with site.worker(instance_id="one") as worker:
            worker.wait_serving()
            for anonymous, user in list(of_user.items())[piece]:
                login(site, anonymous, user)
                site.publish(events(5, f"among-{user}", USERS))
            worker.kill()
    with site.worker(instance_id="one") as worker:
        wait_merged(site, [worker])
    check(site, of_user)


def test_an_erasure_that_overtakes_a_row_drops_it(site: Site) -> None:
    """The row that was on its way comes behind the erasures of both: put there once more, as it was sent."""
    user, anonymous = USERS[0], ANONYMOUS[0]
    with site.worker() as worker:
        site.publish(events(40, "some", [user, anonymous]))
        site.wait_applied([worker])
        login(site, anonymous, user)
        wait_merged(site, [worker])
        merges = site.settings.topic("merges")
        (row,) = (record for record in site.read(merges) if record.key == user.encode())
        for who in (user, anonymous):
            asked = event("erasures", event_id=f"e-{who}", user_id=who, time_ms=time.time_ns() // 1_000_000)
            site.put_to_partition(site.settings.topic("erasures"), who.encode(), asked.value or b"")
        wait_until(lambda: not site.packed_rows(), "both are erased", 30)
        site.put_to_partition(merges, user.encode(), row.value or b"")
        wait_merged(site, [worker])
        assert site.packed_rows() == {}

        # Who comes back is new, and logs in as before.
        site.sent.clear()
        site.publish(events(40, "back", [user, anonymous]))
        site.wait_applied([worker])
        login(site, anonymous, user, event_id="back")
        wait_merged(site, [worker])
        check(site, {anonymous: user})
        assert worker.metric("offerstream_rows_merged_total") == 2
    assert site.out("dead-letters") == []


def test_bad_logins_are_dead_letters(site: Site) -> None:
    topic = site.settings.topic("merges")
    with site.worker() as worker:
        site.publish(events(60, "some"))
        site.wait_applied([worker])
        before = site.packed_rows()
        login(site, USERS[0], USERS[0])
        login(site, "", USERS[1])
        told = {"event_id": "e", "user_id": USERS[0], "time_ms": time.time_ns() // 1_000_000}
        for value in (
            b"no JSON",
            json.dumps(told | {"row": "Y2Ey"}).encode(),
            json.dumps(told | {"row": "%"}).encode(),
        ):
            site.put_to_partition(topic, USERS[0].encode(), value)
        wait_until(lambda: len(site.out("dead-letters")) == 5, "dead letters", 30)
        assert worker.poll() is None
    reasons = sorted((r.headers["reason"], r.headers["field"]) for r in site.out("dead-letters"))
    assert reasons == [
        (b"field_value", b"$.anonymous_id"),
        (b"field_value", b"$.anonymous_id"),
        (b"field_value", b"$.row"),
        (b"field_value", b"$.row"),
        (b"not_json", b""),
    ]
    assert site.packed_rows() == before
