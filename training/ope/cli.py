"""`python -m training ope`: what another policy would have earned, from the log of this one."""

from pathlib import Path

import click

from training.ope.estimators import Log
from training.options import CONTEXT, Duration, prefix_option, told

# ruff: noqa: PLC0415  scikit-learn takes seconds: it is imported where it is used

NAMES = ("dm", "ips", "snips", "dr", "dr_shrunk")

json_option = click.option(
    "--json", "out", type=click.Path(path_type=Path, dir_okay=False), help="Write all figures there, as JSON."
)
seed_option = click.option(
    "--seed", type=click.IntRange(0, 2**31), default=1, show_default=True, help="Of folds and of whatever is drawn."
)


@click.group(
    context_settings=CONTEXT,
    epilog="""\b
Examples:
  python -m training ope decisions --log 127.0.0.1:9092 --campaign cart-nudge --policy ten --horizon 1h
  python -m training ope decisions --log var/recorded --campaign cart-nudge --policy uniform
  python -m training ope open-bandit --data random_all.csv.gz --judged bts_all.csv.gz --json var/ope.json
  python -m training ope trial --data hillstrom.csv.gz --format hillstrom --policy mens
""",
)
def ope() -> None:
    """What another policy would have earned.

    By DM, IPS, SNIPS, DR and shrunk DR, with intervals and warnings.
    """


@ope.command(epilog="Example: python -m training ope decisions --log 127.0.0.1:9092 --campaign cart-nudge --policy ten")
@click.option(
    "--log",
    required=True,
    metavar="SOURCE",
    help="A broker (host:port), or a folder with decisions.jsonl, orders.jsonl.",
)
@click.option("--campaign", required=True, help="Whose decisions.")
@click.option("--policy", required=True, help="To be judged: `uniform`, `none`, or an arm, given wherever eligible.")
@click.option("--horizon", type=Duration(), default="1h", show_default=True, help="How far ahead an order counts.")
@seed_option
@json_option
@prefix_option
def decisions(
    log: str, campaign: str, policy: str, horizon: int, seed: int, out: Path | None, topic_prefix: str
) -> None:
    """From the topics decisions and orders; the value is the share of decisions that an order follows."""
    with told():
        from training.ope.logs import of_decisions
        from training.records import Decision, Order, read_records

        made = read_records(log, topic_prefix, "decisions", Decision, needed=True)
        orders = read_records(log, topic_prefix, "orders", Order, needed=True)
        _judge(of_decisions(made, orders, campaign, policy, horizon), seed, out)


@ope.command(
    "open-bandit", epilog="Example: python -m training ope open-bandit --data random.csv.gz --judged bts.csv.gz"
)
@click.option(
    "--data", required=True, metavar="FILE", help="A log of the Open Bandit Dataset, such as the uniform one."
)
@click.option("--judged", required=True, metavar="FILE", help="The log of the policy that is judged.")
@seed_option
@json_option
def open_bandit(data: str, judged: str, seed: int, out: Path | None) -> None:
    """The click rate of the policy behind one log, from another policy's log."""
    with told():
        from training.ope.logs import open_bandit as read

        _judge(read(data, judged), seed, out)


@ope.command(epilog="Example: python -m training ope trial --data hillstrom.csv.gz --format hillstrom --policy mens")
@click.option("--data", required=True, metavar="FILE", help="The trial's CSV file, plain or .gz.")
@click.option("--format", "format_", required=True, type=click.Choice(["hillstrom", "starbucks"]), help="What FILE is.")
@click.option("--policy", help="To be judged: `uniform`, or an arm for everybody.")
@click.option(
    "--model", type=click.Path(path_type=Path, file_okay=False), help="Or: an uplift model made from other rows."
)
@seed_option
@json_option
def trial(data: str, format_: str, policy: str | None, model: Path | None, seed: int, out: Path | None) -> None:
    """Money a customer under a policy, from a randomised trial."""
    if (policy is None) == (model is None):
        raise click.UsageError("give either --policy or --model")
    with told():
        import numpy as np

        from training.errors import TrainingError
        from training.ope.logs import of_trial
        from training.uplift.evaluate import predict
        from training.uplift.learners import encoder
        from training.uplift.store import load
        from training.uplift.trial import read_trial

        read = read_trial(data, format_)
        if model is not None:
            target = np.eye(len(read.arms))[predict(load(model), read).chosen]
        elif policy == "uniform":
            target = np.full((len(read), len(read.arms)), 1 / len(read.arms))
        elif policy in read.arms:
            target = np.eye(len(read.arms))[np.full(len(read), read.arms.index(policy))]
        else:
            raise TrainingError(f"--policy {policy}: not uniform, and no arm of {format_}: {', '.join(read.arms)}")
        _judge(of_trial(read, encoder(read.features).encode(read.features), target), seed, out)


def _judge(log: Log, seed: int, out: Path | None) -> None:
    from training.files import write_json
    from training.ope.estimators import check, judge
    from training.ope.expected import expected_rewards

    check(log)
    judged = judge(log, expected_rewards(log, seed))
    if out is not None:
        write_json(out, {"decisions": len(log.arm), **judged.said()})
    click.echo(f"{len(log.arm)} decisions; 95 % intervals")
    for name in NAMES:
        figure = judged.estimates[name]
        click.echo(f"{name:<10}{figure.value:12.6f}  [{figure.low:.6f}, {figure.high:.6f}]")
    click.echo(f"effective size {judged.effective_size:.0f}, largest weight {judged.largest_weight:.2f}")
    for warning in judged.warnings:
        click.echo(f"warning: {warning}", err=True)
