"""`python -m stream explain`: why a score is what it is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from stream.core.row import N_STEPS, unpack
from stream.errors import SetupError
from stream.explain.shapley import Explained, Steps, background, by_group, by_step
from stream.explain.words import groups_said, picture, step_said, steps_said
from stream.kafka.admin import settings_from, settings_options
from stream.kafka.partitioner import partitions
from stream.kafka.topics import Topics, read_control
from stream.scoring.artefact import PURCHASE, ModelRefused
from stream.scoring.control import candidates
from stream.scoring.files import file_of
from stream.scoring.model import Model, load
from stream.settings import Settings

out_option = click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the picture there, PNG."
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")


@click.group(
    epilog="""\b
Examples:
  python -m stream explain user user-17 --out user-17.png
  python -m stream explain offer 5f0c2a9e77d14b1c8e1d3a4b5c6d7e8f
""",
)
def explain() -> None:
    """Why a score is what it is: Shapley values of feature groups and of the last events, in words and as a picture."""


@explain.command(epilog="Example: python -m stream explain user user-17 --out user-17.png")
@click.argument("user")
@out_option
@json_option
@settings_options
def user(user: str, out: Path | None, *, as_json: bool, bootstrap: str | None, topic_prefix: str | None) -> None:
    """The score of USER after the latest event, by the model in force."""
    settings = settings_from(bootstrap=bootstrap, topic_prefix=topic_prefix)
    steps, _ = _ring(settings, user)
    _tell(f"user {user}", _model(settings, ""), steps, [f"latest event: {step_said(steps[-1])}"], out, as_json=as_json)


@explain.command(epilog="Example: python -m stream explain offer 5f0c2a9e77d14b1c8e1d3a4b5c6d7e8f")
@click.argument("offer_id")
@out_option
@json_option
@settings_options
def offer(offer_id: str, out: Path | None, *, as_json: bool, bootstrap: str | None, topic_prefix: str | None) -> None:
    """The score that the decision of OFFER_ID was taken by, by the model that said it."""
    settings = settings_from(bootstrap=bootstrap, topic_prefix=topic_prefix)
    decision = _record(settings, "decisions", lambda said: said.get("decision_id") == offer_id)
    if decision is None:
        raise SetupError(f"no decision {offer_id} in {settings.topic('decisions')}: mistyped, or deleted by retention")
    made = _record(settings, "offers", lambda said: said.get("offer_id") == offer_id and "reasons" in said)
    if not decision["model"]:
        raise SetupError(f"decision {offer_id} was taken without a model: {decision['reason']}")
    ring, seq = _ring(settings, decision["user_id"])
    since = seq - int(decision["row_seq"])
    if not 0 <= since < len(ring):
        text = (
            f"{decision['user_id']} has had {since} events since; the row keeps {N_STEPS}: what was known then is gone"
        )
        raise SetupError(text)
    steps = ring[: len(ring) - since]
    if steps[-1].tobytes().hex() != decision["step"]:
        raise SetupError(f"the row of {decision['user_id']} holds another step than the decision: it was begun anew")
    lines = [
        f"user {decision['user_id']}, campaign {decision['campaign_id']}, arm {decision['arm']}: {decision['reason']}",
        *([] if made is None else [f"reason codes: {', '.join(made['reasons'])}"]),
        f"trigger: {step_said(steps[-1])}",
        f"score then, from the state carried: {100 * decision['score']:.2f} %",
        f"below from the {len(steps)} events up to then that are still kept:",
    ]
    _tell(f"offer {offer_id}", _model(settings, decision["model"]), steps, lines, out, as_json=as_json)


def _tell(title: str, model: Model, steps: Steps, lines: list[str], out: Path | None, *, as_json: bool) -> None:
    groups = by_group(model, steps, background(model))
    last = by_step(model, steps) if len(steps) > 1 else None
    if out is not None:
        out.write_bytes(picture(title, groups, last))
    if as_json:
        said = {"model": model.hex, "groups": _as_json(groups), "steps": None if last is None else _as_json(last)}
        click.echo(json.dumps({"title": title, "about": lines, **said}, indent=2))
        return
    hours = model.metadata.horizon_ms / 3_600_000
    click.echo(f"{title}; model {model.hex[:12]}: P(purchase within {hours:g} h)")
    for line in [*lines, *groups_said(groups), *([] if last is None else steps_said(last, steps))]:
        click.echo(line)


def _as_json(found: Explained) -> dict[str, Any]:
    values = dict(zip(found.names, found.values.tolist(), strict=True))
    return {"base": found.base, "score": found.score, "values": values}


def _ring(settings: Settings, user: str) -> tuple[Steps, int]:
    """A user's steps, oldest first, and how many there have been."""
    key = user.encode()
    packed: bytes | None = None
    with Topics(settings.bootstrap) as topics:
        n = topics.partitions([settings.changelog])[settings.changelog]
        home = int(partitions([key], n)[0])
        for _, records in topics.read([(settings.changelog, home)]):
            for record in records:
                if record.key == key:
                    packed = record.value
    if packed is None:
        raise SetupError(f"no row of user {user} in {settings.changelog}")
    row = unpack([packed])[0]
    held, at = int(row["step_count"]), int(row["step_pos"])
    if not held:
        raise SetupError(f"user {user} has had no event of the kinds that are scored")
    places = (at - held + np.arange(held)) % N_STEPS
    return row["steps"][places].copy(), int(row["seq"])


def _record(settings: Settings, topic: str, is_it: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
    with Topics(settings.bootstrap) as topics:
        for _, records in topics.read(topics.places([settings.topic(topic)])):
            for record in records:
                said = json.loads(record.value) if record.value else {}
                if is_it(said):
                    return dict(said)
    return None


def _model(settings: Settings, sha256_hex: str) -> Model:
    """The model of a SHA-256, "" the champion.

    Raises:
        SetupError: it is not published, or no longer.
    """
    latest = read_control(settings.bootstrap, settings.topic("models"))
    records = {key: record.value for key, record in latest.items() if record.value is not None}
    try:
        if not sha256_hex:
            fit = candidates(records)
            if not fit:
                raise SetupError("no model is in force: python -m training publish FILE")
            sha256_hex = fit[0]
        model = load(file_of(records, sha256_hex))
    except ModelRefused as refused:
        raise SetupError(f"model {sha256_hex[:12]}: {refused.text}") from refused
    if model.metadata.answers != PURCHASE:
        raise SetupError(
            f"model {model.hex[:12]} answers with a {model.metadata.answers}, no probability of a purchase"
        )
    return model
