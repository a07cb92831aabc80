"""`python -m stream why`: one decision, made again."""

import json
import sys
from typing import Any

import click

from stream.campaigns.control import Shop
from stream.campaigns.evidence import find_decision, read_control_log, read_histories
from stream.campaigns.options import currency_option, target_options, timezone_option
from stream.campaigns.why import Why, why
from stream.core.events import SOURCES
from stream.kafka.topics import Topics
from stream.settings import from_environment

DIFFERS = 1
UNKNOWN = 2


@click.command("why", epilog="Example: python -m stream why 5f0c2a9e77d14b1c8e1d3a4b5c6d7e8f")
@click.argument("offer_id")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@currency_option
@timezone_option
@target_options
def why_command(offer_id: str, as_json: bool, currency: str, timezone: str, bootstrap: str, topic_prefix: str) -> None:
    """Why the offer OFFER_ID was made: replays its user's events and makes the decision again.

    Any logged decision will do, also one for none. Exit code 0: it is reproduced; 1: it is not, and what differs is
    said; 2: it cannot be told, since the decision, its model or its campaign are not in the topics any more.
    """
    with Topics(bootstrap) as topics:
        found = find_decision(topics, topic_prefix, offer_id)
        if found is None:
            click.echo(f"{offer_id}: no decision of this id in the topic {topic_prefix}decisions", err=True)
            sys.exit(UNKNOWN)
        user, partition = found
        (history,) = read_histories(topics, topic_prefix, partition, frozenset([user])).values()
        control = read_control_log(topics, topic_prefix, Shop(timezone, currency))
    (decision,) = (one for one in history.decisions.values() if one["decision_id"] == offer_id)
    sources = {topic_prefix + source: source for source in SOURCES}
    try:
        answer = why(decision, history, control, sources, currency, from_environment().offer_max_age_ms)
    except LookupError as error:
        click.echo(f"{offer_id}: {error.args[0]}", err=True)
        sys.exit(UNKNOWN)
    if as_json:
        click.echo(json.dumps(as_document(answer)))
    else:
        _show(answer)
    if answer.differences:
        sys.exit(DIFFERS)


def as_document(answer: Why) -> dict[str, Any]:
    """What --json prints."""
    decision = answer.decision
    return {
        "decision_id": decision["decision_id"],
        "user_id": decision["user_id"],
        "reproduced": not answer.differences,
        "differences": answer.differences,
        "events_replayed": answer.n_events,
        "trigger": decision["trigger"],
        "time_ms": decision["time_ms"],
        "model": decision["model"],
        "dual_price": decision["dual_price"],
        "draw": decision["draw"],
        "decision": answer.again.told,
        "arms": answer.again.arms,
        "asked": answer.again.asked,
    }


def _show(answer: Why) -> None:
    decision, told = answer.decision, answer.again.told
    trigger = decision["trigger"]
    click.echo(f"decision {decision['decision_id']} for the user {decision['user_id']}")
    click.echo(
        f"  trigger: {trigger['kind']} at offset {trigger['offset']} of {trigger['topic']}[{trigger['partition']}]"
    )
    click.echo(f"  {answer.n_events:,} events replayed; model {decision['model'][:12] or 'none'}")
    if told:
        price, draw = f"lambda {decision['dual_price']:g}", f"draw {decision['draw']:.6f}"
        click.echo(f"  P(purchase) without an offer: {told['score']}; {price}; {draw}")
        chosen = f"campaign {told['campaign_id']}, arm {told['arm']}, propensity {told['propensity']:g}"
        click.echo(f"  {told['reason']}: {chosen}")
    for arm in answer.again.arms:
        values = ", ".join(f"{name} {value:.6g}" for name, value in arm.items() if name not in ("arm", "chosen"))
        by_policy = " (the policy's choice)" if arm["chosen"] else ""
        click.echo(f"    arm {arm['arm']}{by_policy}{': ' + values if values else ''}")
    for one in answer.again.asked:
        click.echo(f"    asked: {one['campaign_id']}: {one['reason']}")
    click.echo("  reproduced" if not answer.differences else "  NOT reproduced: " + "; ".join(answer.differences))
