"""`python -m training effect` and `fairness`: what the discounts earned, and who got them."""

from pathlib import Path
from typing import Any

import click

from training.options import Duration, prefix_option, told

# ruff: noqa: PLC0415  numpy's and matplotlib's seconds are spent where they are used

log_option = click.option(
    "--log",
    required=True,
    metavar="SOURCE",
    help="A broker (host:port), or a folder with decisions.jsonl, orders.jsonl and so on (or .jsonl.gz).",
)
out_option = click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for the figures as JSON, and the picture."
)


@click.command(
    epilog="""\b
Examples:
  python -m training effect --log 127.0.0.1:9092 --horizon 7d --out var/effect
  python -m training effect --log var/recorded --margin-rate 0.3
"""
)
@log_option
@click.option("--horizon", type=Duration(), default="7d", show_default=True, help="How long after the first offer.")
@click.option("--margin-rate", type=click.FloatRange(0, 1), help="Of the list price, for orders that tell no cost.")
@click.option(
    "--relevant",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.05,
    show_default=True,
    help="The difference that matters, as a share of the held-out mean: for power, and months to an answer.",
)
@out_option
@prefix_option
def effect(
    log: str, horizon: int, margin_rate: float | None, relevant: float, out: Path | None, topic_prefix: str
) -> None:
    """What campaigns changed, against the users held out.

    In orders, revenue, margin and satisfaction.
    """
    with told():
        from training.effect.outcomes import Margins, exposed
        from training.effect.report import OUTCOMES, effects, picture
        from training.errors import TrainingError
        from training.files import write_json, write_whole
        from training.records import Decision, Feedback, Order, Redemption, read_records

        decisions = read_records(log, topic_prefix, "decisions", Decision, needed=True)
        orders = read_records(log, topic_prefix, "orders", Order, needed=True)
        redemptions = read_records(log, topic_prefix, "redemptions", Redemption, needed=False)
        feedback = read_records(log, topic_prefix, "feedback", Feedback, needed=False)
        users = exposed(decisions, orders, feedback, horizon, Margins(margin_rate))
        if not users:
            raise TrainingError(f"{log}: no decision was offered or held out; nothing can be compared")
        offers_of = {one.decision_id: one.campaign_id for one in decisions if one.campaign_id is not None}
        said = effects(users, redemptions, offers_of, relevant)
        if out is not None:
            drawn = picture(said)
            write_json(out / "effect.json", {"horizon_ms": horizon, "relevant": relevant, "campaigns": said})
            write_whole(out / "effect.png", drawn)
    for campaign, of in said.items():
        count = of["users"]
        click.echo(
            f"{campaign}: {count['offered']} offered, {count['held_out']} held out, {count['too_recent']} too recent; "
            f"{of['redeemed']} redeemed for {of['discount_minor']}"
        )
        for name in OUTCOMES:
            one = of["effect"][name]
            figure = (
                "unknown" if one["value"] is None else f"{one['value']:+.4f} [{one['ci'][0]:+.4f}, {one['ci'][1]:+.4f}]"
            )
            click.echo(f"  {name:<11}{figure}  {one['verdict']}")
        if of["users_without_margin"]:
            text = f"  {of['users_without_margin']} users have orders that tell no cost: say --margin-rate"
            click.echo(text, err=True)


@click.command(
    epilog="""\b
Examples:
  python -m training fairness --log 127.0.0.1:9092 --out var/fairness
  python -m training fairness --log var/recorded --groups audit.csv --parity 0.8
"""
)
@log_option
@click.option(
    "--groups",
    metavar="FILE",
    help="CSV with user_id and group, for an audit by what the stream may not know; else the customers' tier.",
)
@click.option(
    "--parity",
    type=click.FloatRange(0, 1),
    default=0.8,
    show_default=True,
    help="Least ratio of the lowest group to the highest.",
)
@out_option
@prefix_option
def fairness(log: str, groups: str | None, parity: float, out: Path | None, topic_prefix: str) -> None:
    """Offer rate and mean depth by group, against a bound.

    And how far prices of one product lie apart.
    """
    with told():
        from training.effect.fairness import by_group, price_dispersion
        from training.errors import TrainingError
        from training.files import write_json
        from training.records import Customer, Decision, Offer, Order, read_records
        from training.tables import read_table

        decisions = read_records(log, topic_prefix, "decisions", Decision, needed=True)
        offers = read_records(log, topic_prefix, "offers", Offer, needed=True)
        orders = read_records(log, topic_prefix, "orders", Order, needed=False)
        if not decisions:
            raise TrainingError(f"{log}: there are no decisions")
        if groups is not None:
            table = read_table(groups, ("user_id", "group"))
            group_of = dict(zip(table.text("user_id"), table.text("group"), strict=True))
        else:
            customers = read_records(log, topic_prefix, "customers", Customer, needed=False)
            group_of = {one.user_id: one.tier for one in customers if one.tier is not None}
        said: dict[str, Any] = {
            "campaigns": by_group(decisions, offers, group_of, parity),
            "price_dispersion": price_dispersion(orders),
        }
        if out is not None:
            write_json(out / "fairness.json", said)
    for campaign, of in said["campaigns"].items():
        click.echo(f"{campaign}: " + ", ".join(f"{name} {verdict}" for name, verdict in of["verdict"].items()))
        for name, group in of["groups"].items():
            rate, deep = group["offer_rate"]["value"], group["mean_depth"]["value"]
            words = "unknown" if deep is None else f"{deep:.4f}"
            click.echo(f"  {name:<12}{group['users']:>8} users  rate {rate:.4f}  depth {words}")
    for one in said["price_dispersion"][:5]:
        figures = one["share_of_list_price"]
        click.echo(
            f"{one['product_id']}: {one['sales']} sales at {figures['p10']:.3f} to {figures['p90']:.3f} of list price"
        )
