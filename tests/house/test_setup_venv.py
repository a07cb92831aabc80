"""deploy/tools/setup_venv.py says what is wrong before it writes, and takes nothing for done that is not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PROJECT = '[build-system]\nrequires = ["setuptools"]\n[project]\nname = "x"\nversion = "1"\n'


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A project with nothing to install, in a folder whose name is hard on shells."""
    folder = tmp_path / "it's a $HOME copy"
    for name in ("tools", "requirements"):
        (folder / "deploy" / name).mkdir(parents=True)
    shutil.copy(ROOT / "deploy" / "tools" / "setup_venv.py", folder / "deploy" / "tools")
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "deploy" / "requirements" / "all.lock").write_text("")
    return folder


def run(copy: Path, before: str = "pass") -> "subprocess.CompletedProcess[str]":
    program = f"import sys, runpy; {before}; runpy.run_path(sys.argv[1], run_name='__main__')"
    command = [sys.executable, "-c", program, str(copy / "deploy" / "tools" / "setup_venv.py")]
    # Whatever is missing is not to be had: no network, no mirror.
    environment = os.environ | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)


@pytest.mark.parametrize("version", ["(3, 10, 9)", "(3, 14, 0)", "(4, 0, 0)"])
def test_another_python_is_refused_before_anything_is_written(copy: Path, version: str) -> None:
    done = run(copy, f"sys.version_info = {version}")
    assert done.returncode == 1
    assert "3.11 to 3.13" in done.stderr
    assert "make setup PYTHON=" in done.stderr
    assert sorted(path.name for path in copy.iterdir()) == ["deploy", "pyproject.toml"]


def test_the_range_is_that_of_the_project() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'requires-python = ">=3.11,<3.14"' in text
    assert "PYTHON_MIN, PYTHON_MAX = (3, 11), (3, 13)" in (ROOT / "deploy" / "tools" / "setup_venv.py").read_text(
        encoding="utf-8"
    )


@pytest.mark.slow
def test_what_cannot_be_installed_is_said_and_not_taken_for_done(copy: Path) -> None:
    lock = copy / "deploy" / "requirements" / "all.lock"
    lock.write_text("no-such-package==1 --hash=sha256:" + "0" * 64 + "\n")
    for _ in range(2):
        done = run(copy)
        assert done.returncode == 1
        assert "no-such-package" in done.stderr
        assert "pip could not install" in done.stderr
        assert not (copy / ".venv" / ".installed-from").exists()
