"""`python -m training`: from events to a model that workers take over."""

import json
import os
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from stream.scoring.model import Model
from training import cli_loop, cli_models
from training.effect.cli import effect, fairness
from training.ope.cli import ope
from training.options import CONTEXT, Duration, bootstrap_option, prefix_option, told
from training.report.cli import report
from training.reproduce.cli import reproduce
from training.response.cli import response
from training.segments.cli import segments
from training.share import TF_CONFIG, Share, share_said
from training.show import print_evaluation
from training.source_options import (
    currency_option,
    dask_option,
    events_option,
    format_option,
    model_file,
    processes_option,
    progress_bar,
    read,
    read_built,
)
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
cli.add_command(ope)
cli.add_command(effect)
cli.add_command(fairness)
cli.add_command(report)
cli.add_command(response)
cli.add_command(reproduce)
cli.add_command(segments)


@cli.command(
    epilog="""\b
Examples:
  python -m training run --events 127.0.0.1:9092 --out var/model
  python -m training run --events log.csv.gz --format taobao --out var/model --horizon 1h
  python -m training run --events shop.csv --format mapping.yaml --out var/model --quick
  python -m training run --events var/archive --out var/model --processes 8
  python -m training run --events /mnt/archive --out var/model --dask 10.0.0.1:8786
"""
)
@events_option
@format_option
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for the results.")
@click.option("--horizon", type=Duration(), default="1h", show_default=True, help="How far ahead a purchase counts.")
@click.option("--model", "architecture", default="lstm", show_default=True, help="Which network.")
@click.option("--campaign", help="With --arms: whose randomised decisions say how users respond.")
@click.option(
    "--arms", help='Answer for each of these arms of the campaign: all of them, in order of depth, without "none".'
)
@click.option("--epochs", type=click.IntRange(1, 1_000), help="At most; training stops by itself when it gets worse.")
@click.option("--quick", is_flag=True, help="A few epochs: for demonstrations.")
@click.option("--seed", type=click.IntRange(0, 2**31), default=1, show_default=True, help="Of all that is drawn.")
@click.option(
    "--champion",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The model file to be compared with, on the users kept apart: a gate of its own.",
)
@processes_option
@dask_option
@currency_option
@prefix_option
def run(
    events: str,
    format_: str | None,
    out: Path,
    horizon: int,
    architecture: str,
    campaign: str | None,
    arms: str | None,
    epochs: int | None,
    quick: bool,
    seed: int,
    champion: Path | None,
    processes: int | None,
    dask: str,
    currency: str,
    topic_prefix: str,
) -> None:
    """Train on events; write model.onnx and metrics.json.

    Every event is a decision point, its label a purchase of that user within the horizon. A fifth of the users is kept
    apart and never trained on: the figures are theirs.

    Several machines train one model where TF_CONFIG names them, as TensorFlow has it: start the same command on each.
    """
    console = Console(stderr=True)
    with told():
        best = None if champion is None else model_file(champion)
        asked = _arms(events, format_, topic_prefix, campaign, arms)
        share = share_said(os.environ.get(TF_CONFIG, ""))
        built = read_built(console, events, format_, currency, topic_prefix, horizon, processes, dask)
        _train(console, built, share, architecture, asked, epochs, seed, out, best, quick=quick)


@cli.command(
    epilog="""\b
Examples:
  python -m training ingest --archive var/archive
  python -m training run --events var/archive --out var/model
"""
)
@click.option(
    "--archive", required=True, type=click.Path(path_type=Path, file_okay=False), help="Its folder; made if needed."
)
@bootstrap_option
@prefix_option
def ingest(archive: Path, bootstrap: str, topic_prefix: str) -> None:
    """Write what is new in the topics to a Parquet archive.

    It can be run again at any time, after a kill too: nothing is lost and nothing comes twice. Users whom the topic
    `erasures` names are taken out of the files that are there, and not written to new ones.
    """
    console = Console(stderr=True)
    with told(), progress_bar(console) as progress:
        from training.archive import ingest

        reading = progress.add_task("archiving", total=None)
        found = ingest(
            bootstrap, topic_prefix, archive, lambda done, total: progress.update(reading, completed=done, total=total)
        )
    if found.leftovers:
        console.print(f"{found.leftovers} files of a run that did not end were deleted, and written anew")
    if found.erased:
        console.print(f"{found.erased} records of users who asked to be forgotten were taken out or left out")
    click.echo(f"{found.records} records, {found.files} files")


@cli.command(
    "archive-lines",
    epilog="""\b
Example:
  python -m training archive-lines var/archive > events.jsonl
""",
)
@click.argument("archive", type=click.Path(path_type=Path, file_okay=False))
def archive_lines(archive: Path) -> None:
    """Print the events of an archive as lines of JSON.

    `python -m stream campaigns simulate --format records` reads them.
    """
    from training.archive import record_lines

    with told():
        for line in record_lines(archive):
            click.echo(line)


def _arms(events: str, format_: str | None, topic_prefix: str, campaign: str | None, names: str | None) -> Any:  # noqa: ANN401
    """The `Arms` that are asked for; None where none are.

    Raises:
        click.UsageError: half of it is missing, or a recorded log is to have decisions.
    """
    if (campaign is None) != (names is None):
        raise click.UsageError("--campaign and --arms belong together")
    if campaign is None or names is None:
        return None
    if format_ is not None:
        raise click.UsageError("--arms: a recorded log has no decisions; they are in the topics, or an archive of them")
    from training.arms import Arms
    from training.records import Decision, read_records

    listed = tuple(name.strip() for name in names.split(","))
    if len({"none", "", *listed}) != len(listed) + 2:
        raise click.UsageError(f'--arms {names}: different names, comma-separated, without "none"')
    return Arms(campaign, ("none", *listed), read_records(events, topic_prefix, "decisions", Decision, needed=True))


def _train(
    console: Console,
    built: Any,  # noqa: ANN401  of `read_built`
    share: Share,
    architecture: str,
    arms: Any,  # noqa: ANN401  of `_arms`
    epochs: int | None,
    seed: int,
    out: Path,
    champion: Model | None,
    *,
    quick: bool,
) -> None:
    from training.fit import Epoch, Plan
    from training.models.registry import BUILDERS
    from training.run import make, write

    if architecture not in BUILDERS:
        raise click.UsageError(f"--model {architecture}: known are {', '.join(BUILDERS)}")
    plan = Plan(seed=seed)
    if quick:
        plan = plan._replace(epochs=4, patience=2)
    if epochs is not None:
        plan = plan._replace(epochs=epochs)
    with progress_bar(console) as progress:
        stage = progress.add_task("fitting", total=None)

        def on_epoch(epoch: Epoch) -> None:
            text = f"fitting, log loss {epoch.loss:.4f}, on other users {epoch.valid_loss:.4f}"
            progress.update(stage, description=text, completed=epoch.number, total=plan.epochs)

        def on_stage(name: str) -> None:
            progress.reset(stage, description=name, total=None)

        made = make(built, architecture, plan, on_stage, on_epoch, champion, arms, share=share)
    if share.at > 0:
        click.echo(f"worker {share.at} of {share.of} is done; worker 0 writes", err=True)
        return
    write(made, out)
    _print_metrics(console, made.metrics)
    if "depth" not in made.metrics:
        print_evaluation(console, made.evaluation)
    click.echo(f"{out / 'model.onnx'}  {made.model.hex}")


def _print_metrics(console: Console, metrics: dict[str, Any]) -> None:
    from training.gates import not_passed

    table = Table("on users never seen in training", "")
    shown = {
        **metrics,
        **{name: one["value"] for name, one in metrics.get("depth", {}).items() if isinstance(one, dict)},
    }
    for name in (*("auc", "log_loss", "base_log_loss", "base_rate", "brier"), *("mse", "base_mse", "mae", "r2")):
        if name in shown:
            table.add_row(name.replace("_", " "), f"{shown[name]:.4f}")
    for name in ("test_users", "test_decision_points"):
        table.add_row(name.replace("_", " "), f"{metrics[name]}")
    console.print(table)
    for problem in not_passed(metrics):
        console.print(f"gate not passed: {problem}", style="red")


@cli.command(
    epilog="""\b
Examples:
  python -m training evaluate --model var/model/model.onnx --events log.csv.gz --format taobao --json var/figures.json
  python -m training evaluate --model var/model/model.onnx --events 127.0.0.1:9092 --json -
"""
)
@click.option(
    "--model", "file", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The model file to judge."
)
@events_option
@format_option
@click.option(
    "--json",
    "out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="Where the figures go; - is standard output.",
)
@click.option("--horizon", type=Duration(), help="How far ahead a purchase counts.  [default: the model's own]")
@currency_option
@prefix_option
def evaluate(
    file: Path, events: str, format_: str | None, out: Path, horizon: int | None, currency: str, topic_prefix: str
) -> None:
    """Judge a model on events, beside yardsticks.

    Figures have intervals; the yardsticks are fitted and asked on the same users.

    Users that the model was trained on are left out: `training.npz`, which `run` writes beside the model, knows them.
    """
    console = Console(stderr=True)
    with told():
        model = model_file(file)
        log = read(console, events, format_, currency, topic_prefix)
        from training.dataset import build
        from training.evaluate import evaluation, judge, unseen
        from training.files import write_json
        from training.yardsticks import read_beside

        with progress_bar(console) as progress:
            progress.add_task("judging", total=None)
            kept = read_beside(file.parent / "training.npz", model.hex)
            dataset = unseen(build(log, horizon or model.metadata.horizon_ms), kept)
            found = evaluation(model, judge(model, dataset, kept), kept)
        if str(out) == "-":
            click.echo(json.dumps(found, indent=2))
        else:
            write_json(out, found)
    print_evaluation(console, found)


@cli.command(
    epilog="""\b
Examples:
  python -m training carried --model var/model/model.onnx --events log.csv.gz --format taobao --out var/carried
  python -m training carried --model var/model/model.onnx --events 127.0.0.1:9092 --out var/carried
"""
)
@click.option(
    "--model", "file", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The model file to look at."
)
@events_option
@format_option
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for the results.")
@currency_option
@prefix_option
def carried(file: Path, events: str, format_: str | None, out: Path, currency: str, topic_prefix: str) -> None:
    """Compare scores of carried states with rebuilt ones.

    Rebuilt from the row's last steps, as after a swap. Writes carried.png and carried.json.

    A worker carries a user's state from event to event, and rebuilds it when the model changes.
    """
    console = Console(stderr=True)
    with told():
        model = model_file(file)
        log = read(console, events, format_, currency, topic_prefix)
        from training.carried import compare, picture, said
        from training.dataset import build
        from training.files import write_json, write_whole

        compared = compare(model, build(log, model.metadata.horizon_ms))
        found = said(model, compared)
        write_json(out / "carried.json", found)
        write_whole(out / "carried.png", picture(compared, found))
    click.echo(
        f"{found['steps']} steps after the ring was full: median difference {found['median']:.5f}, "
        f"p99 {found['p99']:.5f}, max {found['max']:.5f}"
    )


cli.add_command(cli_models.publish)
cli.add_command(cli_loop.loop)
cli.add_command(cli_models.models)


def main() -> None:
    """Run the command line."""
    cli()
