"""`python -m training segments`: groups of users that workers tell in every event."""

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from training.options import CONTEXT, bootstrap_option, prefix_option, told
from training.source_options import currency_option, events_option, format_option, read

# ruff: noqa: PLC0415  scikit-learn, skl2onnx and matplotlib take seconds: they are imported where they are used


@click.group(
    context_settings=CONTEXT,
    epilog="""\b
Examples:
  python -m training segments fit --events var/archive --out var/segments
  python -m training segments publish var/segments/segments.onnx
""",
)
def segments() -> None:
    """Groups of users, learned from what they do.

    Workers tell them in every event.
    """


@segments.command(
    epilog="""\b
Examples:
  python -m training segments fit --events log.csv.gz --format taobao --out var/segments
  python -m training segments fit --events 127.0.0.1:9092 --out var/segments --method dbscan --classifier tree
"""
)
@events_option
@format_option
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for the results.")
@click.option(
    "--method",
    type=click.Choice(["kmeans", "dbscan"]),
    default="kmeans",
    show_default=True,
    help="How users are grouped.",
)
@click.option("--k", type=click.IntRange(2, 50), help="Groups of k-means.  [default: 3 to 8, by silhouette]")
@click.option(
    "--classifier",
    type=click.Choice(["tree", "forest", "svm"]),
    help="What tells them in a worker.  [default: the best on users kept apart]",
)
@click.option(
    "--previous",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file whose numbers and names are kept for groups that are still there.  [default: OUT/segments.onnx]",
)
@click.option("--seed", type=click.IntRange(0, 2**31), default=1, show_default=True, help="Of all that is drawn.")
@currency_option
@prefix_option
def fit(
    events: str,
    format_: str | None,
    out: Path,
    method: str,
    k: int | None,
    classifier: str | None,
    previous: Path | None,
    seed: int,
    currency: str,
    topic_prefix: str,
) -> None:
    """Group users by their steps; write segments.onnx, segments.json and segments.png."""
    console = Console(stderr=True)
    with told():
        log = read(console, events, format_, currency, topic_prefix)
        from training.files import write_json, write_whole
        from training.segments.make import make, previous_of
        from training.segments.pictures import picture

        path = previous or out / "segments.onnx"
        earlier = previous_of(path) if previous is not None or path.is_file() else None
        made = make(log, method, k, classifier, earlier, seed)
        drawn = picture(made)
        write_json(out / "segments.json", made.figures)
        write_whole(out / "segments.png", drawn)
        write_whole(out / "segments.onnx", made.data)
    _print(console, made.figures)
    click.echo(f"{out / 'segments.onnx'}")


def _print(console: Console, figures: dict[str, Any]) -> None:
    table = Table("number", "segment", "of the steps", "known before")
    for one in figures["segments"]:
        table.add_row(str(one["number"]), one["name"], f"{one['share']:.3f}", "yes" if one["known"] else "")
    console.print(table)
    console.print(
        f"silhouette {figures['silhouette']:.3f}, Davies-Bouldin {figures['davies_bouldin']:.3f}, "
        f"agreement with another seed {figures['agreement_with_another_seed']:.3f}, noise {figures['noise_share']:.3f}"
    )
    table = Table("on users kept apart", "accuracy", "F1", "always the commonest", "rules' segments: accuracy", "F1")
    for name, one in figures["classifiers"].items():
        rule = figures["rules"]["classifiers"].get(name)
        words = ("", "") if rule is None else (f"{rule['accuracy']:.3f}", f"{rule['f1']:.3f}")
        mark = " (chosen)" if name == figures["classifier"] else ""
        table.add_row(name + mark, f"{one['accuracy']:.3f}", f"{one['f1']:.3f}", f"{one['majority']:.3f}", *words)
    console.print(table)


@segments.command(epilog="Example: python -m training segments publish var/segments/segments.onnx")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@bootstrap_option
@prefix_option
def publish(file: Path, bootstrap: str, topic_prefix: str) -> None:
    """Make FILE the segments that every worker tells; they take it over between two batches."""
    with told():
        from stream.kafka.topics import publish_control
        from stream.scoring.segments import SEGMENTS_KEY, load_segmenter

        data = file.read_bytes()
        found = load_segmenter(data)
        publish_control(bootstrap, topic_prefix + "models", {SEGMENTS_KEY: data})
    click.echo(f"segments: {found.hex}")
    for number, name in sorted(found.names.items()):
        click.echo(f"  {number}  {name}")
