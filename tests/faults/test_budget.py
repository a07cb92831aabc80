"""A budget under kills and rebalances: what offers cost, as their readers see it, is never more than it."""

import random
import signal
import time
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from stream.core.budget import share_minor
from stream.kafka.partitioner import partitions
from tests.e2e.harness import Event, Read, Site, event
from tests.e2e.logs import profile, trigger
from tests.faults.crashing_worker import POINTS, CrashingWorker, Orders

PARTITIONS = 4
COST_MINOR, USED_MINOR = 500, 300
SEATS = 3
DIE_S = 15.0
"""How long a worker has to come by the point where it is to die; one that does not is killed where it is."""

AT_START = ("fencing", "restoring", "taking_over")


class Kill(NamedTuple):
    """The next death, and how many workers there are then."""

    point: str
    nth: int
    workers: int


def campaign(total_minor: int) -> dict[str, Any]:
    return {
        "id": "coupons",
        "name": "Coupons for everybody new",
        "version": 1,
        "trigger": {"kinds": ["cart_add"]},
        "arms": [{"id": "five", "kind": "coupon", "value_minor": COST_MINOR}],
        "policy": {"kind": "segment", "arms": {"new": "five"}},
        "valid_for": "1d",
        "currency": "EUR",
        "budget": {"total_minor": total_minor, "pacing": "asap"},
    }


class Shop:
    """Customers who ask for offers, and a coupon service: of three offers one is redeemed, one expires, one stays."""

    def __init__(self, site: Site, seed: int, n_users: int) -> None:
        self.site = site
        self.draw = random.Random(seed)
        self.users = [f"u{i}" for i in range(n_users)]
        self.settled: dict[str, tuple[int, int]] = {}  # offer -> (what it cost in the end, when that was published)
        self._asked = 0
        site.publish([profile(user, now_ms()) for user in self.users])

    def ask(self, n: int) -> None:
        some = self.draw.sample(self.users, n)
        self.site.publish([trigger(user, f"ask-{self._asked}-{user}", now_ms()) for user in some])
        self._asked += 1

    def answer(self) -> None:
        """What became of the offers that are out by now."""
        found: list[Event] = []
        for offer in (record.json for record in self.site.out("offers")):
            way, id_ = int(offer["offer_id"], 16) % 3, offer["offer_id"]
            if way == 2 or id_ in self.settled:
                continue
            kind = "redeemed" if way == 0 else "expired"
            fields = {"amount_minor": USED_MINOR, "currency": "EUR", "order_id": f"o-{id_}"} if way == 0 else {}
            told = {"event_id": f"end-{id_}", "user_id": offer["user_id"], "time_ms": now_ms(), "offer_id": id_}
            self.settled[id_] = USED_MINOR if way == 0 else 0, now_ms()
            found.append(event("redemptions", **told, kind=kind, **fields))
        self.site.publish(found)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Seats:
    """Places for workers, each with a name in the group and a disk."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._taken: dict[int, CrashingWorker] = {}

    @property
    def workers(self) -> list[CrashingWorker]:
        return list(self._taken.values())

    def sit(self, number: int, orders: Orders) -> CrashingWorker:
        disk = self._site.folder / f"disk-{number}"
        settings = {
            "instance_id": f"seat-{number}",
            "data_dir": disk,
            "batch_rows": 20,
            "store_flush_interval_ms": 1000,
        }
        self._taken[number] = CrashingWorker(self._site, orders, **settings)
        return self._taken[number]

    def stand_up(self, number: int) -> None:
        """By kill -9, if it is not dead yet."""
        if number in self._taken:
            self._taken.pop(number).kill()

    def seat(self, numbers: Collection[int]) -> None:
        """Let unharmed workers sit on these, and on no others."""
        for number in range(SEATS):
            if number not in numbers:
                self.stand_up(number)
            elif number not in self._taken:
                self.sit(number, Orders())


def work(site: Site, shop: Shop, plan: list[Kill]) -> int:
    """Let workers come, die and go, while customers ask; how many died where they were to."""
    seats, died = Seats(site), 0
    try:
        for kill in plan:
            chosen = shop.draw.randrange(kill.workers)
            seats.seat(set(range(kill.workers)) - {chosen})
            one = seats.sit(chosen, Orders(kill.point, kill.nth))
            end_s = time.monotonic() + DIE_S
            while one.poll() is None and time.monotonic() < end_s:
                shop.ask(4)
                shop.answer()
                time.sleep(0.05)
            assert one.poll() in (None, -signal.SIGKILL), one.log()
            died += one.crashed_at() == kill.point
            seats.stand_up(chosen)
        seats.seat(range(SEATS))
        # Until all that is to end has ended, and every partition has been asked by more than it has money for.
        for _ in range(3):
            shop.ask(len(shop.users))
            site.wait_applied(seats.workers)
            shop.answer()
        site.wait_applied(seats.workers)
        shop.ask(len(shop.users))
        site.wait_applied(seats.workers)
    finally:
        seats.seat(())
    return died


def judge(site: Site, shop: Shop, total_minor: int) -> None:
    """Along the log of each partition, and at its end.

    A settlement that was not published when an offer came out cannot have made room for it.
    """
    offers: dict[int, list[Read]] = defaultdict(list)
    for record in site.out("offers"):
        assert record.json["cost_reserved_minor"] == COST_MINOR
        offers[record.partition].append(record)
    ids = [record.json["offer_id"] for of in offers.values() for record in of]
    assert len(set(ids)) == len(ids)
    spent = reserved = 0
    for partition in range(PARTITIONS):
        share = share_minor(total_minor, partition, PARTITIONS)
        out: list[str] = []
        for record in offers[partition]:
            out.append(record.json["offer_id"])
            room = sum(
                COST_MINOR - shop.settled[id_][0]
                for id_ in out
                if id_ in shop.settled and shop.settled[id_][1] <= record.timestamp_ms
            )
            assert len(out) * COST_MINOR - room <= share
        used = sum(shop.settled[id_][0] for id_ in out if id_ in shop.settled)
        held = COST_MINOR * sum(id_ not in shop.settled for id_ in out)
        # Everybody asked to the end, so what is left does not pay for another one: not a unit was lost either.
        assert 0 <= share - used - held < COST_MINOR, (partition, share, used, held)
        (purse,) = site.applied()[partition].budgets.values()
        assert (purse["spent_minor"], purse["reserved_minor"]) == (used, held)
        spent, reserved = spent + used, reserved + held
    print(f"{len(ids)} offers, {spent} spent and {reserved} reserved of {total_minor}")
    assert spent + reserved <= total_minor


def run(broker: str, prefix: str, folder: Path, total_minor: int, n_users: int, seed: int, plan: list[Kill]) -> None:
    print(f"seed {seed}")
    site = Site(broker, prefix, folder, partitions=PARTITIONS)
    site.publish_campaigns(campaign(total_minor))
    shop = Shop(site, seed, n_users)
    spread = partitions([user.encode() for user in shop.users], PARTITIONS).tolist()
    # More customers than a partition has money for, if none of their offers were settled.
    assert min(spread.count(p) for p in range(PARTITIONS)) * COST_MINOR > total_minor / PARTITIONS
    died = work(site, shop, plan)
    print(f"{died} of {len(plan)} died where they were to, the others where they were")
    assert died > len(plan) / 2
    judge(site, shop, total_minor)


def test_a_budget_holds_exactly_with_one_to_three_workers(broker: str, topic_prefix: str, tmp_path: Path) -> None:
    plan = [Kill("transaction_sent", 2, 1), Kill("committed", 2, 2), Kill("begun", 2, 3)]
    run(broker, topic_prefix, tmp_path, 21_203, 100, random.randrange(2**32), plan)


@pytest.mark.long
def test_a_budget_holds_exactly_through_every_kind_of_death(broker: str, topic_prefix: str, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    draw = random.Random(seed)
    plan = [
        Kill(point, 1 if point in AT_START else draw.randint(1, 4), draw.randint(1, SEATS))
        for point in POINTS["exactly_once"] * 2
    ]
    draw.shuffle(plan)
    run(broker, topic_prefix, tmp_path, 150_007, 800, seed, plan)
