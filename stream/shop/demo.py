"""`python -m stream demo`: the whole product on this machine, from events to what offers earned. See docs/demo.md."""

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from stream.broker import runtime
from stream.broker.embedded import broker_from_environment
from stream.broker.errors import BrokerError
from stream.broker.progress import show_progress
from stream.errors import OfferstreamError, SetupError
from stream.kafka.admin import create_topics
from stream.settings import Settings
from stream.shop.account import account, in_force, records
from stream.shop.children import Child
from stream.shop.coupons import Coupons
from stream.shop.disturb import Disturbance
from stream.shop.live import Live, Reader
from stream.shop.population import DAY_MS
from stream.shop.publish import Publisher
from stream.shop.scrape import Sample, Scraper
from stream.shop.simulate import Shop
from stream.shop.view import View, earned_text, money
from stream.shop.visits import VISIT_EVENTS_MEAN

WALL_MAX_S = 300
OFFERS_S = 90.0
"""How long offers are made, where the time is not short."""

OFFERS_MIN_S = 45.0
CLOSING_S = 20.0
"""Kept back for draining and stopping."""

READY_TIMEOUT_S = 60.0
DRAIN_TIMEOUT_S = 60.0
CURRENCY = "EUR"


@dataclass(frozen=True)
class Traffic:
    """How much goes through the demo."""

    seed: int = 1
    customers: int = 4_000
    history_days: float = 3.0
    rate: float = 150.0
    """Events a second, live."""
    duplicates: float = 0.002
    poison: float = 0.001


class DemoFailedError(OfferstreamError):
    """Something in the demo did not work; the message says what, with the end of its log."""


class Demo:
    """One run. Everything it starts ends with it."""

    def __init__(self, traffic: Traffic, folder: Path, view: View, bootstrap: str, *, hold: bool) -> None:
        self._traffic = traffic
        self._folder = folder
        self._view = view
        self._hold = hold
        name = f"demo-{secrets.token_hex(4)}"
        self.settings = Settings(
            bootstrap=bootstrap,
            topic_prefix=f"{name}-",
            app_id=name,
            data_dir=folder / name / "store",
            admin_port=0,
            currency=CURRENCY,
        )
        self._run_folder = folder / name
        """Locks and the worker's store: gone with the demo."""
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("OFFERSTREAM_")} | {
            "KAFKA_BOOTSTRAP": bootstrap,
            "OFFERSTREAM_TOPIC_PREFIX": self.settings.topic_prefix,
            "OFFERSTREAM_APP_ID": self.settings.app_id,
            "OFFERSTREAM_DATA_DIR": str(self.settings.data_dir),
            "OFFERSTREAM_ADMIN_PORT": "0",
            "OFFERSTREAM_CURRENCY": CURRENCY,
            "PYTHONUNBUFFERED": "1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }

    def run(self) -> dict[str, Any]:
        """From topics to summary.

        1. Topics, a worker, the simulated shop.
        2. Its history, so that there is something to learn from: applied before the clock goes on.
        3. Customers come; meanwhile a model is trained on the topics.
        4. The model and the campaigns are published, the worker takes them over, offers are made.
        5. Traffic ends; everything is drained and counted.

        Raises:
            OfferstreamError: something did not work.
        """
        traffic, view, settings = self._traffic, self._view, self.settings
        with contextlib.ExitStack() as stack:
            # 1.
            stack.callback(shutil.rmtree, self._run_folder, ignore_errors=True)
            view.stage("topics and a worker")
            create_topics(settings)
            worker = self._child("worker", sys.executable, "-m", "stream", "worker")
            stack.callback(worker.stop)
            scraper = Scraper(self._admin_port(worker))
            stack.callback(scraper.close)
            publisher = Publisher(settings, linger_ms=0)
            stack.callback(publisher.abandon, 1.0)
            reader = Reader(settings)
            stack.callback(reader.close)
            now_ms = int(time.time() * 1000)
            start_ms = now_ms - int(traffic.history_days * DAY_MS)
            shop = Shop(traffic.seed, traffic.customers, start_ms, Coupons(CURRENCY))
            disturbance = Disturbance(traffic.seed, traffic.duplicates, traffic.poison)
            live = Live(shop, publisher, reader, disturbance)
            # 2.
            view.stage(f"warm-up: {traffic.history_days:g} days of {traffic.customers:,} customers")
            for published in shop.profiles():
                publisher.publish(*published)
            publisher.flush()

            def show() -> None:
                self._check(worker)
                view.show(live, scraper.latest)

            live.history(now_ms, show)
            self._until_applied(publisher, scraper, show)
            # 3.
            view.stage("customers are in the shop; a first model is trained on the topics")
            shop.open_doors(traffic.rate / VISIT_EVENTS_MEAN, int(time.time() * 1000))
            out = self._folder / "model"
            self._run_beside(
                live,
                show,
                "training",
                *("nice", "-n", "5", sys.executable, "-m", "training", "run", "--quick"),
                *("--events", settings.bootstrap, "--horizon", "1h", "--out", str(out)),
            )
            # 4.
            view.stage("the model and the campaigns are published")
            metrics = json.loads((out / "metrics.json").read_text("utf-8"))
            model = str(out / "model.onnx")
            self._run_beside(live, show, "publish", sys.executable, "-m", "training", "publish", model)
            live.run(_both(show, _within(READY_TIMEOUT_S, lambda: in_force(scraper.latest, metrics))))
            with resources.as_file(resources.files("stream.shop") / "campaigns") as folder:
                files = [str(path) for path in sorted(folder.glob("*.yaml"))]
                command = (sys.executable, "-m", "stream", "campaigns", "apply", *files)
                self._run_beside(live, show, "campaigns", *command)
            view.stage("offers are made" + (", until Ctrl-C" if self._hold else ""))
            left_s = min(OFFERS_S, WALL_MAX_S - CLOSING_S - view.elapsed_s)
            with _interruptible(hold=self._hold):
                live.run(_both(show, _within(float("inf") if self._hold else max(left_s, OFFERS_MIN_S))))
            # 5.
            view.stage("traffic has ended; what is on its way is counted")
            self._drain(live, scraper, show)
            view.stage("done")
            return account(settings, live, scraper.read(), metrics, traffic.seed, view.elapsed_s)

    def _child(self, name: str, *command: str) -> Child:
        return Child(name, command, self._folder, self._run_folder, self._environment)

    def _check(self, child: Child) -> None:
        if child.code is not None:
            raise DemoFailedError(f"the {child.name} ended with code {child.code}; {child.log} ends:\n{child.tail()}")

    def _admin_port(self, worker: Child) -> int:
        """Where the worker says that its metrics are, once it is ready."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            self._check(worker)
            self._view.show(None, Sample())
            found = re.search(r"metrics and probes at http://[^ ]+:(\d+)", worker.log.read_text("utf-8", "replace"))
            if found:
                return int(found[1])
            time.sleep(0.1)
        raise DemoFailedError(
            f"the worker did not start in {READY_TIMEOUT_S:.0f} s; {worker.log} ends:\n{worker.tail()}"
        )

    def _run_beside(self, live: Live, show: Callable[[], None], name: str, *command: str) -> None:
        """Run a program to its end while the shop goes on.

        Raises:
            DemoFailedError: it failed.
        """
        child = self._child(name, *command)
        try:
            live.run(_both(show, lambda: child.code is not None))
        finally:
            code = child.stop()
        if code:
            raise DemoFailedError(f"{name} failed with code {code}; {child.log} ends:\n{child.tail()}")

    def _until_applied(self, publisher: Publisher, scraper: Scraper, show: Callable[[], None]) -> None:
        """Wait until the worker has taken everything that was published."""
        deadline = time.monotonic() + DRAIN_TIMEOUT_S
        while (sample := scraper.read()).taken < publisher.published.total() and time.monotonic() < deadline:
            show()
            time.sleep(0.1)
        if sample.taken >= publisher.published.total():
            return
        raise DemoFailedError(
            f"{publisher.published.total()} events were published, but after {DRAIN_TIMEOUT_S:.0f} s the worker has "
            f"applied {sample.applied}, dropped {sample.duplicate} duplicates and refused {sample.dead}"
        )

    def _drain(self, live: Live, scraper: Scraper, show: Callable[[], None]) -> None:
        """Until no offer is on its way: each may have the coupon service publish, which the worker applies."""
        settings = self.settings
        offers = -1
        while offers != (offers := records(settings, "offers")):
            live.drain()
            self._until_applied(live.publisher, scraper, show)
            deadline = time.monotonic() + DRAIN_TIMEOUT_S
            while self._received(live) < offers and time.monotonic() < deadline:
                live.drain()
                time.sleep(0.05)

    @staticmethod
    def _received(live: Live) -> int:
        coupons = live.shop.coupons
        return sum(c.offers for c in coupons.campaigns.values()) + coupons.repeated + coupons.malformed


def _both(show: Callable[[], None], done: Callable[[], bool]) -> Callable[[], bool]:
    def both() -> bool:
        show()
        return done()

    return both


def _within(seconds: float, done: Callable[[], bool] = lambda: False) -> Callable[[], bool]:
    """`done`, or so many seconds from now."""
    deadline = time.monotonic() + seconds
    return lambda: done() or time.monotonic() >= deadline


@contextlib.contextmanager
def _interruptible(*, hold: bool) -> Iterator[None]:
    """With hold, Ctrl-C is how this part ends; else it ends the demo."""
    try:
        yield
    except KeyboardInterrupt:
        if not hold:
            raise


@click.command(
    epilog="""\b
Examples:
  python -m stream demo
  python -m stream demo --hold
  KAFKA_BOOTSTRAP=127.0.0.1:9092 python -m stream demo --customers 20000 --rate 500
"""
)
@click.option("--hold", is_flag=True, help="Go on until Ctrl-C.")
@click.option("--seed", type=click.IntRange(0, 2**63), default=1, show_default=True, help="Of the simulated shop.")
@click.option("--customers", type=click.IntRange(100, 1_000_000), default=4_000, show_default=True, help="Of the shop.")
@click.option(
    "--rate", type=click.FloatRange(1, 10_000), default=150.0, show_default=True, help="Live events a second."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("var/demo"),
    show_default=True,
    help="Folder for the summary, the model and logs.",
)
def demo(hold: bool, seed: int, customers: int, rate: float, out: Path) -> None:
    """Show the whole product at work, in under five minutes, with everything it needs.

    A real Kafka is started (or KAFKA_BOOTSTRAP is used, with topics of the demo's own), a worker, and a simulated shop.
    Exit code 0 only if everything held that the summary lists.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console()
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    try:
        if "KAFKA_BOOTSTRAP" not in os.environ:
            with show_progress() as progress:  # set-up: the first time, Kafka is fetched
                runtime.prepare(progress)
        hint = "Ctrl-C ends it" if hold else ""
        with View(console, hint) as view:
            view.stage("Kafka")
            with broker_from_environment() as bootstrap:
                summary = Demo(Traffic(seed, customers, rate=rate), out, view, bootstrap, hold=hold).run()
    except KeyboardInterrupt:
        console.print("interrupted; everything was stopped", highlight=False)
        sys.exit(130)
    except BrokerError as e:
        raise SetupError(str(e)) from e
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", "utf-8")
    sys.exit(_tell(console, summary, out / "summary.json"))


def _tell(console: Console, summary: dict[str, Any], path: Path) -> int:
    """Say how it went; the exit code."""

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    say(
        f"{summary['events_published']:,} events published = {summary['events_applied']:,} applied + "
        f"{summary['events_duplicate']:,} duplicates + {summary['events_dead']:,} dead letters"
    )
    latency = summary["latency_ms"]
    say(
        f"{summary['decisions']:,} decisions, {summary['offers']:,} offers, {summary['redemptions']:,} redeemed, "
        f"event to offer {latency['p50']:.0f} ms (median), {latency['p99']:.0f} ms (p99)"
    )
    spent = money(sum(summary["budget_spent_minor"].values()))
    say(f"discounts given: {spent} {CURRENCY}; {earned_text(summary['earned'])}")
    failed = [name for name, holds in summary["held"].items() if not holds]
    for name in failed:
        say(f"DOES NOT HOLD: {name}")
    say(f"{path}, {summary['wall_s']:.0f} s")
    return 1 if failed else 0
