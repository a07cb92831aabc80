"""`python -m training report`: a page and pictures about a model."""

from pathlib import Path

import click
from rich.console import Console

from stream.scoring.artefact import ModelRefused
from stream.scoring.segments import load_segmenter
from training.errors import TrainingError
from training.options import prefix_option, told
from training.source_options import currency_option, events_option, format_option, model_file, progress_bar, read

# ruff: noqa: PLC0415  scikit-learn and matplotlib take seconds: they are imported where they are used


@click.command(
    epilog="""\b
Examples:
  python -m training report --model var/model/model.onnx --events log.csv.gz --format taobao --out var/report
  python -m training report --model new.onnx --champion old.onnx --events 127.0.0.1:9092 --out var/report
"""
)
@click.option(
    "--model",
    "file",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The model, as `run` wrote it.",
)
@events_option
@format_option
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for the report.")
@click.option("--champion", type=click.Path(path_type=Path, dir_okay=False), help="A model to compare with.")
@click.option("--segments", type=click.Path(path_type=Path, dir_okay=False), help="Segments to split the figures by.")
@currency_option
@prefix_option
def report(
    file: Path,
    events: str,
    format_: str | None,
    out: Path,
    champion: Path | None,
    segments: Path | None,
    currency: str,
    topic_prefix: str,
) -> None:
    """Write report.html, one page, and its pictures as PNG.

    What `run` left beside the model adds learning curves and gates (metrics.json), and leaves out the users that it was
    trained on (training.npz).
    """
    console = Console(stderr=True)
    with told():
        model = model_file(file)
        other = None if champion is None else model_file(champion)
        try:
            segmenter = None if segments is None else load_segmenter(segments.read_bytes())
        except ModelRefused as refused:
            raise TrainingError(f"{segments}: {refused.text}") from refused
        from training.files import write_whole
        from training.report.gather import gather, read_metrics
        from training.report.page import page
        from training.report.pictures import PICTURES
        from training.yardsticks import read_beside

        metrics = read_metrics(file.parent / "metrics.json")
        kept = read_beside(file.parent / "training.npz", model.hex)
        log = read(console, events, format_, currency, topic_prefix)
        with progress_bar(console) as progress:
            progress.add_task("judging", total=None)
            of = gather(model, log, kept, metrics if metrics.get("sha256") == model.hex else {}, other, segmenter)
        made = {name: drawn for name, (_, draw, _) in PICTURES.items() if (drawn := draw(of)) is not None}
        text = page(of, made)
        for name, picture in made.items():
            write_whole(out / f"{name}.png", picture)
        write_whole(out / "report.html", text.encode())
    for name, (heading, _, needs) in PICTURES.items():
        if name not in made:
            console.print(f"left out: {heading}: {needs}", markup=False)
    click.echo(f"{out / 'report.html'}")
