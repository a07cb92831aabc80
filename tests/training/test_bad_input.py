"""What docs/training.md says is refused, where no test of a single part shows it already."""

import dataclasses
import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from stream.scoring.model import load
from tests.training.test_cli import taobao_file
from training.artefact import with_metadata
from training.cli import cli
from training.files import write_whole
from training.seeded import seeded_model


def call(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args])


@contextmanager
def files_end_at(n_bytes: int) -> Iterator[None]:
    """A disk that takes so much of a file and no more: the write fails halfway, as it does when a disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"before")
    with files_end_at(1_000), pytest.raises(OSError, match=r"model\.onnx") as failed:
        write_whole(path, b"x" * 100_000)
    assert ".part" not in str(failed.value)
    assert path.read_bytes() == b"before"
    assert [one.name for one in tmp_path.iterdir()] == ["model.onnx"]


def test_a_command_on_a_full_disk_names_the_file(tmp_path: Path) -> None:
    log, model, out = taobao_file(tmp_path / "log.csv"), tmp_path / "model.onnx", tmp_path / "found.json"
    model.write_bytes(seeded_model(3))
    args = ("evaluate", "--model", model, "--events", log, "--format", "taobao", "--json", out)
    with files_end_at(1_000):
        done = call(*args)
    assert done.exit_code == 1, done.output
    assert str(out) in done.output.replace("\n", "")
    assert not out.exists()
    assert call(*args).exit_code == 0
    assert json.loads(out.read_text())["events"] > 0


def test_a_model_of_other_features_is_named(tmp_path: Path) -> None:
    log, path = taobao_file(tmp_path / "log.csv"), tmp_path / "other.onnx"
    data = seeded_model(3)
    metadata = load(data).metadata
    other = dataclasses.replace(metadata, features=("age", *metadata.features[1:]), features_hash="00")
    path.write_bytes(with_metadata(data, other))
    for command in (("evaluate", "--json", tmp_path / "out"), ("report", "--out", tmp_path / "out")):
        done = call(*command, "--model", path, "--events", log, "--format", "taobao")
        assert done.exit_code == 1
        said = done.output.replace("\n", " ")
        assert "other.onnx" in said.replace(" ", "")
        assert "age" in said
        assert not (tmp_path / "out").exists()
