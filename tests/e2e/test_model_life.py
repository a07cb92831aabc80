"""The life of a model on a worker and a real broker: faults roll it back, swaps lose nothing and hold nobody up."""

import base64
import hashlib
import itertools
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stream.scoring.control import WITHDRAWN_KEY_PREFIX, Mode, key_of
from stream.scoring.files import signed_bytes
from stream.scoring.scorer import REBUILD_MAX
from tests.e2e.harness import Event, Site, Worker, event, wait_until
from tests.scoring.bad_models import breaks_its_word, is_elsewhere, is_slow, says_nan
from training.publish import Register
from training.seeded import seeded_model

PAUSE_MAX_S = 0.05


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
    """Product views of users who come again and again."""
    at = [(i % users, next(_numbers)) for i in range(n)]
    return [
        event("clickstream", user_id=f"u{user}", event_id=f"e{number}", kind="product_view", time_ms=now_ms())
        for user, number in at
    ]


def load_of(site: Site, users: int = 300, n: int = 100) -> AbstractContextManager[None]:
    """Views all the while."""
    return site.publishing(lambda _: views(n, users), every_s=0.02)


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


def test_swaps_under_load_lose_nothing_and_hold_nobody_up(site: Site) -> None:
    files = [seeded_model(seed) for seed in range(10)]
    promote(site, files[0])
    with site.worker() as worker:
        worker.wait_serving()
        site.publish(views(8_000, 2 * REBUILD_MAX))  # rings of several steps each
        site.wait_applied([worker])
        with load_of(site, users=2 * REBUILD_MAX):
            for data in files[1:]:
                promote(site, data)
                in_force(worker, hashlib.sha256(data).hexdigest())
        site.wait_applied([worker])
        assert worker.outcomes()["applied"] == len(site.sent)
        samples = worker.metrics()
        count = samples['offerstream_stage_seconds_count{stage="score"}']
        quick = samples[f'offerstream_stage_seconds_bucket{{le="{PAUSE_MAX_S}",stage="score"}}']
        # The machine does other work beside, so single batches may wait for it; a swap that paused would each time.
        assert count - quick < len(files) - 1, f"{count - quick:g} of {count:g} batches held up by scoring"
    decisions = [record.json for record in site.out("decisions")]
    assert all(d["score"] is not None for d in decisions)
    assert len({d["model"] for d in decisions}) == len(files)


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
def test_two_hundred_swaps_do_not_grow_the_worker(site: Site) -> None:
    assert swap_often(site, 200, 0) < 50
