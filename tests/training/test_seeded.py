import onnx

from stream.scoring.model import load
from training.seeded import seeded_model


def test_the_same_seed_gives_the_same_bytes() -> None:
    assert seeded_model(7) == seeded_model(7)
    assert seeded_model(7) != seeded_model(8)


def test_it_is_as_wide_as_the_real_thing() -> None:
    model = load(seeded_model(1))
    assert model.metadata.state == (("h", 50), ("c", 50))
    assert model.metadata.architecture == "lstm"
    operators = {node.op_type for node in onnx.load_from_string(seeded_model(1)).graph.node}
    assert "LSTM" in operators
