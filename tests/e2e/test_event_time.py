"""The table of ARCHITECTURE.md, section 4: early, late, duplicate, from the future; each counted under its own name."""

import re
import time
from collections import Counter

from stream.core.events import TIME_AHEAD_MAX_MS
from tests.e2e import expect
from tests.e2e.harness import Event, Site, Worker, event
from tests.e2e.logs import trigger

DAY_MS = 86_400_000


def counted(worker: Worker, name: str, label: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for sample, value in worker.metrics().items():
        if sample.startswith(f"offerstream_{name}_total{{") and (match := re.search(rf'{label}="(\w+)"', sample)):
            found[match[1]] += int(value)
    return +found


def test_every_line_of_the_table(site: Site) -> None:
    now_ms = time.time_ns() // 1_000_000
    at_once = [trigger("u", "e0", now_ms), trigger("u", "e2", now_ms + 2_000), trigger("u", "e1", now_ms + 1_000)]
    at_once.append(trigger("other", "x0", now_ms + 500))  # another user's: in no order with the rest
    site.publish(at_once)
    # (event, what it counts as)
    then: list[tuple[Event, str]] = [
        (trigger("u", "late", now_ms - 5_000), "late"),
        (trigger("u", "long-ago", now_ms - 40 * DAY_MS), "late"),
        (trigger("u", "e0", now_ms), "duplicate"),
        (trigger("u", "early", now_ms + 30 * 60_000), "ahead"),
        (trigger("u", "behind-the-early-one", now_ms + 3_000), "late"),
        (trigger("u", "future", now_ms + 2 * TIME_AHEAD_MAX_MS), "time_range"),
        (trigger("u", "last-century", 900_000_000_000), "time_range"),
        (event("redemptions", event_id="r", user_id="u", time_ms=now_ms - DAY_MS, kind="issued", offer_id="o"), ""),
    ]
    late: set[tuple[str, int, int]] = set()
    dead: set[tuple[str, int, int]] = set()
    with site.worker() as worker:
        site.wait_applied([worker])
        ahead = counted(worker, "event_time", "what") - Counter(reordered=1)
        for one, what in then:  # each in a batch of its own
            (place,) = site.publish([one])
            site.wait_applied([worker])
            late |= {place} if what == "late" else set()
            dead |= {place} if what == "time_range" else set()
        assert worker.outcomes() == {"applied": 9, "duplicate": 1, "fenced": 0, "dead": 2}
        times = counted(worker, "event_time", "what")
        assert times["reordered"] == 1
        assert times["late"] == 3
        # Those of the first batch may be ahead of their publication too, by a second or two.
        assert times["ahead"] - ahead["ahead"] in (1, 2)
        assert counted(worker, "dead_letters", "reason") == Counter(time_range=2)
    triggers = [d["trigger"] for d in (record.json for record in site.out("decisions")) if d["late"]]
    prefix = site.settings.topic_prefix
    marked = {(t["topic"].removeprefix(prefix), t["partition"], t["offset"]) for t in triggers}
    assert marked == late
    assert len(site.out("dead-letters")) == 2
    expect.check_all(site, [], [sent for sent in site.sent if sent[1] not in dead])
