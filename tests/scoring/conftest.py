import pytest

from stream.scoring.model import Model, load
from training.seeded import seeded_model, seeded_window_model


@pytest.fixture(scope="session")
def seeded_bytes() -> bytes:
    return seeded_model(1)


@pytest.fixture(scope="session")
def model(seeded_bytes: bytes) -> Model:
    return load(seeded_bytes)


@pytest.fixture(scope="session")
def other_model() -> Model:
    return load(seeded_model(2))


@pytest.fixture(scope="session")
def window_bytes() -> bytes:
    return seeded_window_model(1)


@pytest.fixture(scope="session")
def window_model(window_bytes: bytes) -> Model:
    return load(window_bytes)
