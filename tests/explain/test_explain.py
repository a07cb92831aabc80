"""`explain` beside a real worker: the offer that it made, and the user as the row stands."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from stream.explain.cli import explain
from stream.scoring.model import load
from tests.e2e.harness import Site, event
from tests.e2e.logs import profile
from training.seeded import seeded_model

CAMPAIGN = {
    "id": "nudge",
    "name": "Nudge",
    "version": 1,
    "trigger": {"kinds": ["cart_add"]},
    "arms": [{"id": "ten", "kind": "percent", "percent": 10, "max_discount_minor": 2_000}],
    "policy": {"kind": "threshold", "probability": 0.0, "arm": "ten"},
    "valid_for": "24h",
    "currency": "EUR",
}


@pytest.fixture
def site(broker: str, topic_prefix: str, tmp_path: Path) -> Site:
    return Site(broker, topic_prefix, tmp_path, partitions=1)


def events(kinds: list[str], start_ms: int, first: int) -> list[Any]:
    return [
        event("clickstream", event_id=f"e{first + n}", user_id="ann", time_ms=start_ms + 1_000 * n, kind=kind)
        for n, kind in enumerate(kinds)
    ]


def test_an_offer_and_a_user_are_explained(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in site.environment().items():
        monkeypatch.setenv(name, value)

    def call(*args: str) -> Result:
        return CliRunner().invoke(explain, args)

    data = seeded_model(3)
    model = load(data)
    site.publish_model(data, model.hex)
    site.publish_campaigns(CAMPAIGN)
    now_ms = time.time_ns() // 1_000_000
    with site.worker() as worker:
        site.publish([profile("ann", now_ms)])
        site.wait_applied([worker])
        site.publish(events(["product_view", "search", "product_view", "cart_add"], now_ms - 9_000, 0))
        site.wait_applied([worker])
        (offer,) = [record.json for record in site.out("offers")]
        site.publish(events(["product_view"] * 3, now_ms - 2_000, 10))
        site.wait_applied([worker])
    (decision,) = [one.json for one in site.out("decisions") if one.json["arm"] == "ten"]

    result = call("offer", offer["offer_id"], "--json", "--out", str(tmp_path / "offer.png"))
    assert result.exit_code == 0, result.output
    said = json.loads(result.output)
    assert said["model"] == model.hex
    # The ring held all events up to the offer, so rebuilt and carried are one; three events since are not looked at.
    assert said["groups"]["score"] == pytest.approx(decision["score"], abs=2e-3)
    for part in (said["groups"], said["steps"]):
        assert part["base"] + sum(part["values"].values()) == pytest.approx(part["score"], abs=1e-6)
    assert list(said["steps"]["values"]) == ["3 before", "2 before", "1 before"]
    assert f"reason codes: {', '.join(offer['reasons'])}" in said["about"]
    assert (tmp_path / "offer.png").read_bytes().startswith(b"\x89PNG")

    result = call("user", "ann")
    assert result.exit_code == 0, result.output
    assert "latest event: product view" in result.output
    assert "6 before" in result.output

    for args in (("offer", "ff"), ("user", "nobody")):
        assert args[1] in str(call(*args).exception)
