"""The demo as its user runs it. The whole of it takes minutes and is a long test; so are most interruptions."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from rich.console import Console

from stream.metrics import Metrics
from stream.shop.coupons import Coupons
from stream.shop.demo import _tell
from stream.shop.disturb import Disturbance
from stream.shop.live import Live, percentile
from stream.shop.scrape import Sample
from stream.shop.simulate import Shop
from stream.shop.view import View
from tests.e2e.harness import wait_until

START_MS = 1_700_006_400_000


class Running:
    """A demo in a process of its own, and every process that came of it."""

    def __init__(self, out: Path, *arguments: str) -> None:
        self.log = out.parent / "demo.log"
        environment = {k: v for k, v in os.environ.items() if k != "KAFKA_BOOTSTRAP"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "stream", "demo", "--out", str(out), *arguments],
                env=environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.family: set[psutil.Process] = set()

    def watch(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            self.family |= set(psutil.Process(self.process.pid).children(recursive=True))

    def shown(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str) -> None:
        def there() -> bool:
            self.watch()
            assert self.process.poll() is None, self.shown()
            return text in self.shown()

        wait_until(there, text, 280, 0.1)

    def left(self) -> list[psutil.Process]:
        return [p for p in self.family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@contextlib.contextmanager
def demo(tmp_path: Path, *arguments: str) -> Iterator[Running]:
    running = Running(tmp_path / "out", *arguments)
    try:
        yield running
    finally:
        running.watch()
        running.process.kill()
        running.process.wait()
        for process in running.left():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.mark.needs_broker
@pytest.mark.timeout(400)
def test_the_whole_demo(tmp_path: Path) -> None:
    with demo(tmp_path) as running:
        while running.process.poll() is None:
            running.watch()
            time.sleep(0.3)
        assert running.process.returncode == 0, running.shown()
        assert running.family
        assert not running.left()
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["events_published"] == (
        summary["events_applied"] + summary["events_duplicate"] + summary["events_dead"]
    )
    assert min(summary["events_duplicate"], summary["events_dead"]) > 0
    assert summary["offers"] == sum(summary["offers_by_campaign"].values()) > 0
    assert summary["decisions"] >= summary["offers"]
    assert summary["redemptions"] > 0
    assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p99"]
    assert len(summary["model"]["hash"]) == 64
    assert 0.5 < summary["model"]["auc"] < 1
    assert summary["model"]["kind"] == "lstm"
    assert summary["wall_s"] < 300
    assert all(summary["held"].values())
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if p.is_dir()) == ["model"]


MOMENTS = ("Kafka", "topics and a worker", "warm-up", "customers are in the shop", "offers are made")


@pytest.mark.needs_broker
@pytest.mark.parametrize(
    ("moment", "signal_"),
    [
        ("topics and a worker", signal.SIGINT),
        *(pytest.param(moment, signal.SIGINT, marks=pytest.mark.long) for moment in MOMENTS),
        *(pytest.param(moment, signal.SIGTERM, marks=pytest.mark.long) for moment in MOMENTS[1:3]),
        *(pytest.param(moment, signal.SIGKILL, marks=pytest.mark.long) for moment in MOMENTS[1:4]),
    ],
)
def test_nothing_is_left_behind_whenever_it_ends(tmp_path: Path, moment: str, signal_: signal.Signals) -> None:
    with demo(tmp_path) as running:
        running.wait_for(moment)
        time.sleep(0.7)  # into what that moment begins
        running.watch()
        running.process.send_signal(signal_)
        assert running.process.wait(40) == (-signal.SIGKILL if signal_ == signal.SIGKILL else 130), running.shown()
        wait_until(lambda: not running.left(), "the end of every process", 10)
        assert running.family or moment == "Kafka"
        if signal_ != signal.SIGKILL:
            assert "Traceback" not in running.shown()
            assert "everything was stopped" in running.shown()


@pytest.mark.long
def test_hold_goes_on_until_ctrl_c_and_then_tells(tmp_path: Path) -> None:
    with demo(tmp_path, "--hold", "--customers", "3000") as running:
        running.wait_for("offers are made, until Ctrl-C")
        time.sleep(60)
        assert running.process.poll() is None
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(90) == 0, running.shown()
        wait_until(lambda: not running.left(), "the end of every process", 10)
    assert all(json.loads((tmp_path / "out" / "summary.json").read_text())["held"].values())


# --- parts


def sample_of_a_worker() -> Sample:
    metrics = Metrics(CollectorRegistry())
    metrics.event["clickstream", "applied"].inc(40)
    metrics.event["orders", "applied"].inc(2)
    metrics.event["orders", "duplicate"].inc(3)
    metrics.event["feedback", "dead"].inc(5)
    metrics.event["feedback", "fenced"].inc(7)
    metrics.decisions.labels("offered").inc(4)
    metrics.decisions.labels("holdout").inc(1)
    metrics.model_info.labels("0123456789abcdef").set(1)
    metrics.model_info.labels("feed").set(0)
    metrics.lag_events.labels("clickstream", "0").set(11)
    return Sample(generate_latest(metrics.registry).decode())


def test_what_a_worker_says_is_read() -> None:
    sample = sample_of_a_worker()
    assert (sample.applied, sample.duplicate, sample.dead, sample.taken) == (42, 3, 5, 50)
    assert sample.total("offerstream_events_total", source="orders") == 5
    assert sample.by("offerstream_decisions_total", "reason") == {"offered": 4, "holdout": 1}
    assert sample.models == ["0123456789abcdef"]
    assert Sample().taken == 0


def live_shop() -> Live:
    """With something sold and offered, and no broker."""
    shop = Shop(1, 50, START_MS, Coupons("EUR"))
    live = Live(shop, None, None, Disturbance(1))  # type: ignore[arg-type]
    for _ in shop.until(START_MS + 86_400_000):
        pass
    live.latencies_ms += [5.0, 6.0, 50.0]
    return live


@pytest.mark.parametrize("terminal", [True, False])
def test_what_is_shown(terminal: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    with View(console, "Ctrl-C ends it") as view:
        view.stage("warm-up")
        view.show(live_shop(), sample_of_a_worker())
    output = console.file
    assert isinstance(output, io.StringIO)
    shown = output.getvalue()
    for text in ("warm-up", "lag", "50 ms", "earned against holdout"):
        assert text in shown, text
    if terminal:
        for text in ("01234567", "budget spent", "Ctrl-C ends it", "42"):
            assert text in shown, text


def summary_of(**held: bool) -> dict[str, Any]:
    return {
        "events_published": 10,
        "events_applied": 7,
        "events_duplicate": 2,
        "events_dead": 1,
        "decisions": 5,
        "offers": 3,
        "redemptions": 1,
        "latency_ms": {"p50": 4.0, "p99": 9.0},
        "budget_spent_minor": {"a": 150, "b": 50},
        "earned": {"by_holdout_minor": 100, "by_holdout_error_minor": 70, "true_minor": 120},
        "wall_s": 12.0,
        "held": held,
    }


def test_the_exit_code_says_whether_everything_held(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    assert _tell(console, summary_of(one=True, two=True), tmp_path) == 0
    assert _tell(console, summary_of(one=True, two=False), tmp_path) == 1
    output = console.file
    assert isinstance(output, io.StringIO)
    assert "DOES NOT HOLD: two" in output.getvalue()
    assert "10 events published = 7 applied + 2 duplicates + 1 dead letters" in output.getvalue()
    assert "discounts given: 2.00 EUR" in output.getvalue()


def test_percentile() -> None:
    assert percentile([], 0.5) == 0
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile(range(100), 0.99) == 99
