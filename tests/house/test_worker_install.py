"""What worker.lock installs is a worker: all of it is there, of the extras signatures alone, and it runs anywhere."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stream.cli import SUBCOMMANDS

ROOT = Path(__file__).resolve().parent.parent.parent
CODE = ("stream", "training")
TIMEOUT_S = 600

pytestmark = [pytest.mark.long, pytest.mark.timeout(2 * TIMEOUT_S)]


def run(*command: str | Path, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OFFERSTREAM_", "KAFKA_"))}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment made as docs/setup.md says, from the lock and a copy of the sources."""
    folder = tmp_path_factory.mktemp("worker")
    for name in CODE:
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    pip = (python, "-m", "pip", "install", "--quiet")
    run(
        *pip,
        "--require-hashes",
        "--only-binary",
        ":all:",
        "-r",
        ROOT / "deploy" / "requirements" / "worker.lock",
        cwd=folder,
    )
    run(*pip, "--no-deps", folder / "source", cwd=folder)
    return python


def test_a_worker_can_run_there_and_only_extras_are_missing(python: Path, tmp_path: Path) -> None:
    report = json.loads(run(python, "-m", "stream", "doctor", "--json", cwd=tmp_path))
    assert report["ok"]
    levels = {check["what"]: check["level"] for check in report["checks"]}
    assert levels["a worker's packages"] == "ok"
    assert levels["extra 'signing'"] == "ok"  # a worker that is given a key must be able to use it
    assert {levels[f"extra {extra!r}"] for extra in ("training", "explain", "demo", "dev")} == {"note"}


def test_every_file_of_the_packages_is_installed(python: Path, tmp_path: Path) -> None:
    where = Path(run(python, "-c", "import stream; print(stream.__path__[0])", cwd=tmp_path).strip()).parent
    for name in CODE:
        there = {path.relative_to(where) for path in (where / name).rglob("*") if path.is_file()}
        ours = {path.relative_to(ROOT) for path in (ROOT / name).rglob("*") if path.is_file()}
        assert {path for path in ours - there if "__pycache__" not in path.parts} == set()


@pytest.mark.parametrize("name", list(SUBCOMMANDS))
def test_every_command_shows_its_help(python: Path, tmp_path: Path, name: str) -> None:
    assert "Usage: python -m stream" in run(python, "-m", "stream", name, "--help", cwd=tmp_path)
