"""A user asks to be forgotten: the row and its bytes are gone, here and after a restart; who comes back is new."""

import json
import time
from random import Random

from stream.kafka.cluster import INPUTS
from tests.e2e import expect
from tests.e2e.harness import Event, Site, event, wait_until
from tests.e2e.logs import shop_log, trigger

# Its id begins like nobody else's, and is neither first nor last: tables hold it whole, not as a difference.
GONE = "dora-who-leaves-7f3a91"
USERS = [GONE, *(f"customer-{i:03}" for i in range(60)), *(f"erik-{i:03}" for i in range(60))]


def erasure(user: str, event_id: str) -> Event:
    return event("erasures", event_id=event_id, user_id=user, time_ms=time.time_ns() // 1_000_000, reason="asked")


def publish_and_wait(site: Site, events: list[Event], erasures: int) -> None:
    """Until erasures are applied too: the harness waits for the sources only."""
    site.publish([one for one in events if one.source != "erasures"])
    for one in events:
        if one.source == "erasures":
            site.put_to_partition(site.settings.topic("erasures"), one.key or b"", one.value or b"")
    site.wait_applied()

    def applied() -> bool:
        positions = [record.sources["erasures"].next_offset for record in site.applied().values()]
        return sum(positions) >= erasures

    wait_until(applied, "erasures are applied", 30)


def holds(site: Site) -> list[str]:
    """Files of the local stores that hold the id, RocksDB's own log apart: it names keys, and is rolled twice a day."""
    folder = site.settings.data_dir / site.settings.app_id
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("LOG")]
    return [path.name for path in files if GONE.encode() in path.read_bytes()]


def test_a_user_is_forgotten(site: Site) -> None:
    now_ms = time.time_ns() // 1_000_000
    log = shop_log(Random(5), 3_000, USERS, now_ms - 60_000, "erasure", duplicates=0)
    settings = {"store_pending_bytes": 0, "store_flush_interval_ms": 1_000}
    with site.worker(**settings):
        publish_and_wait(site, log, 0)
    assert any(name.endswith(".sst") for name in holds(site)), "the test can find what is there"
    before = site.packed_rows()
    assert GONE.encode() in before
    others = {user: row for user, row in before.items() if user != GONE.encode()}
    with site.worker(**settings):
        publish_and_wait(site, [erasure(GONE, "e1"), erasure("nobody-we-know", "e2")], 2)
        # While it runs: RocksDB's journal of files may name it until the store is opened again.
        wait_until(lambda: {name[:8] for name in holds(site)} <= {"MANIFEST"}, "its bytes are gone", 10)
        assert site.packed_rows() == others

    # It is gone for the next owner, with this disk and without, and whoever comes back begins anew.
    with site.worker(**settings) as worker:
        worker.wait_serving()
        publish_and_wait(site, [trigger(GONE, "back", now_ms + 1)], 2)
        row = site.rows()[GONE.encode()]
        assert (int(row["seq"]), int(row["kind_total"].sum()), int(row["first_ms"])) == (1, 1, now_ms + 1)
        assert {user: row for user, row in site.packed_rows().items() if user != GONE.encode()} == others
        publish_and_wait(site, [erasure(GONE, "e3")], 3)
        assert GONE.encode() not in site.packed_rows()
    with site.worker(**settings) as worker:
        worker.wait_serving()
    assert holds(site) == []
    assert set(site.applied()[0].sources) == set(INPUTS)
    kept = [sent for sent in site.sent if sent[0].key != GONE.encode()]
    rows = {user: row for user, row in site.rows().items() if user != GONE.encode()}
    assert rows.keys() == {event.key for event, _ in kept}


def test_a_bad_erasure_is_a_dead_letter(site: Site) -> None:
    with site.worker():
        publish_and_wait(site, [trigger("u", "e", time.time_ns() // 1_000_000)], 0)
        site.put_to_partition(site.settings.topic("erasures"), b"u", b'{"user_id": "u"}')
        site.put_to_partition(site.settings.topic("erasures"), b"u", json.dumps({"user_id": "x"}).encode())
        wait_until(lambda: len(site.out("dead-letters")) == 2, "dead letters", 30)
    assert {r.headers["reason"] for r in site.out("dead-letters")} == {b"field_missing"}
    assert b"u" in site.packed_rows()
    expect.check_all(site, [])
