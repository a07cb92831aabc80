"""`python -m training uplift`: whom to give what, learned from randomised trials."""

from pathlib import Path
from typing import Any

import click

from training.options import CONTEXT, told

# ruff: noqa: PLC0415  scikit-learn takes seconds: it is imported where it is used

FORMATS = ("hillstrom", "starbucks")

data_option = click.option(
    "--data", required=True, metavar="FILE", help="The trial's CSV file, plain or .gz; `-` is standard input."
)
format_option = click.option("--format", "format_", required=True, type=click.Choice(FORMATS), help="What FILE is.")
seed_option = click.option(
    "--seed", type=click.IntRange(0, 2**31), default=1, show_default=True, help="Of folds and of whatever is drawn."
)
json_option = click.option(
    "--json", "out", type=click.Path(path_type=Path, dir_okay=False), help="Write all figures there, as JSON."
)


@click.group(
    context_settings=CONTEXT,
    epilog="""\b
Examples:
  python -m training uplift fit --data trial.csv.gz --format starbucks --out var/uplift
  python -m training uplift evaluate --model var/uplift --data unseen.csv.gz --format starbucks --json var/uplift.json
  python -m training uplift crossfit --data trial.csv.gz --format starbucks --folds 3
""",
)
def uplift() -> None:
    """Whom to give what: models of what an offer changes.

    Learned and judged on randomised trials.
    """


@uplift.command(epilog="Example: python -m training uplift fit --data trial.csv.gz --format starbucks --out var/uplift")
@data_option
@format_option
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for the model.")
@seed_option
def fit(data: str, format_: str, out: Path, seed: int) -> None:
    """Choose among S-, T-, X- and class-transformation learners by cross-validation on FILE alone; write the model."""
    with told():
        from training.uplift.model import fit as learn
        from training.uplift.store import save
        from training.uplift.trial import read_trial

        trial = read_trial(data, format_)
        model, candidates = learn(trial, seed)
        save(model, candidates, len(trial), out)
    click.echo("money gained a customer over nobody, out of fold:")
    for one in candidates:
        mark = "*" if any((part.learner, part.base) == (one.learner, one.base) for part in model.parts) else " "
        click.echo(f"{mark} {one.learner:<6} {one.base:<8} {one.gain:9.4f} +- {one.gain_se:.4f}")
    click.echo(f"* averaged into the model: {out}")


@uplift.command(
    epilog="""\b
Example:
  python -m training uplift evaluate --model var/uplift --data unseen.csv.gz --format starbucks --json var/uplift.json
"""
)
@click.option(
    "--model", required=True, type=click.Path(path_type=Path, file_okay=False), help="The folder that `fit` wrote."
)
@data_option
@format_option
@json_option
def evaluate(model: Path, data: str, format_: str, out: Path | None) -> None:
    """Judge a model on rows that it has not seen: Qini, AUUC, uplift at the top, and the money of its decisions."""
    with told():
        from training.files import write_json
        from training.uplift.evaluate import evaluate as judge
        from training.uplift.evaluate import predict
        from training.uplift.store import load
        from training.uplift.trial import read_trial

        made = load(model)
        trial = read_trial(data, format_)
        said = judge(trial, predict(made, trial), made.everybody)
        if out is not None:
            write_json(out, said)
    _print(said)


@uplift.command(epilog="Example: python -m training uplift crossfit --data trial.csv.gz --format starbucks --folds 3")
@data_option
@format_option
@click.option("--folds", type=click.IntRange(2, 20), default=3, show_default=True, help="Parts, each left out once.")
@seed_option
@json_option
def crossfit(data: str, format_: str, folds: int, seed: int, out: Path | None) -> None:
    """Judge the way of learning: each part of FILE by a model that was chosen and fitted on the other parts alone."""
    with told():
        from training.files import write_json
        from training.uplift.crossfit import crossfit as run
        from training.uplift.evaluate import evaluate as judge
        from training.uplift.trial import read_trial

        trial = read_trial(data, format_)
        predicted, everybody = run(trial, folds, seed)
        said = {**judge(trial, predicted, everybody), "folds": folds}
        if out is not None:
            write_json(out, said)
    _print(said)


def _print(said: dict[str, Any]) -> None:
    names = ("qini", "auuc", "uplift_at_10", "uplift_at_30", "policy_value", "over_none", "over_everybody")
    click.echo(f"{said['customers']} customers, outcome: {said['outcome']}; 95 % intervals")
    for name in (*names, "net_incremental_revenue"):
        click.echo(f"{name:<24}{_words(said[name])}")
    for name, rival in said["rivals"].items():
        click.echo(f"{name:<24}{_words(rival['net_incremental_revenue'])}  net_incremental_revenue of the rival")
    click.echo(f"{'promoted_share':<24}{said['promoted_share']:12.4f}")


def _words(figure: dict[str, Any]) -> str:
    if figure["value"] is None:
        return f"{'unknown':>12}"
    low, high = figure["ci"]
    return f"{figure['value']:12.4f}  [{low:.4f}, {high:.4f}]"
