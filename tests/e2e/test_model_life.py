"""The life of a model on a worker and a real broker: faults roll it back, swaps lose nothing and hold nobody up."""

import base64
import hashlib
import itertools
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stream.core.row import N_STEPS
from stream.scoring.control import WITHDRAWN_KEY_PREFIX, Mode, key_of
from stream.scoring.files import signed_bytes
from tests.e2e.harness import Event, Site, Worker, event, wait_until
from tests.scoring.bad_models import breaks_its_word, is_elsewhere, is_slow, says_nan
from training.publish import Register
from training.seeded import seeded_model

PAUSE_MAX_MS = 50
USERS = 20_000
NEAR_MS = 1_000
"""Of a swap: after so long, all whose turn it is have changed over."""

LONG_S = 3_000
"""Two hundred swaps take some eight minutes where nothing else runs."""


@pytest.fixture
def site(broker: str, topic_prefix: str, tmp_path: Path) -> Site:
    return Site(broker, topic_prefix, tmp_path, partitions=1, guarantee="at_least_once")


def register(site: Site) -> Register:
    return Register(site.settings.bootstrap, site.settings.topic("models"))


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def promote(site: Site, data: bytes) -> str:
    said = register(site)
    sha256_hex = said.put(data)
    said.promote(sha256_hex, now_ms())
    return sha256_hex


_numbers = itertools.count()


def views(n: int, users: int) -> list[Event]:
    """Product views of users who come in turn, again and again."""
    return [
        event("clickstream", user_id=f"u{i % users}", event_id=f"e{i}", kind="product_view", time_ms=now_ms())
        for i in itertools.islice(_numbers, n)
    ]


def load_of(site: Site, users: int = 300, n: int = 100, every_s: float = 0.02) -> AbstractContextManager[None]:
    """Views all the while."""
    return site.publishing(lambda _: views(n, users), every_s)


def in_force(worker: Worker, sha256_hex: str) -> None:
    wait_until(
        lambda: worker.metric(f'offerstream_model_info{{hash="{sha256_hex}"}}') == 1, f"{sha256_hex[:8]} in force", 60
    )


@pytest.mark.parametrize(
    ("fault", "bad"),
    [("nan", says_nan), ("latency", is_slow), ("score_drift", is_elsewhere), ("golden", breaks_its_word)],
)
def test_a_model_that_goes_wrong_is_rolled_back_everywhere(site: Site, fault: str, bad: Callable[[int], bytes]) -> None:
    good = promote(site, seeded_model(1))
    with site.worker(score_us_max=0.1 if fault == "latency" else 1000) as worker:
        worker.wait_serving()
        in_force(worker, good)
        with load_of(site):
            wrong = promote(site, bad(2))
            key = key_of(WITHDRAWN_KEY_PREFIX, wrong)
            said = wait_until(lambda: register(site).records.get(key), f"{fault} found", 60)
            in_force(worker, good)
        site.wait_applied([worker])
        assert worker.metric(f'offerstream_model_withdrawn_total{{fault="{fault}"}}') == 1
        assert worker.outcomes()["applied"] == len(site.sent)
    found = json.loads(said)
    assert found["fault"] == fault
    assert found["text"]
    assert register(site).in_force() == good
    decisions = [record.json for record in site.out("decisions")]
    assert len({(d["trigger"]["partition"], d["trigger"]["offset"]) for d in decisions}) == len(site.sent)
    assert all(d["score"] is not None for d in decisions)
    assert {d["model"] for d in decisions} == ({good} if fault == "golden" else {good, wrong}) or fault == "nan"


class HeldUp(NamedTuple):
    """How much longer than usual an event waited at most, ms: median over moments."""

    by_swaps: int
    at_other_times: int


def swap_under_load(site: Site, n_swaps: int, turns: int) -> HeldUp:
    """Swap models while events come in for 20,000 users, `turns` of each of whom came before."""
    files = [seeded_model(seed) for seed in range(n_swaps + 1)]
    promote(site, files[0])
    with site.worker() as worker:
        worker.wait_serving()
        for _ in range(turns):
            site.publish(views(USERS, USERS))
        site.wait_applied([worker], 300)
        with load_of(site, USERS, n=20, every_s=0.01):
            for data in files[1:]:
                promote(site, data)
                in_force(worker, hashlib.sha256(data).hexdigest())
                time.sleep(2 * NEAR_MS / 1000)
        site.wait_applied([worker])
        assert worker.outcomes()["applied"] == len(site.sent)
    published_ms = {(r.partition, r.offset): r.timestamp_ms for r in site.read(site.settings.topic("clickstream"))}
    decisions = [record.json for record in site.out("decisions")]
    assert len(decisions) == len(site.sent)
    assert all(d["score"] is not None for d in decisions)
    decided_ms = np.array([d["time_ms"] for d in decisions])
    waited_ms = decided_ms - [published_ms[d["trigger"]["partition"], d["trigger"]["offset"]] for d in decisions]
    model = np.array([d["model"] for d in decisions])
    swapped_ms = [decided_ms[model == hashlib.sha256(data).hexdigest()].min() for data in files[1:]]
    usual_ms = np.median(waited_ms[decided_ms > swapped_ms[0]])

    def at_most_ms(begin_ms: int) -> float:
        return float(waited_ms[(decided_ms >= begin_ms) & (decided_ms < begin_ms + NEAR_MS)].max() - usual_ms)

    held_up = HeldUp(*(int(np.median([at_most_ms(at + ms) for at in swapped_ms])) for ms in (-100, NEAR_MS)))
    print(held_up)
    return held_up


@pytest.mark.alone
def test_swaps_under_load_lose_nothing_and_hold_nobody_up(site: Site) -> None:
    held_up = swap_under_load(site, 6, 2)
    assert held_up.by_swaps < held_up.at_other_times + PAUSE_MAX_MS


@pytest.mark.long
@pytest.mark.timeout(LONG_S)
def test_two_hundred_swaps_over_full_rings_hold_nobody_up(site: Site) -> None:
    held_up = swap_under_load(site, 200, N_STEPS)
    assert held_up.by_swaps < held_up.at_other_times + PAUSE_MAX_MS


def test_shadow_canary_promotion_and_the_way_back(site: Site) -> None:
    first, second = seeded_model(1), seeded_model(2)
    one = promote(site, first)
    with site.worker() as worker:
        worker.wait_serving()
        in_force(worker, one)
        said = register(site)
        two = said.put(second)
        said.try_out(two, Mode.SHADOW, 0.5, now_ms())
        on_trial = 'offerstream_challenger_info{hash="%s",mode="%s"}'
        wait_until(lambda: worker.metric(on_trial % (two, "shadow")), "shadow", 30)
        site.publish(views(500, 100))
        site.wait_applied([worker])
        wait_until(lambda: worker.metric('offerstream_shadow{what="events"}') > 100, "events in the shadow", 10)
        assert worker.metric('offerstream_shadow{what="sum"}') > 0
        assert {record.json["model"] for record in site.out("decisions")} == {one}

        register(site).try_out(two, Mode.CANARY, 0.3, now_ms())
        wait_until(lambda: worker.metric(on_trial % (two, "canary")), "canary", 30)
        n = len(site.sent)
        site.publish(views(500, 100))
        site.wait_applied([worker])
        by_user: dict[str, set[str]] = {}
        for record in site.out("decisions"):
            if record.json["trigger"]["offset"] >= n:
                by_user.setdefault(record.json["user_id"], set()).add(record.json["model"])
        assert all(len(models) == 1 for models in by_user.values())
        share = sum(models == {two} for models in by_user.values()) / len(by_user)
        assert 0.15 < share < 0.45  # of 100 users, 30 expected

        register(site).promote(two, now_ms())
        in_force(worker, two)
        assert register(site).challenger() is None
        assert register(site).roll_back(now_ms()) == one
        in_force(worker, one)
        register(site).promote(two, now_ms())  # what was withdrawn may come again
        in_force(worker, two)


def test_a_worker_with_a_key_takes_signed_files_alone_wherever_they_lie(site: Site, tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
    unsigned, large = seeded_model(1), seeded_model(2)
    promote(site, unsigned)
    with site.worker(model_key=public) as worker:
        worker.wait_serving()
        assert worker.metric('offerstream_model_refused_total{reason="not_signed"}') == 1
        path = tmp_path / "large.onnx"
        path.write_bytes(large)
        sha256_hex = hashlib.sha256(large).hexdigest()
        said = register(site)
        said.put(large, key.sign(signed_bytes(sha256_hex)), path.as_uri())
        said.promote(sha256_hex, now_ms())
        in_force(worker, sha256_hex)


def swap_often(site: Site, times: int, warm_up: int) -> float:
    """MB by which a worker's memory grows while models are swapped."""
    resident = []
    with site.worker() as worker:
        worker.wait_serving()
        for turn in range(times):
            data = seeded_model(turn + 100)
            promote(site, data)
            in_force(worker, hashlib.sha256(data).hexdigest())
            site.publish(views(50, 50))
            if turn >= warm_up:
                resident.append(worker.metric("process_resident_memory_bytes"))
        site.wait_applied([worker])
    return (max(resident) - resident[0]) / 1e6


def test_some_swaps_do_not_grow_the_worker(site: Site) -> None:
    assert swap_often(site, 10, 4) < 25


@pytest.mark.long
@pytest.mark.timeout(LONG_S)
def test_two_hundred_swaps_do_not_grow_the_worker(site: Site) -> None:
    assert swap_often(site, 200, 0) < 50
