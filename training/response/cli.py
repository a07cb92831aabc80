"""`python -m training response`: what the profit policy knows of how users respond, learned and published."""

import json
import time
from pathlib import Path
from zoneinfo import ZoneInfo

import click
from rich.console import Console

from training.options import Duration, bootstrap_option, prefix_option, told
from training.source_options import currency_option, events_option, read

# ruff: noqa: PLC0415  confluent-kafka and pyarrow are imported where they are used


@click.command(
    epilog="""\b
Examples:
  python -m training response --campaign profit-budget --events 127.0.0.1:9092 --log 127.0.0.1:9092 --publish
  python -m training response --campaign profit-budget --events var/archive --log 127.0.0.1:9092 --out var/learned.json
"""
)
@click.option("--campaign", "id_", required=True, help="Whose exploration is learned from; it has to be published.")
@events_option
@click.option(
    "--log",
    required=True,
    metavar="SOURCE",
    help="Decisions and orders: a broker (host:port), or a folder with decisions.jsonl, orders.jsonl (or .jsonl.gz).",
)
@click.option("--horizon", type=Duration(), default="1h", show_default=True, help="Within which a purchase counts.")
@click.option("--timezone", envvar="OFFERSTREAM_TIMEZONE", default="UTC", show_default=True, help="The shop's.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File for the response, as JSON.")
@click.option("--publish", is_flag=True, help="With the campaign's record: workers take it over between two batches.")
@currency_option
@bootstrap_option
@prefix_option
def response(
    id_: str,
    events: str,
    log: str,
    horizon: int,
    timezone: str,
    out: Path | None,
    publish: bool,
    currency: str,
    bootstrap: str,
    topic_prefix: str,
) -> None:
    """Learn how users respond to a campaign's offers.

    From what it explored, for the profit policy.

    Run it as often as there is more to learn from: what is published replaces what was.
    """
    console = Console(stderr=True)
    with told():
        from stream.campaigns import publish as plans
        from stream.campaigns.control import Shop, compile_campaigns
        from stream.campaigns.learn import BASKET_FEATURES, FEATURES, facts_of, fit
        from stream.core.response import to_document
        from stream.kafka.topics import publish_control, read_control
        from training.errors import TrainingError
        from training.files import write_json
        from training.records import Decision, Order, read_records
        from training.response.explored import explored

        topic = topic_prefix + "campaigns"
        records = {
            key.decode(errors="replace"): record.value
            for key, record in read_control(bootstrap, topic).items()
            if record.value is not None
        }
        in_force, refused = compile_campaigns(records, Shop(timezone, currency))
        campaign = next((one for one in in_force.campaigns if one.id == id_), None)
        if campaign is None:
            why = next((one.message for one in refused if one.id == id_), "there is none of that id in " + topic)
            raise TrainingError(f"campaign {id_!r}: {why}")
        decisions = [
            one for one in read_records(log, topic_prefix, "decisions", Decision, needed=True) if one.campaign_id == id_
        ]
        orders = read_records(log, topic_prefix, "orders", Order, needed=True)
        found = explored(
            read(console, events, None, currency, topic_prefix),
            decisions,
            orders,
            campaign.arms,
            facts_of(FEATURES + BASKET_FEATURES),
            horizon,
            ZoneInfo(timezone),
            topic_prefix,
        )
        learned = to_document(fit(FEATURES, BASKET_FEATURES, found, horizon))
        if out is not None:
            write_json(out, learned)
        if publish:
            change = plans.learn(id_, records, learned, int(time.time() * 1000))
            publish_control(bootstrap, topic, {id_.encode(): change.value})
    said = {
        "campaign": id_,
        "decisions": len(found.depth),
        "offered": int((found.depth > 0).sum()),
        "bought": int(found.bought.sum()),
        "redeemed": int(found.redeemed.sum()),
        **{name: learned[name] for name in ("depth_power", "used_anyway", "offset")},
        "published": publish,
    }
    click.echo(json.dumps(said))
