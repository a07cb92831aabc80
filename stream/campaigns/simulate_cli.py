"""`python -m stream campaigns simulate`."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from stream.campaigns.control import Shop, compile_campaigns
from stream.campaigns.logs import RECORDS, TOPICS, read_file, read_topics
from stream.campaigns.options import (
    INVALID,
    currency_option,
    files_argument,
    load_documents,
    target_options,
    timezone_option,
)
from stream.campaigns.simulate import report
from stream.campaigns.simulate import simulate as run
from stream.core.response import Response, from_document
from stream.errors import OfferstreamError, SettingsError
from stream.kafka.control import InForce
from stream.scoring.artefact import ModelRefused
from stream.scoring.model import Model, load
from stream.scoring.scorer import scored_by
from stream.shop.formats import FORMATS

_file = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@files_argument
@click.option(
    "--events", required=True, help=f"A recorded log (plain or .gz; - is standard input), or `{TOPICS}`: the broker's."
)
@click.option(
    "--format", "format_", default="", help=f"Of the log: {', '.join(FORMATS)}, {RECORDS}, or a mapping file (*.yaml)."
)
@click.option("--model", "model_file", type=_file, help="An ONNX file: what policies score with; default none.")
@click.option(
    "--learned", "learned_file", type=_file, help="A learned response (JSON): the profit policy, and effects."
)
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the result there.")
@currency_option
@timezone_option
@target_options
def simulate(
    files: tuple[Path, ...],
    events: str,
    format_: str,
    model_file: Path | None,
    learned_file: Path | None,
    json_path: Path | None,
    currency: str,
    timezone: str,
    bootstrap: str,
    topic_prefix: str,
) -> None:
    """Run campaigns over recorded events with the stream's own code; nobody is given anything.

    Tells offers, what they would have cost had they changed nothing, and what they would have to change to pay, or,
    with a learned response, what is expected. Paused campaigns are run too, and dry runs as if they were live. The
    events are held in memory, some 200 bytes each.
    """
    documents = [document | {"state": "active"} for document in load_documents(files, currency)]
    try:
        model = _model(model_file)
        learned = _learned(learned_file)
        if events == TOPICS:
            read = read_topics(bootstrap, topic_prefix, currency)
        else:
            if events != "-" and not Path(events).is_file():
                raise SettingsError(f"--events {events}: no such file")
            read = read_file(events, format_, currency)
    except OfferstreamError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        raise click.ClickException(str(error)) from error
    records = {
        document["id"]: json.dumps(document | ({"learned": learned[0]} if learned else {})).encode()
        for document in documents
    }
    compiled, _ = compile_campaigns(records, Shop(timezone, currency))
    in_force = InForce(scored_by(model), compiled)
    found = run(read.log, in_force, learned[1] if learned else None)
    result = report(read.log, in_force, found) | {"broken": read.broken, "refused": read.refused, "currency": currency}
    _show(result)
    if json_path:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    if read.cut or not len(read.log.events):
        none = "no event could be read: is this the right format? See docs/replay.md"
        click.echo(read.cut or ("the topics hold no event" if events == TOPICS else none), err=True)
        sys.exit(1)


def _model(file: Path | None) -> Model | None:
    if file is None:
        return None
    try:
        return load(file.read_bytes())
    except ModelRefused as error:
        click.echo(f"{file}: {error}", err=True)
        sys.exit(INVALID)


def _learned(file: Path | None) -> tuple[Mapping[str, object], Response] | None:
    if file is None:
        return None
    try:
        document = json.loads(file.read_bytes())
        return document, from_document(document)
    except (ValueError, KeyError, TypeError) as error:
        click.echo(f"{file}: no learned response: {error}", err=True)
        sys.exit(INVALID)


def _show(result: Mapping[str, Any]) -> None:
    """The result for people."""

    def money(minor: float) -> str:
        return f"{minor / 100:,.2f} {result['currency']}"

    click.echo(
        f"{result['events']:,} events of {result['users']:,} users, {result['triggers']:,} triggers; "
        f"broken lines {result['broken']:,}, refused {result['refused']:,}"
    )
    for one in result["campaigns"]:
        cost, effect = one["cost"], one["effect"]
        click.echo(f"{one['id']}: {one['offers']:,} offers to {one['users']:,} users")
        click.echo(f"  arms: {', '.join(f'{arm} {n:,}' for arm, n in one['arms'].items()) or 'none'}")
        click.echo(f"  decisions: {', '.join(f'{reason} {n:,}' for reason, n in one['decisions'].items()) or 'none'}")
        most = "not bounded" if cost["most_minor"] is None else money(cost["most_minor"])
        used = f"{money(cost['if_nothing_changes_minor'])} on {cost['used']:,} orders"
        click.echo(f"  cost had they changed nothing: {used}; at most: {most}")
        click.echo(f"  {_effect_text(effect, money)}")


def _effect_text(effect: Mapping[str, Any], money: Callable[[float], str]) -> str:
    if "expected_orders" in effect:
        revenue, cost = money(effect["expected_revenue_minor"]), money(effect["expected_cost_minor"])
        text = f"expected: {effect['expected_orders']:,.1f} more orders, revenue {revenue}, cost {cost}"
        margin = effect["expected_margin_minor"]
        return text if margin is None else f"{text}, margin less cost {money(margin)}"
    if effect["break_even_orders"] is None:
        return f"to break even: not known: {effect['because']}"
    return f"to break even: {effect['break_even_orders']:,} more orders, {effect['break_even_share']:.1%} of the offers"
