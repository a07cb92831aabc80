import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from stream.core.row import N_STEPS
from stream.scoring.model import Model, load
from tests.training.test_cli import taobao_file
from tests.training.test_export import said_of
from training.artefact import golden_examples, with_metadata
from training.carried import EDGES, MEDIAN_MAX, PER_BIN, compare, said
from training.cli import cli
from training.dataset import Dataset, of_users
from training.errors import TrainingError
from training.export import export
from training.fit import Fitted
from training.seeded import seeded_model, seeded_window_model
from training.serve import carried, rebuilt


def test_a_trained_state_carried_or_rebuilt_says_the_same(fitted: Fitted, dataset: Dataset) -> None:
    bare = export(fitted.network)
    steps = dataset.steps[: 8 * 16].reshape(8, 16, -1)
    metadata = replace(said_of("lstm", fitted.network, bare, steps), arms=("none",))
    found = said(model := load(with_metadata(bare, metadata)), compared := compare(model, dataset))
    assert found["steps"] > 500
    assert 0 < found["median"] < MEDIAN_MAX
    assert compared.carried.std() > 0.02  # it does say something


def test_up_to_a_full_ring_they_are_the_same_bits(dataset: Dataset) -> None:
    compared = compare(load(seeded_model(3)), dataset)
    short = compared.steps_carried < N_STEPS
    assert short.sum() > 500
    assert compared.carried[short].tobytes() == compared.rebuilt[short].tobytes()
    assert (compared.difference[~short] > 0).any()


def test_the_window_kind_has_nothing_to_lose(dataset: Dataset) -> None:
    assert said(model := load(seeded_window_model(3)), compare(model, dataset))["max"] == 0


def test_a_state_that_never_forgets_is_found_out(dataset: Dataset) -> None:
    """Forget gates held open: what happened before the ring still counts."""
    model = hoarder()
    found = said(model, compare(model, dataset))
    assert found["median"] > MEDIAN_MAX


def hoarder() -> Model:
    graph = onnx.load_from_string(seeded_model(3))
    for tensor in graph.graph.initializer:
        if tensor.name == "b":
            bias = numpy_helper.to_array(tensor).copy()
            bias[0, 100:150] = 12  # gates i, o, f, c of 50 units
            tensor.CopyFrom(numpy_helper.from_array(bias, "b"))
    data = graph.SerializeToString()
    metadata = load(seeded_model(3)).metadata
    golden = golden_examples(data, metadata.golden.steps, metadata.state)
    return load(with_metadata(data, replace(metadata, golden=golden)))


def test_quantiles_are_those_of_all_steps_where_a_bin_is_small(dataset: Dataset) -> None:
    model = load(seeded_model(3))
    found = said(model, compare(model, dataset))
    place = np.arange(len(dataset.steps)) - np.repeat(dataset.starts[:-1], np.diff(dataset.starts))
    every = np.arange(len(dataset.steps))
    difference = np.abs(carried(model, dataset)[:, 0] - rebuilt(model, dataset, every)[:, 0])
    for one, end in zip(found["by_steps_carried"], EDGES[1:], strict=False):
        inside = difference[(place >= one["from"]) & (place < end)]
        assert one["steps"] == len(inside) <= PER_BIN
        assert one["median"] == pytest.approx(np.median(inside))
        assert one["max"] == pytest.approx(inside.max())


def test_short_histories_are_refused(dataset: Dataset) -> None:
    lengths = np.diff(dataset.starts)
    with pytest.raises(TrainingError, match="longest history has"):
        compare(load(seeded_model(3)), of_users(dataset, lengths < N_STEPS))


def test_the_command_writes_picture_and_figures(tmp_path: Path) -> None:
    log = taobao_file(tmp_path / "log.csv", n_users=9, n_rounds=50)
    (tmp_path / "model.onnx").write_bytes(seeded_model(3))
    args = [
        "carried",
        "--model",
        tmp_path / "model.onnx",
        "--events",
        log,
        "--format",
        "taobao",
        "--out",
        tmp_path / "out",
    ]
    result = CliRunner().invoke(cli, [str(arg) for arg in args])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out" / "carried.json").read_text())
    assert found["ring"] == N_STEPS
    assert f"median difference {found['median']:.5f}" in result.output
    assert (tmp_path / "out" / "carried.png").read_bytes().startswith(b"\x89PNG")
