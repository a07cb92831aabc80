"""Standbys: a worker that follows what another one owns takes over without a restore."""

import re
import time
from pathlib import Path
from random import Random

import pytest

from stream.scoring.model import Model
from tests.e2e import expect
from tests.e2e.harness import Site, Worker, wait_until
from tests.e2e.logs import shop_log

USERS = [f"user-{i}" for i in range(120)]
STANDBYS = "offerstream_standbys"


@pytest.fixture
def site(broker: str, topic_prefix: str, tmp_path: Path, model: Model, model_file: bytes) -> Site:
    site = Site(broker, topic_prefix, tmp_path, partitions=2)
    site.publish_model(model_file, model.hex)
    return site


def restored(worker: Worker) -> dict[int, int]:
    """Changelog records read in the latest take-over of each partition."""
    found = re.findall(r"partition (\d+): (\d+) changelog records restored", worker.log())
    return {int(partition): int(n) for partition, n in found}


def publish(site: Site, draw: Random, n: int = 400) -> None:
    site.publish(shop_log(draw, n, USERS, time.time_ns() // 1_000_000, f"piece-{draw.random()}"))


def test_a_standby_takes_over_with_the_tail_alone(site: Site, tmp_path: Path, model: Model) -> None:
    draw = Random(1)
    with site.worker(data_dir=tmp_path / "a") as first, site.worker(data_dir=tmp_path / "b") as second:
        wait_until(lambda: first.metric(STANDBYS) == second.metric(STANDBYS) == 1, "a standby each", 90)
        publish(site, draw)
        site.wait_applied([first, second])
        time.sleep(1)  # the standbys have read it
        rows = len(site.rows())
        of_first = first.wait_serving(times=first.log().count("serving partitions"))
        first.kill()
        publish(site, draw)
        wait_until(lambda: restored(second).keys() == {0, 1}, "both partitions at the second", 30)
        (taken_over,) = of_first
        assert restored(second)[taken_over] <= 2
        assert rows > 50
        site.wait_applied([second])
        assert second.metric(STANDBYS) == 0
        # Alone no more: the new one follows, from nothing.
        with site.worker(data_dir=tmp_path / "c") as third:
            wait_until(lambda: third.metric(STANDBYS) == 1, "a standby", 30)
            publish(site, draw)
            site.wait_applied([second, third])
    expect.check_all(site, [model])


def test_workers_on_one_disk_have_no_standbys_and_work(site: Site, model: Model) -> None:
    draw = Random(2)
    with site.worker() as first:
        publish(site, draw)
        first.wait_serving()
        with site.worker() as second:
            second.wait_log("no standby for partition")
            publish(site, draw)
            site.wait_applied([first, second])
        publish(site, draw)
        site.wait_applied([first])
    expect.check_all(site, [model])
