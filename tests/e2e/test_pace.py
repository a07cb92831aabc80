"""Events that come evenly are worked off in batches that pay, and single ones at once."""

import time
from collections.abc import Iterable
from pathlib import Path
from random import Random

import pytest

from stream.kafka.transport import GATHER_MS
from stream.scoring.model import Model
from tests.e2e.harness import Event, Site
from tests.e2e.logs import profile, shop_log

TICK_S, TICK_EVENTS = 0.02, 20


@pytest.fixture
def site(broker: str, topic_prefix: str, tmp_path: Path) -> Site:
    return Site(broker, topic_prefix, tmp_path, partitions=1)


@pytest.mark.alone
def test_brokers_gather_what_comes_evenly(site: Site, model: Model, model_file: bytes) -> None:
    """A thousand events a second. Fetched as they come, batches held six of them and a worker was busy all the time."""
    draw = Random(1)
    site.publish_model(model_file, model.hex)
    users = [f"user-{i}" for i in range(100)]
    site.publish([profile(user, time.time_ns() // 1_000_000) for user in users])

    def tick(n: int) -> Iterable[Event]:
        return shop_log(draw, TICK_EVENTS, users, time.time_ns() // 1_000_000, f"tick-{n}")

    with site.worker() as worker:
        site.wait_applied([worker])
        before = worker.metrics()
        with site.publishing(tick, TICK_S):
            time.sleep(4)
        site.wait_applied([worker])
        after = worker.metrics()
    rows, batches = (
        after[name] - before[name] for name in ("offerstream_batch_rows_sum", "offerstream_batch_rows_count")
    )
    assert rows > 1_000
    assert rows / batches > 0.5 * GATHER_MS / 1000 * TICK_EVENTS / TICK_S
