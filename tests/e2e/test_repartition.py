"""Repartition on a real broker: events through 2 partitions, the move to 5, events again; nothing lost or doubled."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from stream.core.events import SOURCES
from stream.kafka.cluster import INPUTS
from stream.kafka.partitioner import partitions
from stream.scoring.model import Model
from tests.e2e import expect
from tests.e2e.harness import ROOT, Event, Place, Read, Site, wait_until
from tests.e2e.logs import profile, shop_log
from tests.e2e.test_offers import campaign

USERS = [f"user-{i}" for i in range(60)]
ELSEWHERE = 1000
"""Added to the new topics' partitions, where old and new stand in one list."""

BUDGET = campaign(
    trigger={"kinds": ["cart_add", "product_view", "page_view"]}, budget={"total_minor": 90_000, "pacing": "asap"}
)
POINTS = ("marks", "rows", "all_rows", "closing", "closed", "opening", "sending", "sent")
"""Where `tests.e2e.killed_move` ends a move, in the order in which a move comes by."""


def log(n: int, name: str) -> list[Event]:
    return shop_log(Random(name), n, USERS, time.time_ns() // 1_000_000, name, duplicates=0)


def command(old: Site, new: Site) -> list[str]:
    settings = new.settings
    named = [f"--to-partitions={settings.partitions}", f"--to-app-id={settings.app_id}"]
    return [
        "repartition",
        *named,
        f"--to-topic-prefix={settings.topic_prefix}",
        f"--bootstrap={old.settings.bootstrap}",
    ]


def call(old: Site, new: Site, *options: str, entry: tuple[str, ...] = ("-m", "stream")) -> tuple[int, str]:
    """The command as a process: its exit code and all it said."""
    done = subprocess.run(
        [sys.executable, *entry, *command(old, new), *options],
        env=old.environment(), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def everywhere(old: Site, new: Site) -> tuple[list[tuple[Event, Place]], list[Read]]:
    """What was published, each event where it was applied, and all decisions; of the new topics as of `ELSEWHERE`.

    Raises:
        AssertionError: an event lies in the new topics twice, or with anything changed.
    """
    published = Counter((e.source, e.key, e.value) for site in (old, new) for e, _ in site.sent)
    assert set(published.values()) == {1}
    arrived: dict[tuple[str, bytes | None, bytes | None], Place] = {}
    for source in SOURCES:
        for r in new.read(new.settings.topic(source)):
            assert (source, r.key, r.value) not in arrived, f"twice: {r}"
            assert r.partition == partitions([r.key or b""], new.settings.partitions)[0]
            arrived[source, r.key, r.value] = source, r.partition + ELSEWHERE, r.offset
    assert arrived.keys() <= published.keys()
    sent = [(e, arrived.get((e.source, e.key, e.value), place)) for e, place in old.sent]
    sent += [(e, arrived[e.source, e.key, e.value]) for e, _ in new.sent]
    names = {new.settings.topic(source): old.settings.topic(source) for source in SOURCES}
    decisions = old.out("decisions")
    for r in new.out("decisions"):
        trigger = r.json["trigger"]
        moved = {"topic": names[trigger["topic"]], "partition": trigger["partition"] + ELSEWHERE}
        decisions.append(r._replace(value=json.dumps(r.json | {"trigger": trigger | moved}).encode()))
    return sent, decisions


def check(old: Site, new: Site, models: list[Model]) -> None:
    """Rows equal what the oracle makes of all events; every decision that says so has its offer, once."""
    sent, decisions = everywhere(old, new)
    past = expect.pasts(old, decisions, sent)
    rows = new.rows()
    for row in rows.values():
        for name in expect.OF_BUDGETS:  # of these the oracle knows nothing
            row[name] = 0
    expect.check_rows(rows, past)
    expect.check_bits(rows, past, {model.hex: model for model in models})
    offered = [d["decision_id"] for p in past.values() for d in p.decisions if d["reason"] == "offered"]
    offers = [r.json["offer_id"] for site in (old, new) for r in site.out("offers")]
    assert sorted(offers) == sorted(offered)
    assert len(set(offers)) == len(offers)


def purses(site: Site) -> dict[str, Any]:
    """Sums over the partitions' purses, and what the rows say is reserved."""
    records = site.applied().values()
    found = [purse for record in records for purse in record.budgets.values()]
    names = ("limit_minor", "spent_minor", "reserved_minor", "settled_minor", "used_minor", "settled", "unknown")
    assert all(purse["spent_minor"] + purse["reserved_minor"] <= purse["limit_minor"] for purse in found)
    return {name: sum(purse[name] for purse in found) for name in names}


@pytest.fixture
def new(broker: str, topic_prefix: str, tmp_path: Path) -> Site:
    """The new topics: the harness has made them before the move does, which then finds them."""
    return Site(broker, f"new-{topic_prefix}", tmp_path / "new", partitions=5)


def test_from_two_partitions_to_five(site: Site, new: Site, model: Model, model_file: bytes) -> None:
    site.publish_model(model_file, model.hex)
    site.publish_campaigns(BUDGET)
    site.publish([profile(user, time.time_ns() // 1_000_000) for user in USERS])
    site.publish(log(600, "before"))
    with site.worker() as worker:
        site.wait_applied([worker])
        code, said = call(site, new)
        assert (code, "are running" in said) == (1, True), said
    old_rows, spent = site.packed_rows(), purses(site)
    assert spent["reserved_minor"] > 0
    site.publish(log(150, "waiting"))  # nobody is there to apply these

    code, said = call(site, new, "--dry-run")
    assert code == 0, said
    assert f"{len(old_rows)} rows and 150 unapplied events would go from 2 to 5" in said
    assert new.read(new.settings.changelog) == []

    new.publish(log(100, "early"))  # a producer that is quick
    code, said = call(site, new)
    assert code == 0, said
    assert f"{len(old_rows)} rows and 150 unapplied events went from 2 to 5 partitions" in said
    assert f"OFFERSTREAM_APP_ID={new.settings.app_id}" in said
    assert purses(new) == spent
    assert site.packed_rows() == old_rows
    assert where(new) == {user: int(partitions([user], 5)[0]) for user in old_rows}

    site.publish(log(80, "straggler"))  # a producer that is slow
    with site.worker() as worker:
        assert worker.wait(30) == 1
        assert f"its rows were moved to the app {new.settings.app_id}" in worker.log()
    with new.worker() as worker:
        new.publish(log(200, "after"))
        code, said = call(site, new)
        assert code == 0, said
        assert "0 rows and 80 unapplied events went" in said
        new.wait_applied([worker])
        code, said = call(site, new)
        assert (code, "0 rows and 0 unapplied" in said) == (0, True), said
    check(site, new, [model])
    assert set(new.applied()[0].sources) == set(INPUTS)


def members(site: Site) -> int:
    """Of the app's consumer group."""
    admin = AdminClient({"bootstrap.servers": site.settings.bootstrap, "log_level": 0})
    return len(admin.describe_consumer_groups([site.settings.app_id])[site.settings.app_id].result().members)


def where(site: Site) -> dict[bytes, int]:
    """In which partition of the changelog each user's row lies."""
    return {r.key: r.partition for r in site.read(site.settings.changelog) if r.key and r.key != b"\xff"}


@pytest.mark.parametrize("points", [("rows", "closing", "sent"), pytest.param(POINTS, marks=pytest.mark.long)], ids=len)
def test_killed_wherever_it_is_it_is_called_again(
    broker: str, topic_prefix: str, tmp_path: Path, model: Model, model_file: bytes, points: Sequence[str]
) -> None:
    site = Site(broker, topic_prefix, tmp_path, partitions=2)
    new = Site(broker, f"new-{topic_prefix}", tmp_path / "new", partitions=3)
    site.publish_model(model_file, model.hex)
    site.publish_campaigns(BUDGET)
    site.publish([profile(user, time.time_ns() // 1_000_000) for user in USERS])
    site.publish(log(400, "before"))
    with site.worker() as worker:
        site.wait_applied([worker])
    spent = purses(site)
    old_state = site.packed_rows(), [record.sequence for record in site.applied().values()]
    site.publish(log(200, "waiting"))
    for point in points:
        code, said = call(site, new, entry=("-m", "tests.e2e.killed_move", point))
        assert code == -signal.SIGKILL, f"{point}: {code}: {said}"
        if point == "all_rows":
            with new.worker() as worker:
                assert worker.wait(30) == 1
                assert f"still being copied from the app {site.settings.app_id}" in worker.log()
            wait_until(lambda: not members(new), "its session ends", 30)
        if point == "closing":  # nobody else gets the rows now
            code, said = call(site, new, "--to-app-id=another")
            assert (code, f"was moved to {new.settings.app_id} before" in said) == (1, True), said
    code, said = call(site, new)
    assert code == 0, said
    assert purses(new) == spent
    assert old_state == (site.packed_rows(), [record.sequence for record in site.applied().values()])
    with new.worker() as worker:
        new.publish(log(150, "after"))
        new.wait_applied([worker])
    check(site, new, [model])
