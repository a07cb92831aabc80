"""A worker goes and another comes, with and without its disk, with a disk that lies, with company."""

import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from rocksdict import Options, Rdict

from stream.scoring.model import Model
from tests.e2e import expect
from tests.e2e.harness import Site, Worker
from tests.e2e.logs import profile, shop_log
from tests.faults.crashing_worker import CrashingWorker, Orders

USERS = [f"user-{i}" for i in range(120)]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def publish_some(site: Site, draw: Random, n: int = 400) -> None:
    site.publish(shop_log(draw, n, USERS, now_ms(), f"piece-{draw.random()}"))


def restored(worker: Worker) -> int:
    """Changelog records that it read when it took over."""
    worker.wait_serving()
    return sum(int(n) for n in re.findall(r"(\d+) changelog records restored", worker.log()))


def test_rows_go_on_with_and_without_the_disk(site: Site, model: Model, model_file: bytes) -> None:
    draw = Random(1)
    site.publish_model(model_file, model.hex)
    publish_some(site, draw)
    with site.worker() as worker:
        assert restored(worker) == 0
        site.wait_applied([worker])
    publish_some(site, draw)
    with site.worker() as worker:  # with the disk: nothing but what was committed in the last moment
        assert restored(worker) <= 2
        site.wait_applied([worker])
    shutil.rmtree(site.settings.data_dir)
    publish_some(site, draw)
    with site.worker() as worker:
        assert restored(worker) >= len(site.rows())
        publish_some(site, draw)
        site.wait_applied([worker])
    expect.check_all(site, [model])


def test_killed_with_nothing_flushed_it_replays_the_tail(site: Site, model: Model, model_file: bytes) -> None:
    draw = Random(2)
    site.publish_model(model_file, model.hex)
    publish_some(site, draw)
    with site.worker(instance_id="one") as worker:
        site.wait_applied([worker])
        worker.kill()
    publish_some(site, draw)
    with site.worker(instance_id="one") as worker:
        assert restored(worker) >= len(USERS) / 2
        site.wait_applied([worker])
    expect.check_all(site, [model])


def test_rows_larger_than_memory(site: Site, model: Model, model_file: bytes) -> None:
    draw = Random(3)
    site.publish_model(model_file, model.hex)
    users = [f"user-{i}" for i in range(1_000)]
    site.publish([profile(user, now_ms() + i) for i, user in enumerate(users)])
    with site.worker(hot_rows=20, batch_rows=20, store_pending_bytes=10_000) as worker:
        site.publish(shop_log(draw, 3_000, users, now_ms(), "cold"))
        site.wait_applied([worker])
        metrics = worker.metrics()
        assert metrics['offerstream_rows{where="hot"}'] <= 2 * 20
    assert len(site.rows()) == len(users)
    expect.check_all(site, [model])


def _foreign(store: Path) -> None:
    identity = json.loads((store / "identity.json").read_text())
    (store / "identity.json").write_text(json.dumps({**identity, "cluster": "another-cluster"}))


def _missing_table(store: Path) -> None:
    for file in (store / "rows").glob("*.sst"):
        file.unlink()


def _ahead(store: Path) -> None:
    """A store of a longer changelog, such as one that lost its end."""
    db = Rdict(str(store / "rows"), Options(raw_mode=True))
    db[b"\xff\x01"] = (10**6).to_bytes(8, "big")
    db.close()


@pytest.mark.parametrize("harm", [_foreign, _missing_table, _ahead])
def test_a_store_that_cannot_be_trusted_is_set_aside(
    site: Site, model: Model, model_file: bytes, harm: Callable[[Path], None]
) -> None:
    draw = Random(4)
    site.publish_model(model_file, model.hex)
    publish_some(site, draw, 200)
    with site.worker() as worker:
        site.wait_applied([worker])
    store = site.settings.data_dir / site.settings.app_id / "0"
    harm(store)
    publish_some(site, draw, 200)
    with site.worker() as worker:
        assert restored(worker) >= len(USERS) / 4
        assert re.search(rf"local store set aside as {re.escape(str(store))}\.set-aside", worker.log())
        site.wait_applied([worker])
    assert store.with_name("0.set-aside").is_dir()
    expect.check_all(site, [model])


def test_a_table_that_rots_is_found_when_it_is_read(site: Site, model: Model, model_file: bytes) -> None:
    """RocksDB opens such a store; the block's checksum tells later. The worker ends, the next one does not trust it."""
    draw = Random(5)
    site.publish_model(model_file, model.hex)
    publish_some(site, draw, 200)
    with site.worker(instance_id="one") as worker:
        site.wait_applied([worker])
    store = site.settings.data_dir / site.settings.app_id / "0"
    (table,) = (store / "rows").glob("*.sst")
    content = bytearray(table.read_bytes())
    content[100 : len(content) // 2] = bytes(len(content) // 2 - 100)
    table.write_bytes(content)
    publish_some(site, draw, 200)
    with site.worker(instance_id="one") as worker:
        code = worker.wait(30)
        assert code == 1, worker.log()
        assert "StoreCorruptError" in worker.log()
    with site.worker(instance_id="one") as worker:
        worker.wait_serving()
        assert "local store set aside" in worker.log()
        site.wait_applied([worker])
    expect.check_all(site, [model])


def test_workers_share_partitions_and_lose_nothing(
    broker: str, topic_prefix: str, tmp_path: Path, model: Model, model_file: bytes
) -> None:
    """One, two, one that leaves in order, two, one that is killed: always all partitions, each at one worker."""
    site = Site(broker, topic_prefix, tmp_path, partitions=4)
    draw = Random(6)
    everything = {0, 1, 2, 3}
    site.publish_model(model_file, model.hex)
    publish_some(site, draw)
    with site.worker(data_dir=tmp_path / "a") as first:
        assert first.wait_serving() == everything
        with site.worker(data_dir=tmp_path / "b") as second:
            publish_some(site, draw)
            of_second = second.wait_serving()
            of_first = first.wait_serving(times=2)
            assert of_first | of_second == everything
            assert not of_first & of_second
            assert len(of_first) == 2
            publish_some(site, draw)
            site.wait_applied([first, second])
            publish_some(site, draw)
        # in order: it leaves the group, no session has to time out
        assert first.wait_serving(times=3, timeout_s=15) == everything
        publish_some(site, draw)
        with site.worker(data_dir=tmp_path / "c") as third:
            third.wait_serving()
            publish_some(site, draw)
            third.kill()
        publish_some(site, draw)
        first.wait_serving(times=5)
        site.wait_applied([first])
    expect.check_all(site, [model])


def test_rebalances_in_the_middle_of_a_backlog(
    broker: str, topic_prefix: str, tmp_path: Path, model: Model, model_file: bytes
) -> None:
    """Polls are cut short, batches dropped and read again: what was fetched and not handed on must come back."""
    site = Site(broker, topic_prefix, tmp_path, partitions=4)
    site.publish_model(model_file, model.hex)
    site.publish(shop_log(Random(7), 4_000, USERS, now_ms(), "backlog", duplicates=0))
    small = {"batch_rows": 10, "hot_rows": 1_000, "commit_interval_ms": 500}
    slow = Orders(mutation="slow")
    with CrashingWorker(site, slow, data_dir=tmp_path / "a", **small) as first:
        first.wait_serving()
        for guest in "bcd":
            with CrashingWorker(site, slow, data_dir=tmp_path / guest, **small) as second:
                second.wait_serving()
                time.sleep(0.5)
                if guest == "c":
                    second.kill()
        assert site.behind(), "too quick: the backlog was gone before the last rebalance"
    with site.worker(data_dir=tmp_path / "a") as last:
        site.wait_applied([last])
    expect.check_all(site, [model])
