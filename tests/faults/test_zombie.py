"""A worker that sleeps while another one takes over, and wakes up in the middle of what it was doing."""

import random
import signal
import time
from pathlib import Path

import pytest

from stream.scoring.model import load
from tests.e2e.harness import Site
from tests.faults.crashing_worker import CrashingWorker, Orders
from tests.faults.judge import Verdict, judge
from tests.faults.shop import ALWAYS, BY_SCORE, SETTINGS, Shop
from training.seeded import seeded_model


def story(broker: str, prefix: str, folder: Path, point: str, mutation: str = "") -> tuple[Verdict, str]:
    """What the topics say afterwards, and the zombie's log."""
    site = Site(broker, prefix, folder, partitions=1)
    seed = random.randrange(2**32)  # of the session's seed
    model = seeded_model(1)
    site.publish_model(model, load(model).hex)
    site.publish_campaigns(ALWAYS, BY_SCORE)
    shop = Shop(site, seed, n_users=40)
    shop.profiles()
    settings = {name: value for name, value in SETTINGS.items() if name != "instance_id"}
    settings["transaction_timeout_ms"] = 60_000  # its time-out alone must not be what helps
    settings["commit_interval_ms"] = 100  # so many rows that the owner writes not all of them anew
    with site.worker(**settings) as worker:
        site.wait_applied([worker])
    orders = Orders(point, 2, mutation, fall_asleep=True)
    with CrashingWorker(site, orders, data_dir=folder / "a", **settings) as zombie:
        zombie.wait_serving()
        with CrashingWorker(site, Orders(mutation=mutation), data_dir=folder / "b", **settings) as owner:
            end_s = time.monotonic() + 20
            while zombie.crashed_at() != point:
                assert time.monotonic() < end_s, zombie.log()
                shop.piece(10)
            shop.piece(20)
            owner.wait_log(r"serving partitions \[0\]", 30)
            time.sleep(2)  # not until all is applied: without fencing, an open transaction hides it
            zombie.signal(signal.SIGCONT)
            for _ in range(8):  # it learns what has happened, and joins anew; who gets the partition is the group's
                time.sleep(0.5)
                shop.piece(5)
            site.wait_applied([owner])
            zombie.kill()
            shop.piece(20)
            site.wait_applied([owner])
        return judge(shop, [model]), zombie.log()


ASLEEP_IN = ("absorbing", "begun", "committing", "committed", "stored")


@pytest.mark.parametrize("point", ["transaction_sent", *(pytest.param(p, marks=pytest.mark.long) for p in ASLEEP_IN)])
def test_a_zombie_is_seen_by_nobody(broker: str, topic_prefix: str, tmp_path: Path, point: str) -> None:
    verdict, log = story(broker, topic_prefix, tmp_path, point)
    assert not verdict.said, log
    assert verdict.offers
    assert (verdict.lost, verdict.duplicated, verdict.mismatched_rows) == (0, 0, 0)


def test_without_fencing_it_is_found(broker: str, topic_prefix: str, tmp_path: Path) -> None:
    """The test above can fail."""
    verdict, _ = story(broker, topic_prefix, tmp_path, "transaction_sent", "no_fencing")
    assert verdict.duplicated
    assert verdict.mismatched_rows
