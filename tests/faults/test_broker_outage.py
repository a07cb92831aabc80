"""The broker goes away under a working worker and comes back: the worker waits, nothing is lost."""

import time
from pathlib import Path
from random import Random

import pytest

from stream.broker.embedded import EmbeddedBroker
from stream.scoring.model import load
from stream.settings import GUARANTEES
from tests.e2e import expect
from tests.e2e.harness import Site
from tests.e2e.logs import shop_log
from training.seeded import seeded_model

USERS = [f"user-{i}" for i in range(60)]


@pytest.mark.needs_broker
def test_the_broker_is_killed_and_stopped_under_a_worker(tmp_path: Path) -> None:
    draw = Random(31)
    file = seeded_model(1)
    model = load(file)
    with EmbeddedBroker(tmp_path / "broker") as broker:
        site = Site(broker.bootstrap, "", tmp_path)
        site.publish_model(file, model.hex)
        with site.worker() as worker:
            worker.wait_serving()
            for life in range(3):
                now_ms = time.time_ns() // 1_000_000
                site.publish(shop_log(draw, 300, USERS, now_ms, f"life-{life}", duplicates=0))
                if life == 2:
                    break
                if life:
                    broker.stop()
                else:
                    broker.kill()
                time.sleep(2)
                broker.start()
            site.wait_applied([worker])
            assert worker.poll() is None, worker.log()
        expect.check_all(site, [model])


@pytest.mark.long
@pytest.mark.needs_broker
@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_two_minutes_without_a_broker(tmp_path: Path, guarantee: str) -> None:
    """It comes in the middle of the work. No crash, no memory that grows, everything processed afterwards."""
    draw = Random(32)
    file = seeded_model(1)
    model = load(file)
    with EmbeddedBroker(tmp_path / "broker") as broker:
        site = Site(broker.bootstrap, "", tmp_path, guarantee=guarantee)
        site.publish_model(file, model.hex)
        with site.worker(batch_rows=20, hot_rows=1_000) as worker:
            worker.wait_serving()
            site.publish(shop_log(draw, 3_000, USERS, time.time_ns() // 1_000_000, "before", duplicates=0))
            broker.kill()
            memory = worker.metric("process_resident_memory_bytes")
            time.sleep(120)
            assert worker.poll() is None, worker.log()
            assert worker.metric("process_resident_memory_bytes") < memory + (64 << 20)
            broker.start()
            site.publish(shop_log(draw, 300, USERS, time.time_ns() // 1_000_000, "after", duplicates=0))
            site.wait_applied([worker])
            assert worker.poll() is None, worker.log()
        expect.check_all(site, [model])
