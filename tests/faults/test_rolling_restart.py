"""Three workers are restarted one after the other while the shop is open."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from stream.kafka.partitioner import partitions
from stream.scoring.model import load
from tests.e2e import expect
from tests.e2e.harness import Event, Site, Worker
from tests.e2e.logs import profile, trigger
from tests.faults.shop import ALWAYS
from training.seeded import seeded_model

PARTITIONS = 6
WORKERS = 3
PAUSE_MAX_S = 2.0
"""Of partitions whose worker is not the one that restarts."""

EVERY_S = 0.05


def worker(site: Site, folder: Path, number: int) -> Worker:
    settings = {"instance_id": f"worker-{number}", "data_dir": folder / f"disk-{number}", "session_timeout_ms": 10_000}
    return Worker(("-m", "stream", "worker"), site.environment(**settings), folder)


@pytest.mark.long
def test_a_rolling_restart(broker: str, topic_prefix: str, tmp_path: Path) -> None:
    site = Site(broker, topic_prefix, tmp_path, partitions=PARTITIONS)
    file = seeded_model(1)
    site.publish_model(file, load(file).hex)
    site.publish_campaigns(ALWAYS)
    names = [f"user-{i}" for i in range(200)]
    by_partition = dict(zip(partitions([name.encode() for name in names], PARTITIONS).tolist(), names, strict=True))
    users = [by_partition[p] for p in range(PARTITIONS)]
    site.publish([profile(user, time.time_ns() // 1_000_000) for user in users])
    workers = [worker(site, tmp_path, i) for i in range(WORKERS)]

    def ask(turn: int) -> list[Event]:
        """A trigger in every partition."""
        now_ms = time.time_ns() // 1_000_000
        return [trigger(user, f"{user}-{turn}", now_ms) for user in users]

    windows: list[tuple[float, float, set[int]]] = []
    try:
        for one in workers:
            one.wait_serving()
        time.sleep(8)  # the group has settled
        with site.publishing(ask, EVERY_S):
            time.sleep(2)
            for number in range(WORKERS):
                own = workers[number].wait_serving(times=workers[number].log().count("serving partitions"))
                began_s = time.time()
                assert workers[number].stop() == 0
                workers[number] = worker(site, tmp_path, number)
                workers[number].wait_serving()
                windows.append((began_s, time.time() + 3, own))
                time.sleep(5)
        site.wait_applied(workers)
    finally:
        for one in workers:
            if one.poll() is None:
                one.kill()
    expect.check_all(site, [load(file)])
    published_ms = {
        (source.partition, source.offset): source.timestamp_ms
        for source in site.read(site.settings.topic("clickstream"))
    }
    stay: list[int] = []
    restarted: list[int] = []
    for decision in site.out("decisions"):
        at = decision.json["trigger"]
        came_ms = published_ms[at["partition"], at["offset"]]
        for began_s, ended_s, own in windows:
            if began_s * 1000 <= came_ms <= ended_s * 1000:
                (restarted if at["partition"] in own else stay).append(decision.timestamp_ms - came_ms)
    starts_s = [ended_s - 3 - began_s for began_s, ended_s, _ in windows]
    print(
        json.dumps(
            {
                "stay_ms": np.percentile(stay, [50, 99, 100]).round().tolist(),
                "restarted_ms": np.percentile(restarted, [50, 99, 100]).round().tolist(),
                "stop_and_start_s": np.round(starts_s, 1).tolist(),
            }
        )
    )
    assert max(stay) < 1000 * PAUSE_MAX_S
    assert len(stay) > len(restarted) > 0
