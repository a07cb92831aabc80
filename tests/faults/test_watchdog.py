"""A worker that stalls says so, however it stalls; one that fails is gone within seconds, and has committed nothing."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from random import Random

import pytest

from tests.e2e.harness import Site, wait_until
from tests.e2e.logs import shop_log
from tests.faults.shop import ALWAYS
from tests.faults.stalling_worker import FAILURES, STALLS, StallingWorker

STALL_MS = 3_000
GONE_WITHIN_S = 5.0
USERS = [f"user-{i}" for i in range(40)]
BEFORE_ANYTHING_IS_SENT = {"fetch", "bundle", "decode", "absorb", "emit", "take over"}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def start(
    kind: str, places: list[str], broker: str, topic_prefix: str, folder: Path, stack: ExitStack
) -> dict[str, tuple[Site, StallingWorker]]:
    """All at once: each on topics of its own, with events that wait."""
    found = {}
    for i, place in enumerate(places):
        site = Site(broker, f"{topic_prefix}{i}-", folder / str(i))
        site.publish(shop_log(Random(i), 200, USERS, time.time_ns() // 1_000_000, "first"))
        worker = StallingWorker(site, kind, place, stall_ms=STALL_MS)
        stack.callback(worker.kill)
        found[place] = site, worker
    return found


def health(worker: StallingWorker) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}/healthz", timeout=5) as answer:
            return answer.status, json.load(answer)["why"]
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["why"]


def unhealthy(worker: StallingWorker) -> tuple[int, str] | None:
    found = health(worker)
    return found if found[0] != 200 else None


def test_every_stall_is_unhealthy(broker: str, topic_prefix: str, tmp_path: Path, stack: ExitStack) -> None:
    workers = start("stall", list(STALLS), broker, topic_prefix, tmp_path, stack)
    for place, (site, worker) in workers.items():
        code, why = wait_until(partial(unhealthy, worker), f"unhealthy: {place}", 60, 0.2)
        assert code == 503
        assert "nothing moved for" in why, (place, why)
        assert worker.poll() is None
        if place == "one partition":
            assert "[1]" in why
            assert {
                p for p, record in site.applied().items() if any(s.next_offset for s in record.sources.values())
            } == {0}
        if place in ("restore", "rebalance"):
            assert "taking over" in why


def test_an_unexpected_exception_ends_the_process(
    broker: str, topic_prefix: str, tmp_path: Path, stack: ExitStack
) -> None:
    workers = start("fail", list(FAILURES), broker, topic_prefix, tmp_path, stack)
    for place, (site, worker) in workers.items():
        if place == "control":
            worker.wait_serving()
            site.publish_campaigns(ALWAYS)
        wait_until(worker.failed, f"it comes by: {place}", 60)
        code = worker.wait(GONE_WITHIN_S)
        assert code == 70, (place, code, worker.log()[-2000:])
        assert "nobody expects this" in worker.log()
        if place in BEFORE_ANYTHING_IS_SENT:
            assert site.applied() == {}
            assert site.out("decisions") == []
