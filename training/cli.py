"""`python -m training`: from events to a model that workers take over."""

import json
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from stream.scoring.model import load
from training.options import CONTEXT, Duration, bootstrap_option, prefix_option, told
from training.uplift.cli import uplift

# ruff: noqa: PLC0415  TensorFlow takes five seconds: what needs it, or onnx, is imported where it is used


@click.group(
    context_settings=CONTEXT,
    epilog="""\b
Examples:
  python -m training run --events 127.0.0.1:9092 --out var/model
  python -m training run --events log.csv.gz --format taobao --out var/model
  python -m training publish var/model/model.onnx
  python -m training models list
""",
)
@click.version_option(package_name="offerstream")
def cli() -> None:
    """Make models from events, and hand them to the workers."""


cli.add_command(uplift)


@cli.command(
    epilog="""\b
Examples:
  python -m training run --events 127.0.0.1:9092 --out var/model
  python -m training run --events log.csv.gz --format taobao --out var/model --horizon 1h
  python -m training run --events shop.csv --format mapping.yaml --out var/model --quick
"""
)
@click.option(
    "--events", required=True, metavar="SOURCE", help="A broker (host:port), or with --format a recorded log."
)
@click.option("--format", "format_", metavar="NAME", help="Of the recorded log; or the path of a mapping file (.yaml).")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for the results.")
@click.option("--horizon", type=Duration(), default="1h", show_default=True, help="How far ahead a purchase counts.")
@click.option("--model", "architecture", default="lstm", show_default=True, help="Which network.")
@click.option("--epochs", type=click.IntRange(1, 1_000), help="At most; training stops by itself when it gets worse.")
@click.option("--quick", is_flag=True, help="A few epochs: for demonstrations.")
@click.option("--seed", type=click.IntRange(0, 2**31), default=1, show_default=True, help="Of all that is drawn.")
@click.option("--currency", envvar="OFFERSTREAM_CURRENCY", default="", help="Of amounts (OFFERSTREAM_CURRENCY).")
@prefix_option
def run(
    events: str,
    format_: str | None,
    out: Path,
    horizon: int,
    architecture: str,
    epochs: int | None,
    quick: bool,
    seed: int,
    currency: str,
    topic_prefix: str,
) -> None:
    """Train on events; write model.onnx and metrics.json.

    Every event is a decision point, its label a purchase of that user within the horizon. A fifth of the users is kept
    apart and never trained on: the figures are theirs.
    """
    console = Console(stderr=True)
    with told():
        from training.sources import read_file, read_topics

        if format_ is None and not _is_broker(events):
            what = (
                "a file: say what it is by --format"
                if Path(events).exists()
                else "neither a file nor a broker (host:port)"
            )
            raise click.UsageError(f"--events {events} is {what}")
        with _progress(console) as progress:
            reading = progress.add_task("reading", total=None)

            def advanced(done: int, total: int) -> None:
                progress.update(reading, completed=done, total=total or None)

            if format_ is None:
                log, counts = read_topics(events, topic_prefix, currency, advanced)
            else:
                log, counts = read_file(events, format_, currency, advanced)
        console.print(
            f"{counts.events} events of {len(log.users)} users; {counts.dead} refused, {counts.broken} broken lines, "
            f"{counts.left_out} left out"
        )
        if counts.first_problem:
            console.print(f"the first that was not usable: {counts.first_problem}", style="yellow", markup=False)
        _train(console, log, horizon, architecture, epochs, seed, out, quick=quick)


def _train(
    console: Console,
    log: Any,  # noqa: ANN401
    horizon_ms: int,
    architecture: str,
    epochs: int | None,
    seed: int,
    out: Path,
    *,
    quick: bool,
) -> None:
    from training.errors import TrainingError

    if not len(log.events):
        raise TrainingError("there are no events to learn from")
    from training.fit import Epoch, Plan
    from training.models.registry import BUILDERS
    from training.run import make, write

    if architecture not in BUILDERS:
        raise click.UsageError(f"--model {architecture}: known are {', '.join(BUILDERS)}")
    plan = Plan(seed=seed)
    if quick:
        plan = plan._replace(epochs=8, patience=2)
    if epochs is not None:
        plan = plan._replace(epochs=epochs)
    with _progress(console) as progress:
        stage = progress.add_task("absorbing", total=None)

        def on_epoch(epoch: Epoch) -> None:
            text = f"fitting, log loss {epoch.loss:.4f}, on other users {epoch.valid_loss:.4f}"
            progress.update(stage, description=text, completed=epoch.number, total=plan.epochs)

        def on_stage(name: str) -> None:
            progress.reset(stage, description=name, total=None)

        made = make(log, horizon_ms, architecture, plan, on_stage, on_epoch)
    write(made, out)
    _print_metrics(console, made.metrics)
    click.echo(f"{out / 'model.onnx'}  {made.model.hex}")


def _print_metrics(console: Console, metrics: dict[str, Any]) -> None:
    table = Table("on users never seen in training", "")
    for name in ("auc", "log_loss", "base_log_loss", "base_rate", "brier", "test_users", "test_decision_points"):
        value = metrics[name]
        table.add_row(name.replace("_", " "), f"{value:.4f}" if isinstance(value, float) else f"{value}")
    console.print(table)
    for gate in metrics["gates"]:
        if not gate["passed"]:
            console.print(f"gate not passed: {gate['name']}: {gate['figure']:g}, limit {gate['limit']:g}", style="red")


@cli.command(
    epilog="""\b
Examples:
  python -m training publish var/model/model.onnx
  python -m training publish var/model/model.onnx --force
"""
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--force", is_flag=True, help="Publish although gates were not passed. What workers refuse is never published."
)
@bootstrap_option
@prefix_option
def publish(file: Path, force: bool, bootstrap: str, topic_prefix: str) -> None:
    """Make FILE the model that every worker uses; they take it over between two batches."""
    with told():
        from training.gates import not_passed
        from training.publish import publish_champion

        data = file.read_bytes()
        model = load(data)
        problems = not_passed(model.metadata.metrics)
        if problems and not force:
            text = "\n".join(["gates not passed, so it is not published (--force does it all the same):", *problems])
            raise click.ClickException(text)
        publish_champion(bootstrap, topic_prefix + "models", data, int(time.time() * 1000))
    click.echo(f"champion: {model.hex}")


@cli.group(context_settings=CONTEXT)
def models() -> None:
    """What is published."""


@models.command("list", epilog="Example: python -m training models list")
@bootstrap_option
@prefix_option
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def list_(bootstrap: str, topic_prefix: str, as_json: bool) -> None:
    """Every published model, the champion marked."""
    with told():
        from training.publish import published

        found = published(bootstrap, topic_prefix + "models")
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
            "champion" if model.champion else " " * 8,
            model.sha256[:16],
            moment,
            f"{model.size_bytes} bytes",
            "" if model.metadata is None else model.metadata.architecture,
            f"AUC {metrics['auc']:.4f}" if "auc" in metrics else "",
            model.problem,
        ]
        click.echo("  ".join(words).rstrip())


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
    """What MODEL says of itself, as JSON; MODEL is a file, the beginning of a SHA-256, or `champion`."""
    with told():
        from training.publish import of_file, published

        if Path(model).is_file():
            found = [of_file(Path(model).read_bytes())]
        else:
            known = published(bootstrap, topic_prefix + "models")
            found = [one for one in known if (one.champion if model == "champion" else one.sha256.startswith(model))]
        if len(found) != 1:
            raise click.ClickException(f"{model}: {len(found)} published models of that name; see `models list`")
    click.echo(json.dumps(found[0].said(), indent=2))


def _is_broker(text: str) -> bool:
    return all(re.fullmatch(r"[^\s:/,]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", part.strip()) for part in text.split(","))


def _progress(console: Console) -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console)


def main() -> None:
    """Run the command line."""
    cli()
