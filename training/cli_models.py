"""`python -m training publish` and `models`: what workers use, and what is published."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path

import click

from stream.scoring.model import load
from training.options import CONTEXT, bootstrap_option, prefix_option, told

# ruff: noqa: PLC0415  onnx and confluent-kafka are imported where they are used


@click.command(
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


@click.group(context_settings=CONTEXT)
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
