"""What the fault tests publish, and what they run their workers with."""

import time
from random import Random

from tests.e2e import logs
from tests.e2e.harness import Event, Site
from tests.faults.logins import Logins

SETTINGS = {
    "instance_id": "one",  # a worker that comes back gets its partitions at once
    "offer_max_age_ms": 10**9,
    "batch_rows": 50,
    "hot_rows": 50,  # less than there are users: rows go to the store and come back
    "store_pending_bytes": 4_000,
    "store_flush_interval_ms": 1_000,
}
ALWAYS = {
    "id": "always",
    "name": "Everyone who fills a cart",
    "version": 1,
    "priority": 10,
    "trigger": {"kinds": ["cart_add"]},
    "arms": [{"id": "ten", "kind": "percent", "percent": 10}],
    "policy": {"kind": "threshold", "probability": 0.0, "arm": "ten"},
    "valid_for": "24h",
}
BY_SCORE = ALWAYS | {
    "id": "by-score",
    "name": "Lookers who may buy",
    "priority": 20,
    "trigger": {"kinds": ["product_view"]},
    "policy": {"kind": "threshold", "probability": 0.5, "arm": "ten"},
}
SILENT_S = 6
SILENT = ALWAYS | {
    "id": "silent",
    "name": "Who is gone",
    "trigger": {"silent_for": f"{SILENT_S}s"},
    "policy": {"kind": "segment", "arms": dict.fromkeys(("new", "frequent", "dormant", "regular"), "ten")},
}


class Shop:
    """Publishes a seeded log piece by piece, with something broken now and then."""

    def __init__(self, site: Site, seed: int, n_users: int = 150) -> None:
        self.site = site
        self.draw = Random(seed)
        self.users = [f"user-{i}" for i in range(n_users)]
        self.bots = [f"bot-{i}" for i in range(40)]
        self.good: list[tuple[Event, tuple[str, int, int]]] = []
        self.bad: list[tuple[str, int, int]] = []
        self.pieces = 0
        self.logins = Logins(site, seed)

    def profiles(self) -> None:
        now_ms = time.time_ns() // 1_000_000
        self.publish([logs.profile(user, now_ms + i) for i, user in enumerate(self.users + self.bots)])

    def piece(self, n: int) -> None:
        """Publish some `n` events more."""
        self.pieces += 1
        now_ms = time.time_ns() // 1_000_000
        log = logs.shop_log(self.draw, n, self.users, now_ms, f"p{self.pieces}")
        # Someone with many events in one batch: more than a row remembers ids of, so that only the fence protects it.
        bot = self.bots[self.pieces % len(self.bots)]
        log += [logs.trigger(bot, f"bot{self.pieces}-{i}", now_ms + i) for i in range(20)]
        self.publish(log)
        broken = Event("clickstream", f"user-{self.pieces}".encode(), b'{"broken": ')
        self.publish_broken([broken])

    def publish_broken(self, events: list[Event]) -> None:
        """What must become dead letters."""
        self.bad += self.site.publish(events)

    def publish(self, log: list[Event]) -> None:
        """Good events."""
        self.good += zip(log, self.site.publish(log), strict=True)
