"""The shop on a real broker: what it publishes a worker takes, and offers change what it does."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from stream.kafka.decode import decode
from stream.settings import Settings
from stream.shop.cli import shop
from stream.shop.coupons import Coupons
from stream.shop.disturb import Disturbance
from stream.shop.live import Live, Reader
from stream.shop.population import DAY_MS
from stream.shop.publish import Publisher
from stream.shop.simulate import Shop
from tests.e2e.harness import Site, wait_until
from tests.shop.conftest import N_PARTITIONS, Record

Published = Callable[[str], list[Record]]
SOURCES = ("clickstream", "orders", "feedback", "redemptions", "customers")


def test_history_then_live_with_disturbances_each_accounted_for(
    environment: Settings, published: Published, tmp_path: Path
) -> None:
    arguments = ["--users", "300", "--history-days", "2", "--seconds", "3", "--rate", "60", "--seed", "4"]
    disturbed = ["--duplicates", "0.02", "--poison", "0.01", "--json", str(tmp_path / "shop.json")]
    result = CliRunner().invoke(shop, ["run", *arguments, *disturbed])
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "shop.json").read_text())
    good = dead = 0
    seen: dict[tuple[str, str], int] = {}
    for source in SOURCES:
        records = published(source)
        assert len(records) == summary["by_topic"].get(source, 0)
        for partition in range(N_PARTITIONS):
            mine = [r for r in records if r.partition == partition]
            batch = decode(source, mine, partition, N_PARTITIONS, environment.currency, source)
            assert {d.reason.value for d in batch.dead} <= {
                *("not_json", "not_utf8", "value_missing", "field_type", "field_missing", "field_value"),
                *("user_mismatch", "time_range"),
            }
            good += len(batch.events)
            dead += len(batch.dead)
            broken = {d.offset for d in batch.dead}
            for record in mine:
                if record.offset not in broken:
                    value = json.loads(record.value or b"")
                    seen[source, value["event_id"]] = seen.get((source, value["event_id"]), 0) + 1
    assert good + dead == summary["events_published"]
    twice = sum(n - 1 for n in seen.values())
    assert max(seen.values()) == 2
    assert twice / good == pytest.approx(0.02, rel=0.5)
    assert dead / good == pytest.approx(0.01, rel=0.5)


def offer(id_: str, user_id: str, time_ms: int, valid_ms: int) -> dict[str, Any]:
    return {
        "offer_id": id_,
        "user_id": user_id,
        "campaign_id": "k",
        "kind": "percent",
        "percent": 30,
        "currency": "EUR",
        "trigger": {"topic": "clickstream", "partition": 0, "offset": 0, "time_ms": time_ms, "kind": "product_view"},
        "valid_until_ms": time_ms + valid_ms,
        "cost_reserved_minor": 100,
    }


def test_offers_come_in_and_their_fate_goes_out(site: Site) -> None:
    settings = site.settings
    now_ms = int(time.time() * 1000)
    site.put_control("offers", [(b"c0000001", json.dumps(offer("old", "c0000001", now_ms, 1)).encode())])
    publisher, reader = Publisher(settings, linger_ms=0), Reader(settings)
    open_shop = Shop(1, 200, now_ms - DAY_MS, Coupons("EUR"))
    live = Live(open_shop, publisher, reader, Disturbance(1))
    try:
        live.history(now_ms, lambda: None)
        users = [f"c{i:07d}" for i in range(200)]
        offered_ms = int(time.time() * 1000)  # history takes its time
        offers = [offer(f"o{i}", user, offered_ms, 6_000) for i, user in enumerate(users)]
        decisions = [
            {"user_id": user, "reason": "holdout" if i % 2 else "offered", "campaign_id": "k"}
            for i, user in enumerate(users)
        ]
        site.put_control("offers", [(o["user_id"].encode(), json.dumps(o).encode()) for o in offers] * 2)
        site.put_control("decisions", [(d["user_id"].encode(), json.dumps(d).encode()) for d in decisions])
        end_s = time.monotonic() + 18
        campaign = open_shop.coupons.campaigns
        live.run(lambda: time.monotonic() > end_s or ("k" in campaign and campaign["k"].expired > 150))
        live.drain()
    finally:
        reader.close()
    assert campaign["k"].offers == 200  # not the one from before the shop opened, and each once
    assert open_shop.coupons.repeated == 200
    assert open_shop.coupons.malformed == 0
    groups = open_shop.ledger.compare()["k"]
    assert (groups.offered, groups.held_out) == (100, 100)
    said: dict[str, list[str]] = {}
    for record in site.out("redemptions"):
        said.setdefault(record.json["offer_id"], []).append(record.json["kind"])
    assert set(said) == {o["offer_id"] for o in offers}
    assert {kinds[0] for kinds in said.values()} == {"issued"}
    assert sum("expired" in kinds for kinds in said.values()) == campaign["k"].expired > 150
    seen = [r.json["offer_id"] for r in site.out("feedback") if r.json["kind"] == "offer_seen"]
    assert 0 < len(seen) == len(set(seen))


def test_a_worker_takes_everything_the_shop_publishes_and_its_offers_come_back(site: Site) -> None:
    document = {
        "id": "welcome",
        "name": "Welcome",
        "version": 1,
        "priority": 10,
        "trigger": {"kinds": ["product_view"]},
        "arms": [{"id": "ten", "kind": "percent", "percent": 10}],
        "policy": {"kind": "segment", "arms": {"new": "ten"}},
        "cool_down": {"after_offer": "24h"},
        "holdout": 0.3,
        "valid_for": "5s",
    }
    site.publish_campaigns(document)
    with site.worker() as worker:
        publisher, reader = Publisher(site.settings, linger_ms=0), Reader(site.settings)
        now_ms = int(time.time() * 1000)
        open_shop = Shop(2, 2_000, now_ms, Coupons("EUR"))
        live = Live(open_shop, publisher, reader, Disturbance(2, duplicates=0.02, poison=0.02))
        try:
            for published in open_shop.profiles():
                publisher.publish(*published)
            publisher.flush()
            worker.wait_serving()
            site.wait_applied([worker])
            open_shop.open_doors(20.0, int(time.time() * 1000))
            end_s = time.monotonic() + 20
            live.run(lambda: time.monotonic() > end_s)
            live.drain()
            site.wait_applied([worker])
            outcomes = worker.outcomes()
        finally:
            reader.close()
    assert publisher.published.total() == outcomes["applied"] + outcomes["duplicate"] + outcomes["dead"]
    assert outcomes["duplicate"] == live.disturbance.duplicates > 0
    assert outcomes["dead"] == live.disturbance.poison == len(site.out("dead-letters")) > 0
    campaign = open_shop.coupons.campaigns["welcome"]
    assert campaign.offers > 50
    assert open_shop.coupons.malformed == 0
    assert len(live.latencies_ms) > 0.9 * campaign.offers
    groups = open_shop.ledger.compare()["welcome"]
    assert groups.held_out / (groups.held_out + groups.offered) == pytest.approx(0.3, abs=0.12)
    refused = {
        p.user_id for p in map(open_shop.population.profile, range(2_000), [0] * 2_000) if not p.consent or p.objection
    }
    assert refused.isdisjoint({record.key.decode() for record in site.out("offers") if record.key})


def test_ctrl_c_closes_the_shop(environment: Settings, published: Published, tmp_path: Path) -> None:
    import os
    import signal

    del environment
    command = [sys.executable, "-m", "stream", "shop", "run", "--users", "100", "--rate", "50"]
    summary = tmp_path / "shop.json"
    with subprocess.Popen([*command, "--json", str(summary)], env=os.environ, stderr=subprocess.PIPE) as process:
        try:
            wait_until(lambda: published("clickstream"), "traffic", 60, 0.5)
            process.send_signal(signal.SIGINT)
            _, shown = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0
    assert b"Traceback" not in shown
    assert json.loads(summary.read_text())["events_published"] >= len(published("clickstream"))
