from pathlib import Path

import pytest

from stream.scoring.model import Model, load
from tests.e2e.harness import Site
from training.seeded import seeded_model


@pytest.fixture
def site(broker: str, topic_prefix: str, tmp_path: Path) -> Site:
    """Topics of this test's own, with two partitions, and a place on disk."""
    return Site(broker, topic_prefix, tmp_path)


@pytest.fixture(scope="session")
def model_file() -> bytes:
    return seeded_model(1)


@pytest.fixture(scope="session")
def model(model_file: bytes) -> Model:
    return load(model_file)
