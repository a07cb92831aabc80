"""One log, twice: through a worker on the real broker, and through `stream.core` in the order of application."""

import time
from pathlib import Path
from random import Random

import numpy as np

from stream.core.fold import fold
from stream.core.row import new_rows
from stream.scoring.model import Model
from tests.core.logs import as_columns
from tests.e2e import expect
from tests.e2e.harness import Site, event
from tests.e2e.logs import profile, shop_log, trigger

CAMPAIGN = {
    "id": "nudge",
    "name": "Nudge",
    "version": 1,
    "trigger": {"kinds": ["cart_add", "product_view"]},
    "arms": [{"id": "ten", "kind": "percent", "percent": 10}],
    "policy": {"kind": "threshold", "probability": 0.85, "arm": "ten"},
    "cool_down": {"after_offer": "1s"},
    "valid_for": "24h",
}


def check_fold(site: Site, past: dict[bytes, expect.Past]) -> None:
    """`fold`, which makes training's data, over the whole log at once: nothing is dropped, rows and steps agree."""
    users = list(past)
    log = [(u, e) for u, user in enumerate(users) for e in (*past[user].notes, *past[user].steps)]
    events, slots = as_columns(log)
    table = new_rows(len(users))
    steps, applied = fold(events, slots, table)
    assert applied.all()
    rows = site.rows()
    decided = {"fence", "model", "state", "recent_ids", *expect.OF_DECISIONS}
    for u, user in enumerate(users):
        for name in set(table.dtype.names or ()) - decided:
            assert rows[user][name].tobytes() == table[u][name].tobytes(), (user, name)
        made = [bytes.fromhex(d["step"]) for d in past[user].decisions]
        of_user = steps[(slots == u) & np.array([e.kind < 16 for _, e in log])]
        assert made == [step.tobytes() for step in of_user], user


def test_worker_and_core_agree_bit_by_bit(
    broker: str, topic_prefix: str, tmp_path: Path, model: Model, model_file: bytes
) -> None:
    site = Site(broker, topic_prefix, tmp_path, partitions=4)
    draw = Random(11)
    users = [f"user-{i}" for i in range(150)]
    site.publish_model(model_file, model.hex)
    site.publish_campaigns(CAMPAIGN)
    now_ms = time.time_ns() // 1_000_000
    site.publish([profile(user, now_ms + i, tier="gold", birthday="02-29") for i, user in enumerate(users[::2])])
    # A backlog in one piece, two days back and in disorder, then traffic in small pieces.
    site.publish(shop_log(draw, 3_000, users, now_ms, "backlog", late_ms=40 * 86_400_000))
    with site.worker(offer_max_age_ms=10**10, user_events_max=5) as worker:
        worker.wait_serving()
        for piece in range(20):
            site.publish(shop_log(draw, 30, users, time.time_ns() // 1_000_000, f"live-{piece}"))
            time.sleep(0.05)
        site.wait_applied([worker])
        outcomes = worker.outcomes()
    past = expect.check_all(site, [model])
    check_fold(site, past)
    steps = sum(len(p.steps) + len(p.notes) for p in past.values())
    assert outcomes == {"applied": steps, "duplicate": len(site.sent) - steps, "fenced": 0, "dead": 0}
    assert outcomes["duplicate"] > 100
    said = {d["reason"] for p in past.values() for d in p.decisions}
    assert {"offered", "policy_none", "cool_down", "no_consent", "not_triggered"} <= said
    assert any(d["late"] for p in past.values() for d in p.decisions)


def test_what_a_duplicate_is_follows_the_order_of_application(site: Site) -> None:
    """More than a row remembers lies between the copies as they came, nothing as they are applied: one is dropped."""
    now_ms = time.time_ns() // 1_000_000
    first = trigger("u", "twice", now_ms)
    site.publish([first, *(trigger("u", f"e{i}", now_ms + 1 + i) for i in range(20)), first])
    with site.worker() as worker:
        site.wait_applied([worker])
        assert worker.outcomes() == {"applied": 21, "duplicate": 1, "fenced": 0, "dead": 0}
    check_fold(site, expect.check_all(site, []))


def test_one_id_in_two_sources_is_two_events(site: Site) -> None:
    now_ms = time.time_ns() // 1_000_000
    site.publish(
        [
            trigger("u", "same", now_ms),
            event("feedback", event_id="same", user_id="u", time_ms=now_ms, kind="complaint"),
            event("redemptions", event_id="same", user_id="u", time_ms=now_ms, kind="redeemed", offer_id="o"),
        ]
    )
    with site.worker() as worker:
        site.wait_applied([worker])
        assert worker.outcomes()["applied"] == 3
    expect.check_all(site, [])


def test_a_log_without_a_model_and_without_campaigns(site: Site) -> None:
    draw = Random(12)
    users = [f"user-{i}" for i in range(30)]
    site.publish(shop_log(draw, 300, users, time.time_ns() // 1_000_000, "bare"))
    with site.worker() as worker:
        site.wait_applied([worker])
    past = expect.check_all(site, [])
    assert all(d["score"] is None and d["model"] == "" for p in past.values() for d in p.decisions)
    assert not site.out("offers")
