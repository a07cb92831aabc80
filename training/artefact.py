"""Writing a model file: golden examples and metadata go into the ONNX file."""

import numpy as np
import onnx
from numpy.typing import NDArray

from stream.core.features import dequantise
from stream.scoring.artefact import METADATA_KEY, Golden, Metadata, metadata_json
from stream.scoring.session import open_session, run_sequence


def golden_examples(bare: bytes, steps: NDArray[np.uint8], state: tuple[tuple[str, int], ...]) -> Golden:
    """Run the graph over histories and keep what it says.

    Args:
        bare: the ONNX file without metadata.
        steps: uint8 [S, T, F], S histories from their first step.
        state: names and widths of the carried state.
    """
    scores = run_sequence(open_session(bare), dequantise(steps), state)
    return Golden(steps, scores)


def with_metadata(bare: bytes, metadata: Metadata) -> bytes:
    """The file with its metadata; everything that stood under our key before is replaced."""
    model = onnx.load_from_string(bare)
    others = {entry.key: entry.value for entry in model.metadata_props if entry.key != METADATA_KEY}
    onnx.helper.set_model_props(model, others | {METADATA_KEY: metadata_json(metadata)})
    stored: bytes = model.SerializeToString(deterministic=True)
    return stored
