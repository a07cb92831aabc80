"""`python -m stream shop`: the simulated shop on any Kafka."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from stream.settings import from_environment
from stream.shop.coupons import Coupons
from stream.shop.disturb import Disturbance
from stream.shop.live import Live, Reader, percentile
from stream.shop.population import DAY_MS
from stream.shop.publish import Publisher
from stream.shop.simulate import Shop
from stream.shop.visits import VISIT_EVENTS_MEAN

SHOWN_EVERY_S = 2.0


@click.group(
    epilog="""\b
Examples:
  python -m stream shop run --users 10000 --rate 200 --seconds 60
  python -m stream shop run --history-days 7 --seconds 0
"""
)
def shop() -> None:
    """The simulated shop: events in, offers taken. docs/shop.md says what in it is measured and what assumed."""


@shop.command()
@click.option("--seed", type=click.IntRange(0, 2**63), default=1, show_default=True, help="Of everything drawn.")
@click.option("--users", type=click.IntRange(1, 5_000_000), default=10_000, show_default=True, help="Customers.")
@click.option(
    "--rate",
    type=click.FloatRange(0, 100_000),
    default=0.0,
    help="Events a second, roughly; default: as often as real customers come.",
)
@click.option("--seconds", type=click.FloatRange(0), help="How long; default: until Ctrl-C.")
@click.option(
    "--history-days", type=click.FloatRange(0, 365), default=0.0, help="First publish that much history, at full speed."
)
@click.option("--duplicates", type=click.FloatRange(0, 1), default=0.0, help="Share of events published twice.")
@click.option("--poison", type=click.FloatRange(0, 1), default=0.0, help="Share of events followed by a broken one.")
@click.option("--bootstrap", default="", help="Kafka brokers; default KAFKA_BOOTSTRAP.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the summary there.")
def run(
    seed: int,
    users: int,
    rate: float,
    seconds: float | None,
    history_days: float,
    duplicates: float,
    poison: float,
    bootstrap: str,
    json_path: Path | None,
) -> None:
    """Open the shop: customers browse and buy, and take offers, until Ctrl-C.

    Publishes to clickstream, orders, feedback, redemptions and customers; reads offers as a coupon service does, and
    decisions to know who was held out.
    """
    console = Console(stderr=True)
    settings = from_environment()
    if bootstrap:
        settings = dataclasses.replace(settings, bootstrap=bootstrap)
    publisher = Publisher(settings, linger_ms=0)
    reader = Reader(settings)
    start_ms = int(time.time() * 1000) - int(history_days * DAY_MS)
    open_shop = Shop(seed, users, start_ms, Coupons(settings.currency))
    live = Live(open_shop, publisher, reader, Disturbance(seed, duplicates, poison))
    shown_s = time.monotonic()

    def show() -> None:
        nonlocal shown_s
        if time.monotonic() - shown_s >= SHOWN_EVERY_S:
            shown_s = time.monotonic()
            n = summary(live)
            console.print(
                f"published {n['events_published']:,}, offers {n['offers']:,}, redeemed {n['redeemed']:,}, "
                f"margin {n['margin_minor'] / 100:,.2f}",
                highlight=False,
            )

    try:
        for published in open_shop.profiles():
            publisher.publish(*published)
        publisher.flush()
        live.history(int(time.time() * 1000) if history_days else start_ms, show)
        if rate:
            open_shop.open_doors(rate / VISIT_EVENTS_MEAN, int(time.time() * 1000))
        end_s = time.monotonic() + seconds if seconds is not None else float("inf")

        def done() -> bool:
            show()
            return time.monotonic() >= end_s

        live.run(done)
    except KeyboardInterrupt:
        console.print("closing", highlight=False)
    finally:
        publisher.abandon(5.0)
        reader.close()
    result = summary(live)
    console.print_json(json.dumps(result))
    if json_path:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(result, indent=2) + "\n", "utf-8")


def summary(live: Live) -> dict[str, Any]:
    """What happened so far: traffic, offers and what became of them, and what the shop earned."""
    ledger, campaigns = live.shop.ledger, live.shop.coupons.campaigns
    return {
        "events_published": live.publisher.published.total(),
        "by_topic": dict(sorted(live.publisher.published.items())),
        "decisions": dict(sorted(live.decisions.items())),
        "offers": sum(c.offers for c in campaigns.values()),
        "redeemed": sum(c.redeemed for c in campaigns.values()),
        "expired": sum(c.expired for c in campaigns.values()),
        "campaigns": {name: dataclasses.asdict(c) for name, c in sorted(campaigns.items())},
        "latency_ms": {"p50": percentile(live.latencies_ms, 0.5), "p99": percentile(live.latencies_ms, 0.99)},
        "orders": ledger.orders,
        "margin_minor": ledger.margin_minor,
        "discount_minor": ledger.discount_minor,
        "earned": ledger.earned(),
    }
