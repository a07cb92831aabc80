"""Tools that tests may ask for. Missing ones skip a test with the reason, and fail it in CI."""

import os
from pathlib import Path

import pytest

from tests.deploy import tools


def tool(name: str) -> Path:
    found = tools.find(name)
    if found is None:
        reason = f"{name} is not installed: `make deploy-test` gets it where Go (helm) or Debian (promtool) is there"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.fixture(scope="session")
def helm() -> Path:
    return tool("helm")


@pytest.fixture(scope="session")
def promtool() -> Path:
    return tool("promtool")
