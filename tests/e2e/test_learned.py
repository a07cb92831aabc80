"""What a campaign explored is learned from and published, and the worker that explored goes on by it."""

import json
import random
import time
from typing import Any

import numpy as np
from click.testing import CliRunner

from tests.e2e.harness import Event, Site, event
from tests.e2e.logs import profile
from training.cli import cli

N_USERS, N_VIEWS = 1_000, 8
LIKED = ("search", "favourite")
CAMPAIGN: dict[str, Any] = {
    "id": "earns",
    "name": "Earns",
    "version": 1,
    "trigger": {"kinds": ["checkout_start"]},
    "arms": [{"id": f"off{d}", "kind": "percent", "percent": d, "max_discount_minor": 9_000} for d in (5, 10)],
    "policy": {"kind": "profit"},
    "exploration": 0.8,
    "margin_rate": 0.11,
    "valid_for": "1h",
    "currency": "EUR",
    "cool_down": {"after_offer": "1s"},
}


def click(user: int, n: int, kind: str, now_ms: int) -> Event:
    fields = {"user_id": f"u{user}", "event_id": f"{user}-{n}", "time_ms": now_ms, "kind": kind}
    return event("clickstream", **fields, price_minor=10_000, currency="EUR", product_id="p", quantity=1)


def answers(decisions: list[dict[str, Any]], draw: random.Random) -> list[Event]:
    """Who favours things is won by an offer; of the others few buy, whatever is offered: a gift to them is lost."""
    found = []
    for decision in decisions:
        user = int(decision["user_id"][1:])
        offered = decision["arm"] != "none"
        if draw.random() < (0.7 if offered and user % 2 else 0.1):
            off = round(10_000 * int(decision["arm"][3:]) / 100) if offered else 0
            order = {
                "user_id": f"u{user}",
                "event_id": f"{user}-order",
                "time_ms": decision["time_ms"] + 500,
                "kind": "placed",
                "order_id": f"{user}-order",
                "total_minor": 10_000 - off,
                "currency": "EUR",
            }
            more = {"discount_minor": off, "offer_id": decision["decision_id"]} if offered else {}
            found.append(event("orders", **order, **more))
    return found


def test_from_exploration_to_offers_that_were_learned(site: Site) -> None:
    site.publish_campaigns(CAMPAIGN)
    draw = random.Random(3)
    where = ("--events", site.settings.bootstrap, "--log", site.settings.bootstrap, "--horizon", "1s")
    target = ("--bootstrap", site.settings.bootstrap, "--topic-prefix", site.settings.topic_prefix)
    asked = ["response", "--campaign", "earns", *where, *target, "--currency", "EUR"]
    with site.worker(decision_sample=0) as worker:
        now_ms = time.time_ns() // 1_000_000
        site.publish([profile(f"u{i}", now_ms) for i in range(N_USERS)])
        for n in range(N_VIEWS):
            kinds = [draw.choice(["product_view", "cart_add", LIKED[u % 2]]) for u in range(N_USERS)]
            site.publish([click(u, n, kinds[u], now_ms) for u in range(N_USERS)])
        site.wait_applied([worker])
        site.publish([click(u, N_VIEWS, "checkout_start", time.time_ns() // 1_000_000) for u in range(N_USERS)])
        site.wait_applied([worker])
        decisions = [record.json for record in site.out("decisions")]
        # Nothing is learned yet, so who is not drawn gets none: as good a "none" as one that was drawn.
        assert {(d["reason"], d["arm"] == "none") for d in decisions} == {("offered", False), ("no_model", True)}
        assert len(decisions) == N_USERS

        early = CliRunner().invoke(cli, asked)
        assert (early.exit_code, "too little is explored yet" in early.output) == (1, True), early.output
        site.publish(answers(decisions, draw))
        site.publish([click(u, N_VIEWS + 1, "product_view", decisions[-1]["time_ms"] + 5_000) for u in range(N_USERS)])
        site.wait_applied([worker])
        nobody = CliRunner().invoke(cli, [*asked[:2], "earn", *asked[3:]])
        assert (nobody.exit_code, "there is none of that id" in nobody.output) == (1, True), nobody.output
        result = CliRunner().invoke(cli, [*asked, "--publish"])
        assert result.exit_code == 0, result.output
        said = json.loads(result.stdout.splitlines()[-1])
        assert (said["decisions"], said["published"]) == (N_USERS, True)
        assert said["offered"] == sum(d["arm"] != "none" for d in decisions)

        # The worker takes it over. Of those who got none, four in seven were drawn, and stay drawn for the day; the
        # others are decided about by what was learned.
        undrawn = [int(d["user_id"][1:]) for d in decisions if d["arm"] == "none"]
        arms: dict[int, str] = {}
        for n in range(50):
            now_ms = time.time_ns() // 1_000_000
            site.publish([click(u, 100 + n, "checkout_start", now_ms) for u in undrawn])
            site.wait_applied([worker])
            later = [record.json for record in site.out("decisions")][len(decisions) :]
            assert {d["campaign_version"] for d in later if d["reason"] != "no_model"} <= {1, 2}
            learned = [d for d in later if d["campaign_version"] == 2 and int(d["user_id"][1:]) in undrawn]
            arms = {int(d["user_id"][1:]): d["arm"] for d in reversed(learned)}
            if len(arms) == len(undrawn):
                break
            time.sleep(0.1)
        won = [arms[u] != "none" for u in undrawn if u % 2]
        others = [arms[u] != "none" for u in undrawn if not u % 2]
        assert np.mean(won) > 0.3
        assert np.mean(others) < np.mean(won) / 3
