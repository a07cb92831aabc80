"""kill -9 at the worst moments: no event and no offer is lost, no row is wrong."""

import json
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from stream.scoring.model import load
from stream.settings import GUARANTEES
from tests.e2e import expect
from tests.e2e.harness import LateError, Site
from tests.faults.crashing_worker import POINTS, CrashingWorker, Orders
from tests.faults.shop import ALWAYS, BY_SCORE, SETTINGS, Shop
from training.seeded import seeded_model

KILLS_PER_POINT = {"exactly_once": 3, "at_least_once": 4}
NTH_MAX = {"admitting": 6, "absorbing": 8, "scoring": 8, "store_written": 5}
NTH_MAX |= dict.fromkeys(("restoring", "taking_over", "fencing"), 1)
"""How late the kill may come: a worker passes some points often, some once a partition."""


def new_shop(broker: str, prefix: str, folder: Path, seed: int, model: bytes, guarantee: str) -> Shop:
    site = Site(broker, prefix, folder, guarantee=guarantee)
    site.publish_model(model, load(model).hex)
    site.publish_campaigns(ALWAYS, BY_SCORE)
    shop = Shop(site, seed)
    shop.profiles()
    with site.worker(**SETTINGS) as worker:  # consent is there before the first event
        site.wait_applied([worker])
    return shop


def crash(shop: Shop, orders: Orders) -> None:
    """Run a worker under traffic until it dies where it must."""
    while not _crashed(shop, orders):
        pass


def _crashed(shop: Shop, orders: Orders) -> bool:
    shop.piece(30)
    with CrashingWorker(shop.site, orders, **SETTINGS) as worker:
        end_s = time.monotonic() + 40
        while worker.poll() is None:
            if "serving" in worker.log():
                shop.piece(10)
                if (
                    orders.point == "restoring"
                ):  # its store was flushed in its last moment: there was nothing to restore
                    worker.kill()
                    return False
            if time.monotonic() > end_s:
                raise LateError(f"did not come to {orders}:\n{worker.log()}")
            time.sleep(0.1)
        assert worker.poll() == -signal.SIGKILL, worker.log()
        assert worker.crashed_at() == orders.point
    return True


def finish(shop: Shop) -> None:
    """Let an unharmed worker do the rest."""
    shop.piece(30)
    with shop.site.worker(**SETTINGS) as worker:
        shop.site.wait_applied([worker])


def check(shop: Shop, model: bytes) -> Counter[str]:
    """Nothing lost, nothing wrong.

    Raises:
        AssertionError: something is.
    """
    site, loaded = shop.site, load(model)
    decisions = site.out("decisions")
    past = expect.pasts(site, decisions, shop.good)
    rows = site.rows()
    expect.check_rows(rows, past)
    expect.check_bits(rows, past, {loaded.hex: loaded})
    # Every trigger of the campaign that leaves nobody out has its offer, whatever the decisions say.
    ids = site.topic_ids()
    offers = Counter(record.json["offer_id"] for record in site.out("offers"))
    of_step = {
        expect.offer_id(ids[d["trigger"]["topic"]], ("", d["trigger"]["partition"], d["trigger"]["offset"])): d
        for p in past.values()
        for d in p.decisions
    }
    always = {i for i, d in of_step.items() if d["trigger"]["kind"] == "cart_add"}
    assert always, "no trigger"
    assert not always - set(offers), f"{len(always - set(offers))} offers lost"
    # Every decision that counts has its offer, and every one for that campaign, in whatever life it was made.
    promised = {i for i, d in of_step.items() if d["reason"] == "offered"}
    promised |= {d["decision_id"] for d in (r.json for r in decisions) if d["campaign_id"] == "always"}
    assert promised > always, "nobody was offered anything by score"
    assert not promised - set(offers), f"{len(promised - set(offers))} offers lost"
    assert set(offers) <= set(of_step), "offers for events that were not applied"
    dead = {
        (r.headers["topic"].decode(), int(r.headers["partition"]), int(r.headers["offset"]))
        for r in site.out("dead-letters")
    }
    assert dead == {(site.settings.topic(s), p, o) for s, p, o in shop.bad}
    return Counter(
        events=len(shop.good),
        decisions_repeated=len(decisions) - len(of_step),
        offers=len(offers),
        offers_repeated=offers.total() - len(offers),
    )


@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_kills_at_the_worst_moments(broker: str, topic_prefix: str, tmp_path: Path, guarantee: str) -> None:
    seed = random.randrange(2**32)  # of the session's seed
    print(f"seed {seed}")
    model = seeded_model(1)  # one that scores some lookers above the threshold: not every one does
    shop = new_shop(broker, topic_prefix, tmp_path, seed, model, guarantee)
    plan = list(POINTS[guarantee]) * KILLS_PER_POINT[guarantee]
    shop.draw.shuffle(plan)
    began_s = time.monotonic()
    for point in plan:
        crash(shop, Orders(point, shop.draw.randint(1, NTH_MAX.get(point, 3))))
    print(f"{len(plan)} kills in {time.monotonic() - began_s:.0f} s")
    finish(shop)
    found = check(shop, model)
    print(json.dumps(found))
    if guarantee == "exactly_once":
        assert not found["decisions_repeated"]
        assert not found["offers_repeated"]


@pytest.mark.parametrize(
    ("guarantee", "mutation", "point", "found"),
    [
        ("at_least_once", "unfenced", "rows_sent", "applied twice|row_seqs|must be"),
        ("at_least_once", "rows_first", "rows_sent_first", "lost|row_seqs|must be"),
        ("exactly_once", "from_the_start", "committed", "applied twice|row_seqs|must be"),
        ("exactly_once", "stored_first", "stored_first", "lost|row_seqs|must be"),
    ],
)
def test_a_missing_protection_is_found(
    broker: str, topic_prefix: str, tmp_path: Path, guarantee: str, mutation: str, point: str, found: str
) -> None:
    """The test above can fail: a worker that breaks one rule of the protocol does not pass the same checks."""
    model = seeded_model(1)
    shop = new_shop(broker, topic_prefix, tmp_path, random.randrange(2**32), model, guarantee)
    for _ in range(8):  # of the eight bots in them, which only the fence protects, some are in each partition
        shop.piece(30)
    with shop.site.worker(**SETTINGS) as worker:
        shop.site.wait_applied([worker])
    for nth in (1, 2):
        crash(shop, Orders(point, nth, mutation))
    shop.piece(30)
    with CrashingWorker(shop.site, Orders(mutation=mutation), **SETTINGS) as worker:
        shop.site.wait_applied([worker])
    with pytest.raises(AssertionError, match=found):
        check(shop, model)
