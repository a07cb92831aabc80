"""`python -m training publish` and `models`: what workers use, and what is published."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from stream.scoring.model import Model, load
from training.options import CONTEXT, bootstrap_option, prefix_option, told
from training.source_options import currency_option, format_option, model_of, read

if TYPE_CHECKING:
    from training.publish import Register

# ruff: noqa: PLC0415  onnx and confluent-kafka are imported where they are used

SHARE = 0.05
"""Of the users, for a trial."""

role_option = click.option(
    "--as",
    "role",
    type=click.Choice(["champion", "shadow", "canary"]),
    default="champion",
    show_default=True,
    help="It scores alone; or beside the champion, deciding nothing; or for a share of the users.",
)
share_option = click.option(
    "--share",
    type=click.FloatRange(0, 1, min_open=True),
    default=SHARE,
    show_default=True,
    help="Of the users, for shadow and canary.",
)
force_option = click.option(
    "--force", is_flag=True, help="Although gates were not passed. What workers refuse is never published."
)
events_option = click.option(
    "--events",
    metavar="SOURCE",
    help="Compare with the champion on these: a broker, an archive, or with --format a recorded log.",
)


@click.command(
    epilog="""\b
Examples:
  python -m training publish var/model/model.onnx
  python -m training publish var/model/model.onnx --as shadow --share 0.1
  python -m training publish var/model/model.onnx --key var/signing.pem
  python -m training publish large.onnx --uri https://models.example/large.onnx
"""
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@role_option
@share_option
@click.option("--key", type=click.Path(path_type=Path, dir_okay=False), help="Private key to sign with.")
@click.option("--uri", default="", help="Where workers find FILE: for files too large for the topic.")
@force_option
@events_option
@format_option
@currency_option
@bootstrap_option
@prefix_option
def publish(
    file: Path,
    role: str,
    share: float,
    key: Path | None,
    uri: str,
    force: bool,
    events: str | None,
    format_: str | None,
    currency: str,
    bootstrap: str,
    topic_prefix: str,
) -> None:
    """Give FILE to the workers.

    They take it over between two batches. Every gate must be passed, first of all not to be worse than the champion on
    the same data.
    """
    with told():
        from training.publish import Register

        data = file.read_bytes()
        model = model_of(file, data)
        register = Register(bootstrap, topic_prefix + "models")
        _judged(model, register, events, format_, currency, topic_prefix, force=force)
        signed = None
        if key is not None:
            from training.signing import signature

            signed = signature(key, model.hex)
        register.put(data, signed, uri)
        _put_in_force(register, model.hex, role, share)
    click.echo(f"{role}: {model.hex}")


def _put_in_force(register: "Register", sha256_hex: str, role: str, share: float) -> None:
    from stream.scoring.control import Mode

    now_ms = time.time_ns() // 1_000_000
    if role == "champion":
        register.promote(sha256_hex, now_ms)
    else:
        register.try_out(sha256_hex, Mode(role), share, now_ms)


def _judged(
    model: Model,
    register: "Register",
    events: str | None,
    format_: str | None,
    currency: str,
    topic_prefix: str,
    *,
    force: bool,
) -> None:
    """Every gate with its figure on standard error.

    Raises:
        click.ClickException: one was not passed, unless it is forced.
    """
    from training.gates import NOT_WORSE, Gate, gates_here, gates_of, not_passed

    in_force = register.in_force()
    champion = "" if in_force == model.hex else in_force
    found = gates_of(model.metadata.metrics)
    problems = not_passed(model.metadata.metrics, champion)
    if champion and events is not None:
        compared = _compared(model, load(register.file(champion)), events, format_, currency, topic_prefix)
        gate = Gate(NOT_WORSE, compared.log_loss.low, 0.0)
        found = [*(one for one in found if one.name != NOT_WORSE), gate]
        problems = [one for one in problems if not one.startswith(NOT_WORSE)]
        problems += [] if gate.passed else [gate.said]
    here = gates_here(model)
    problems += [gate.said for gate in here if not gate.passed]
    for gate in (*found, *here):
        click.echo(
            f"{'passed' if gate.passed else 'FAILED'}  {gate.name}  {gate.figure:.4g} <= {gate.limit:g}", err=True
        )
    if problems and not force:
        text = "\n".join(["gates not passed, so it is not published (--force does it all the same):", *problems])
        raise click.ClickException(text)


def _compared(model: Model, other: Model, events: str, format_: str | None, currency: str, topic_prefix: str) -> Any:  # noqa: ANN401  training.gates.Against
    from training.dataset import build, split_by_user
    from training.gates import against

    log = read(Console(stderr=True), events, format_, currency, topic_prefix)
    return against(model, other, split_by_user(build(log, other.metadata.horizon_ms)).test)


@click.group(context_settings=CONTEXT)
def models() -> None:
    """What is published, and what is in force."""


@models.command("list", epilog="Example: python -m training models list")
@bootstrap_option
@prefix_option
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def list_(bootstrap: str, topic_prefix: str, as_json: bool) -> None:
    """Every published model: the champion, who is on trial, who was withdrawn and why."""
    with told():
        from training.publish import Register, published, retrain_asked

        register = Register(bootstrap, topic_prefix + "models")
        found, asked = published(register), retrain_asked(register)
    if as_json:
        click.echo(json.dumps([model.said() for model in found], indent=2))
        return
    if not found:
        click.echo("no model is published")
        return
    for model in found:
        metrics = {} if model.metadata is None else model.metadata.metrics
        moment = datetime.fromtimestamp(model.published_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        words = [
            model.role or " " * 8,
            model.sha256[:16],
            moment,
            f"{model.size_bytes} bytes",
            "" if model.metadata is None else model.metadata.architecture,
            f"AUC {metrics['auc']:.4f}" if "auc" in metrics else "",
            f"withdrawn, {model.withdrawn}" if model.withdrawn else "",
            model.problem,
        ]
        click.echo("  ".join(word for word in words if word))
    if asked is not None:
        moved = ", ".join(f"{name} {psi:.2f}" for name, psi in asked.psi.items())
        click.echo(f"workers ask for a successor of the champion: PSI {moved}")


@models.command(
    epilog="""\b
Examples:
  python -m training models show champion
  python -m training models show var/model/model.onnx
"""
)
@click.argument("model")
@bootstrap_option
@prefix_option
def show(model: str, bootstrap: str, topic_prefix: str) -> None:
    """What MODEL says of itself, as JSON.

    MODEL is a file, the beginning of a SHA-256, `champion` or `challenger`.
    """
    with told():
        from training.publish import Register, of_file, published

        if Path(model).is_file():
            found = of_file(Path(model).read_bytes())
        else:
            register = Register(bootstrap, topic_prefix + "models")
            sha256_hex = register.find(model)
            (found,) = (one for one in published(register) if one.sha256 == sha256_hex)
    click.echo(json.dumps(found.said(), indent=2))


@models.command(
    epilog="""\b
Examples:
  python -m training models compare var/model/model.onnx champion --events var/archive
  python -m training models compare challenger champion --events log.csv.gz --format taobao
"""
)
@click.argument("model")
@click.argument("other")
@click.option(
    "--events", required=True, metavar="SOURCE", help="A broker, an archive, or with --format a recorded log."
)
@format_option
@currency_option
@bootstrap_option
@prefix_option
def compare(
    model: str, other: str, events: str, format_: str | None, currency: str, bootstrap: str, topic_prefix: str
) -> None:
    """MODEL beside OTHER on the same users, whom neither was trained on: differences with 95 % intervals, as JSON."""
    with told():
        from training.gates import score_us
        from training.publish import Register, file_or_published

        register = Register(bootstrap, topic_prefix + "models")
        ours, theirs = (load(file_or_published(name, register)) for name in (model, other))
        compared = _compared(ours, theirs, events, format_, currency, topic_prefix)
    said = {
        "model": ours.hex,
        "other": theirs.hex,
        "log_loss_difference": compared.log_loss.said(),
        "auc_difference": compared.auc.said(),
        "score_us": [round(score_us(one), 3) for one in (ours, theirs)],
    }
    click.echo(json.dumps(said, indent=2))


@models.command(
    epilog="""\b
Examples:
  python -m training models promote challenger
  python -m training models promote 3f2a --events var/archive
  python -m training models promote 3f2a --as canary --share 0.2
"""
)
@click.argument("model")
@role_option
@share_option
@force_option
@events_option
@format_option
@currency_option
@bootstrap_option
@prefix_option
def promote(
    model: str,
    role: str,
    share: float,
    force: bool,
    events: str | None,
    format_: str | None,
    currency: str,
    bootstrap: str,
    topic_prefix: str,
) -> None:
    """Make a published MODEL the champion, or change its trial; the gates are those of `publish`.

    MODEL is the beginning of a SHA-256, or `challenger`. One that was withdrawn may be promoted again.
    """
    with told():
        from training.publish import Register

        register = Register(bootstrap, topic_prefix + "models")
        sha256_hex = register.find(model)
        found = load(register.file(sha256_hex))
        _judged(found, register, events, format_, currency, topic_prefix, force=force)
        _put_in_force(register, sha256_hex, role, share)
    click.echo(f"{role}: {sha256_hex}")


@models.command(
    epilog="""\b
Examples:
  python -m training models rollback
  python -m training models rollback --trial
"""
)
@click.option("--trial", is_flag=True, help="End the challenger's trial; the champion stays.")
@bootstrap_option
@prefix_option
def rollback(trial: bool, bootstrap: str, topic_prefix: str) -> None:
    """Take the champion out of force: the one before it scores again, within a second."""
    with told():
        from training.publish import Register

        register = Register(bootstrap, topic_prefix + "models")
        if trial:
            register.end_trial()
            click.echo("nobody is on trial")
            return
        sha256_hex = register.roll_back(time.time_ns() // 1_000_000)
    click.echo(f"champion: {sha256_hex}")


@models.command(epilog="Example: python -m training models keygen var/signing.pem")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def keygen(file: Path) -> None:
    """Make a key to sign models with: the private one goes to FILE, the public one, for workers, is shown."""
    with told():
        from training.signing import make_key

        public = make_key(file)
    click.echo(f"OFFERSTREAM_MODEL_KEY={public}")
