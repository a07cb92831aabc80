"""`python -m training loop`."""

import time
from pathlib import Path

import click

from training.options import Duration, bootstrap_option, prefix_option, told
from training.source_options import currency_option

# ruff: noqa: PLC0415  TensorFlow takes five seconds

LOOK_INTERVAL_S = 60.0
"""How often is looked whether workers ask for a successor."""


@click.command(
    epilog="""\b
Examples:
  python -m training loop --archive var/archive --out var/loop --every 6h
  python -m training loop --archive var/archive --out var/loop --once
"""
)
@click.option(
    "--archive", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of the archive."
)
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of the cycles.")
@click.option("--every", type=Duration(), default="6h", show_default=True, help="From the begin of one to the next.")
@click.option("--once", is_flag=True, help="One cycle, then end: exit code 3 where gates were not passed.")
@click.option("--horizon", type=Duration(), default="1h", show_default=True, help="How far ahead a purchase counts.")
@click.option("--model", "architecture", default="lstm", show_default=True, help="Which network.")
@click.option("--epochs", type=click.IntRange(1, 1_000), help="At most; training stops by itself when it gets worse.")
@click.option("--seed", type=click.IntRange(0, 2**31), default=1, show_default=True, help="Of all that is drawn.")
@currency_option
@bootstrap_option
@prefix_option
def loop(
    archive: Path,
    out: Path,
    every: int,
    once: bool,
    horizon: int,
    architecture: str,
    epochs: int | None,
    seed: int,
    currency: str,
    bootstrap: str,
    topic_prefix: str,
) -> None:
    """Archive, train, and publish what passes every gate.

    Over and over. Each cycle starts from the champion's weights where it made them itself. It can be killed at any
    moment and called again: it goes on where it was, with the same inputs. When workers ask for a successor, because of
    drift, it does not wait for its time.
    """
    with told():
        from training.errors import TrainingError
        from training.fit import Plan
        from training.loop import Task, cycle, wanted
        from training.models.registry import BUILDERS

        if architecture not in BUILDERS:
            raise click.UsageError(f"--model {architecture}: known are {', '.join(BUILDERS)}")
        plan = Plan(seed=seed) if epochs is None else Plan(seed=seed, epochs=epochs)
        task = Task(bootstrap, topic_prefix, archive, out, horizon, architecture, plan, currency)
        answered = ""  # the champion that workers asked a successor for: a cycle that made none is not repeated at once
        while True:
            began_s = time.monotonic()
            try:
                outcome = cycle(task, time.time_ns() // 1_000_000, lambda stage: click.echo(f"{stage} ...", err=True))
            except TrainingError as error:
                if once:
                    raise
                click.echo(f"this cycle ends without a model: {error}", err=True)
            else:
                click.echo(
                    f"{outcome.number}  {outcome.sha256}  {'published' if outcome.published else 'not published'}"
                )
                for problem in outcome.problems:
                    click.echo(f"gate not passed: {problem}", err=True)
                if once:
                    raise SystemExit(0 if outcome.published else 3)
            while time.monotonic() - began_s < every / 1000:
                time.sleep(min(LOOK_INTERVAL_S, every / 1000))
                if (asked := wanted(task)) not in {"", answered}:
                    answered = asked
                    click.echo("workers ask for a successor", err=True)
                    break
