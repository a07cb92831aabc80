import numpy as np
import onnx
import pytest

from stream.core.row import N_FEATURES
from stream.scoring.artefact import ModelRefused, Refusal
from stream.scoring.segments import SEGMENTS_KEY, load_segmenter, segments_in
from tests.scoring.segments_file import TENURE, segments_file


def test_steps_get_a_number() -> None:
    segmenter = load_segmenter(segments_file())
    steps = np.zeros((3, N_FEATURES), np.uint8)
    steps[:, TENURE] = (80, 81, 255)
    assert segmenter.of(steps).tolist() == [1, 2, 2]
    assert segmenter.names == {1: "known briefly", 2: "known for long"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": 2}, Refusal.METADATA_INVALID),
        ({"features_hash": "00"}, Refusal.FEATURES_DIFFER),
        ({"names": {"1": "known briefly"}}, Refusal.METADATA_INVALID),
        ({"names": {"1": "a", "256": "b"}}, Refusal.METADATA_INVALID),
        ({"names": None}, Refusal.METADATA_INVALID),
        ({"golden": {"steps": [[0] * N_FEATURES] * 256, "segments": [2] * 256}}, Refusal.GOLDEN_DIFFER),
        ({"golden": {"steps": [], "segments": []}}, Refusal.METADATA_INVALID),
        ({"golden": {"steps": [[1, 2]], "segments": [1]}}, Refusal.IO_DIFFER),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object], reason: Refusal) -> None:
    with pytest.raises(ModelRefused) as refused:
        load_segmenter(segments_file(**changes))
    assert refused.value.reason == reason


def test_other_files_are_refused() -> None:
    for data, reason in (
        (b"", Refusal.NOT_ONNX),
        (b"\0" * 1_000_000, Refusal.TOO_LARGE),
        (segments_file()[:500], Refusal.NOT_ONNX),
    ):
        with pytest.raises(ModelRefused) as refused:
            load_segmenter(data)
        assert refused.value.reason == reason
    bare = onnx.load_from_string(segments_file())
    del bare.metadata_props[:]
    with pytest.raises(ModelRefused) as refused:
        load_segmenter(bare.SerializeToString())
    assert refused.value.reason == Refusal.METADATA_MISSING


def test_the_topic_says_which() -> None:
    assert segments_in({}) is None
    assert segments_in({SEGMENTS_KEY: b"file", b"champion": b"{}"}) == b"file"
