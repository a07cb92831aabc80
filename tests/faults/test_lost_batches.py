"""Batches that are lost on their way through the consumer are read again: Faust's flow is not what promises it."""

import time
from pathlib import Path
from random import Random

import pytest

from tests.e2e import expect
from tests.e2e.harness import Site, wait_until
from tests.e2e.logs import profile, shop_log
from tests.faults.shop import SETTINGS
from tests.faults.stalling_worker import LOSSES, StallingWorker

USERS = [f"user-{i}" for i in range(20)]


@pytest.mark.parametrize("place", LOSSES)
def test_nothing_is_lost(broker: str, topic_prefix: str, tmp_path: Path, place: str) -> None:
    site = Site(broker, topic_prefix, tmp_path)
    draw = Random(1)

    def publish(n: int, name: str) -> None:
        now_ms = time.time_ns() // 1_000_000
        site.publish([*(profile(user, now_ms) for user in USERS), *shop_log(draw, n, USERS, now_ms, name)])

    publish(400, "first")
    worker = StallingWorker(site, "lose", place, **SETTINGS)
    try:
        worker.wait_serving()
        wait_until(site.applied, "something is applied", 30)
        # What was lost last is missed only when something follows.
        for i in range(20):
            publish(20, f"piece {i}")
            time.sleep(0.1)
        site.wait_applied([worker])
        assert worker.metric("offerstream_passed_over_total") > 0
        assert "were passed over, reading them again" in worker.log()
    finally:
        worker.kill()
    expect.check_all(site, [])
