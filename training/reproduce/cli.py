"""`python -m training reproduce`: two published results, made again and judged on what was kept apart."""

from pathlib import Path
from typing import Any

import click

from training.options import CONTEXT, told

# ruff: noqa: PLC0415  TensorFlow, scikit-learn and matplotlib take seconds: they are imported where they are used

out_option = click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for the figures as JSON, and the picture."
)


@click.group(
    context_settings=CONTEXT,
    epilog="""\b
Examples:
  python -m training reproduce lstm --out var/reproduce
  python -m training reproduce logistic --data online_shoppers_intention.csv --out var/reproduce
""",
)
def reproduce() -> None:
    """Published results made again.

    Beside what they leave out: the loss of the mean, the majority's accuracy.
    """


@reproduce.command(epilog="Example: python -m training reproduce lstm --out var/reproduce")
@click.option("--seed", type=click.IntRange(0, 2**31), default=42, show_default=True, help="Of users and weights.")
@out_option
def lstm(seed: int, out: Path | None) -> None:
    """LSTM(50) and Dense(1) on 100 drawn users and 10 standardised features: at which discount does each buy?"""
    with told():
        from training.reproduce.lstm import draw_users
        from training.reproduce.lstm import reproduce as made
        from training.reproduce.pictures import lstm_picture

        found = made(draw_users(seed), seed)
        if out is not None:
            _write(out, "lstm", found.figures, lstm_picture(found))
    said = found.figures
    click.echo(
        f"target: {said['target']}; {said['users']['train']} users to train on, {said['users']['test']} kept apart"
    )
    click.echo(f"loss (mean squared error) on those kept apart: {said['loss']:.4f}")
    click.echo(f"published:                                     {said['published_loss']:.4f}")
    click.echo(f"of saying the training users' mean:            {said['loss_of_the_mean']:.4f}")
    click.echo(f"mean error: {100 * said['mean_error_depth']:.1f} percentage points of discount")


@reproduce.command(epilog="Example: python -m training reproduce logistic --data online_shoppers_intention.csv")
@click.option(
    "--data",
    required=True,
    metavar="FILE",
    help="Online Shoppers Purchasing Intention, UCI 468, CSV, plain or .gz; `-` is standard input.",
)
@out_option
def logistic(data: str, out: Path | None) -> None:
    """Logistic regression by gradient descent: who buys, from activity, purchase frequency and preference."""
    with told():
        from training.reproduce.logistic import read_sessions
        from training.reproduce.logistic import reproduce as made
        from training.reproduce.pictures import discount_scatter

        sessions = read_sessions(data)
        found = made(sessions)
        if out is not None:
            _write(out, "logistic", found.figures, discount_scatter(sessions, found))
    said = found.figures
    click.echo(f"{said['sessions']['train']} sessions to train on, {said['sessions']['test']} kept apart")
    for name, words in (
        ("at_half", "from 0.5 on"),
        ("at_threshold", f"from {said['at_threshold']['threshold']:.3f} on"),
        ("majority", "majority class"),
        ("always_yes", "always yes"),
    ):
        one = said[name]
        click.echo(f"  {words:<16}accuracy {one['accuracy']:.3f}  recall {one['recall']:.3f}  F1 {one['f1']:.3f}")
    low, high = said["auc"]["ci"]
    click.echo(
        f"published accuracy {said['published_accuracy']}; AUC {said['auc']['value']:.3f} ({low:.3f} to {high:.3f})"
    )


def _write(out: Path, name: str, figures: dict[str, Any], picture: bytes) -> None:
    from training.files import write_json, write_whole

    write_json(out / f"{name}.json", figures)
    write_whole(out / f"{name}.png", picture)
