"""Nothing that we run reports to anyone."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

USE_IT = "import onnxruntime; onnxruntime.SessionOptions(); onnxruntime.get_available_providers()"


def left_behind(tmp_path: Path, program: str) -> list[str]:
    """What a program leaves in an empty home where telemetry is left at its default."""
    inherited = {key: value for key, value in os.environ.items() if key not in {"ORT_DISABLE_TELEMETRY", "CI"}}
    environment = inherited | {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=120)
    return sorted(path.name for path in tmp_path.rglob("*"))


@pytest.mark.parametrize("package", ["stream", "training"])
def test_onnxruntime_keeps_no_record_under_our_packages(tmp_path: Path, package: str) -> None:
    assert left_behind(tmp_path, f"import {package}; {USE_IT}") == []


def test_the_switch_is_still_its_name() -> None:
    """What the test above looks for comes and goes with this variable; were it renamed, that test might see nothing."""
    folder = Path(str(importlib.util.find_spec("onnxruntime").origin)).parent  # type: ignore[union-attr]
    assert "ORT_DISABLE_TELEMETRY=1" in (folder / "Privacy.md").read_text(encoding="utf-8")
