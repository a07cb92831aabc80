import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.training.test_cli import taobao_file
from training.cli import cli
from training.errors import TrainingError
from training.report.gather import read_metrics
from training.report.pictures import PICTURES
from training.seeded import seeded_model


def call(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args])


def test_the_page_has_everything_inside(tmp_path: Path) -> None:
    log = taobao_file(tmp_path / "log.csv")
    source = ("--events", log, "--format", "taobao")
    assert call("run", *source, "--out", tmp_path / "m", "--epochs", "2").exit_code == 0
    assert call("segments", "fit", *source, "--out", tmp_path / "s", "--k", "3").exit_code == 0
    old = tmp_path / "old.onnx"
    old.write_bytes(seeded_model(3))
    model, out = tmp_path / "m" / "model.onnx", tmp_path / "out"
    segments = tmp_path / "s" / "segments.onnx"
    done = call("report", "--model", model, *source, "--champion", old, "--segments", segments, "--out", out)
    assert done.exit_code == 0, done.output
    assert "left out: " not in done.output
    assert {path.stem for path in out.glob("*.png")} == set(PICTURES)
    text = (out / "report.html").read_text()
    assert text.count("<img") == text.count("data:image/png;base64,") == len(PICTURES)
    assert not re.search(r"(src|href)=['\"](?!data:)", text)
    for heading, _, _ in PICTURES.values():
        assert f"<h2>{heading}</h2>" in text
    for row in ("this model", "champion", "base_rate", "logistic", "trees", "parity_sequence"):
        assert f"<td>{row}" in text


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    """A model file alone: no metrics, no training data, no champion, no segments."""
    log, file = taobao_file(tmp_path / "log.csv"), tmp_path / "model.onnx"
    file.write_bytes(seeded_model(3))
    source = ("--events", log, "--format", "taobao")
    done = call("report", "--model", file, *source, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    text = (tmp_path / "out" / "report.html").read_text()
    assert text.count("Left out: ") == 4
    assert {path.stem for path in (tmp_path / "out").glob("*.png")} == set(PICTURES) - {
        *("learning", "segments", "drift", "champion")
    }
    for option, path in (("--champion", log), ("--segments", file), ("--model", log)):
        args = {"--model": file, "--out": tmp_path / "no", option: path}
        done = call("report", *source, *(word for pair in args.items() for word in pair))
        assert done.exit_code == 1
        assert str(path) in done.output.replace("\n", "")
        assert not (tmp_path / "no").exists()


def test_broken_metrics_are_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    assert read_metrics(path) == {}
    for text in ("{", "[]"):
        path.write_text(text)
        with pytest.raises(TrainingError, match=r"metrics\.json"):
            read_metrics(path)
