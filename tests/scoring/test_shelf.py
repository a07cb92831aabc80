"""From records to models: in whatever order they come, each file is judged once and none is forgotten."""

import hashlib

from stream.scoring.artefact import ModelRefused, Refusal
from stream.scoring.control import CHAMPION_KEY, file_key, pointer_json
from stream.scoring.scorer import Scorer
from stream.scoring.shelf import Shelf
from stream.scoring.watch import UNLIMITED
from training.seeded import seeded_model

MODEL = seeded_model(3)
SHA256 = hashlib.sha256(MODEL).hexdigest()
OTHER = "0" * 64


def shelf() -> tuple[Shelf, list[Refusal]]:
    refused: list[Refusal] = []

    def note(refusal: ModelRefused) -> None:
        refused.append(refusal.reason)

    return Shelf(UNLIMITED, None, note), refused


def test_a_file_that_comes_behind_its_pointer_is_taken() -> None:
    models, refused = shelf()
    records = {CHAMPION_KEY: pointer_json(SHA256, 1)}
    for _ in range(3):
        assert models.scorer(records, Scorer()).champion is None
    assert refused == [Refusal.FILE_MISSING]  # told once
    records[file_key(SHA256)] = MODEL
    assert models.scorer(records, Scorer()).hex == SHA256


def test_a_wrong_file_that_comes_behind_its_pointer_is_told_of_once() -> None:
    models, refused = shelf()
    records = {CHAMPION_KEY: pointer_json(OTHER, 1)}
    models.scorer(records, Scorer())
    records[file_key(OTHER)] = MODEL
    for _ in range(3):
        assert models.scorer(records, Scorer()).champion is None
    assert refused == [Refusal.FILE_MISSING, Refusal.SHA256_DIFFERS]
    del records[file_key(OTHER)]
    models.scorer(records, Scorer())
    records[file_key(OTHER)] = MODEL
    models.scorer(records, Scorer())
    assert refused[2:] == [Refusal.FILE_MISSING, Refusal.SHA256_DIFFERS]
