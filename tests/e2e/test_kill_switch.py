"""How soon running workers do what the command line says: apply, apply again, pause; under load."""

import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from stream.campaigns.cli import campaigns
from tests.e2e.harness import Event, Site, wait_until
from tests.e2e.logs import profile, trigger
from tests.faults.crashing_worker import CrashingWorker, Orders

WITHIN_MS = 2_000
USERS = [f"u{i}" for i in range(20)]
EVERY_S = 0.02


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def document(version: int) -> dict[str, Any]:
    return {
        "id": "nudge",
        "name": "Nudge",
        "version": version,
        "trigger": {"kinds": ["cart_add"]},
        "arms": [{"id": "ten", "kind": "percent", "percent": 10}],
        "policy": {"kind": "segment", "arms": {"new": "ten"}},
        "valid_for": "1h",
    }


@pytest.mark.alone
def test_apply_and_pause_take_less_than_two_seconds(site: Site, tmp_path: Path) -> None:
    target = ("--bootstrap", site.settings.bootstrap, "--topic-prefix", site.settings.topic_prefix)

    def say(*command: str) -> int:
        """Run a command that publishes; when it published."""
        result = CliRunner().invoke(campaigns, [*command, *target])
        assert result.exit_code == 0, result.output
        shown = CliRunner().invoke(campaigns, ["show", "nudge", *target])
        return int(json.loads(shown.stdout)["published_ms"])

    def apply(version: int) -> int:
        file = tmp_path / f"nudge-{version}.yaml"
        file.write_text(json.dumps(document(version)))
        return say("apply", str(file))

    site.publish([profile(user, now_ms()) for user in USERS])
    with ExitStack() as stack:
        workers = [
            stack.enter_context(CrashingWorker(site, Orders(), instance_id=f"w{i}", data_dir=tmp_path / f"disk-{i}"))
            for i in range(2)
        ]
        wait_until(lambda: all(one.log().count("serving partitions [0]") + one.log().count("serving partitions [1]")
                               for one in workers), "a partition each", 60)  # fmt: skip

        def ask(turn: int) -> list[Event]:
            return [trigger(user, f"{user}-{turn}", now_ms()) for user in USERS]

        with site.publishing(ask, EVERY_S):
            time.sleep(1)
            first_ms = apply(1)
            time.sleep(3)
            second_ms = apply(2)
            time.sleep(3)
            pause_ms = say("pause", "nudge")
            time.sleep(3)
        site.wait_applied(workers)
    offers = site.out("offers")
    decisions = [(record.partition, record.json) for record in site.out("decisions")]
    assert {p for p, _ in decisions} == {0, 1}
    took: dict[str, list[int]] = {"apply": [], "apply again": [], "pause": []}
    for partition in (0, 1):
        of = sorted((d for p, d in decisions if p == partition), key=lambda d: d["partition_seq"])
        made = [d for d in of if d["reason"] == "offered"]
        versions = [d["campaign_version"] for d in made]
        assert versions == sorted(versions)  # once there is a new one, the old one is gone
        assert set(versions) == {1, 2}
        took["apply"].append(made[0]["time_ms"] - first_ms)
        took["apply again"].append(made[versions.index(2)]["time_ms"] - second_ms)
        # Of the last offer that reached the topic, by the clock of its record.
        took["pause"].append(max(o.timestamp_ms for o in offers if o.partition == partition) - pause_ms)
        assert sum(d["time_ms"] > pause_ms + WITHIN_MS and d["reason"] == "not_triggered" for d in of) > 10
    print(json.dumps(took))
    assert max(ms for all_ms in took.values() for ms in all_ms) < WITHIN_MS, took
    assert min(took["apply"] + took["apply again"]) > 0  # nobody knew before
