"""What the demo counted, from three sides that know nothing of each other: the broker, the worker, the shop."""

from typing import Any

from stream.core.events import SOURCES
from stream.kafka.topics import Topics
from stream.settings import Settings
from stream.shop.live import Live, percentile
from stream.shop.scrape import Sample


def records(settings: Settings, name: str) -> int:
    """How many records a topic has, counted one by one: a transaction's marker has an offset of its own.

    Raises:
        SetupError: no broker answers.
    """
    with Topics(settings.bootstrap) as topics:
        return sum(len(some) for _, some in topics.read(topics.places([settings.topic(name)])))


def in_force(sample: Sample, metrics: dict[str, Any]) -> bool:
    """Whether the worker scores with the model that these metrics speak of."""
    return any(metrics["sha256"].startswith(hash_) for hash_ in sample.models)


def account(
    settings: Settings, live: Live, sample: Sample, metrics: dict[str, Any], seed: int, wall_s: float
) -> dict[str, Any]:
    """The summary; `held` says of each thing that must hold whether it does."""
    coupons, ledger = live.shop.coupons, live.shop.ledger
    campaigns = sorted(coupons.campaigns.items())
    published = sum(records(settings, source) for source in SOURCES)
    summary: dict[str, Any] = {
        "events_published": published,
        "events_applied": sample.applied,
        "events_duplicate": sample.duplicate,
        "events_dead": sample.dead,
        "decisions": records(settings, "decisions"),
        "decisions_by_reason": dict(sorted(sample.by("offerstream_decisions_total", "reason").items())),
        "offers": records(settings, "offers"),
        "offers_by_campaign": {name: c.offers for name, c in campaigns},
        "redemptions": sum(c.redeemed for _, c in campaigns),
        "redemptions_by_campaign": {name: c.redeemed for name, c in campaigns},
        "budget_spent_minor": {name: c.spent_minor for name, c in campaigns},
        "budget_reserved_minor": {name: c.reserved_minor for name, c in campaigns},
        "currency": settings.currency,
        "earned": ledger.earned(),
        "latency_ms": {
            "p50": round(percentile(live.latencies_ms, 0.5), 2),
            "p99": round(percentile(live.latencies_ms, 0.99), 2),
            "n": len(live.latencies_ms),
        },
        "model": {"hash": metrics["sha256"], "auc": metrics["auc"], "kind": metrics["architecture"]},
        "seed": seed,
        "wall_s": round(wall_s, 1),
    }
    disturbed = live.disturbance
    held = {
        "published = applied + duplicate + dead": published
        == sample.applied + sample.duplicate + sample.dead
        == live.publisher.published.total(),
        "each event published twice was dropped once": sample.duplicate == disturbed.duplicates,
        "each broken event is a dead letter": sample.dead == disturbed.poison == records(settings, "dead-letters"),
        "the published model is in force": in_force(sample, metrics),
        "each offer reached the coupon service once": summary["offers"]
        == sum(summary["offers_by_campaign"].values())
        == sample.total("offerstream_offers_total"),
        "offers were made": summary["offers"] > 0,
        "decisions were logged": summary["decisions"] >= summary["offers"],
        "customers redeemed offers": summary["redemptions"] > 0,
    }
    return summary | {"held": held}
