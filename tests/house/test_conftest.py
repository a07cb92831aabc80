"""What tests/conftest.py promises of every run: nothing is left out unseen, and in CI nothing is left out."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).resolve().parent.parent / "conftest.py"
TESTS = """
import pytest

def test_passes(): pass

def test_is_skipped(): pytest.skip("there is no moon tonight")

def test_needs_recorded_logs(shared_data): pass

def test_needs_kafka(broker): pass
"""
pytestmark = pytest.mark.slow  # each starts pytest
CONFIGURATION = "[pytest]\nmarkers =\n  needs_broker: x\n  long: x\n  slow: x\n  alone: x\n"
BESIDE = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")


def run(tmp_path: Path, *arguments: str, ci: bool, **tests: str) -> tuple[int, str]:
    folder = tmp_path / "repository" / "tests"
    folder.mkdir(parents=True)
    shutil.copy(CONFTEST, folder)
    for name, text in (tests or {"some": TESTS}).items():
        (folder / f"test_{name}.py").write_text(text)
    (folder.parent / "pytest.ini").write_text(CONFIGURATION)
    environment = {key: value for key, value in os.environ.items() if key not in {"CI", "KAFKA_BOOTSTRAP"}}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:randomly", "-p", "no:cacheprovider", *arguments],
        cwd=folder.parent,
        env=environment | ({"CI": "true"} if ci else {}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("processes", [(), BESIDE])
def test_what_was_not_tried_is_listed_with_the_reason_before_the_closing_line(
    tmp_path: Path, processes: tuple[str, ...]
) -> None:
    code, output = run(tmp_path, "-m", "not needs_broker", *processes, ci=False, some=TESTS, other="def test(): pass")
    assert code == 0
    lines = [line for line in output.splitlines() if line]
    begin = next(number for number, line in enumerate(lines) if "not tried, and why" in line)
    *listed, closing = lines[begin + 1 :]
    assert sorted(listed[0:4:2]) == [
        "1 test: the recorded logs (../shared/data) are not here",
        "1 test: there is no moon tonight",
    ]
    assert listed[4] == "1 test: left out by 'not needs_broker'"
    assert listed[1::2] == ["  tests/test_some.py (1)"] * 3
    assert "2 passed, 2 skipped, 1 deselected" in closing


def test_in_ci_missing_data_and_any_skip_fail_the_run(tmp_path: Path) -> None:
    code, output = run(tmp_path, "-m", "not needs_broker", ci=True)
    assert code == 1
    assert "CI must not pass without them" in output


@pytest.mark.parametrize(("limit", "tried"), [((), 60), (("--examples=7",), 7)])
def test_fewer_examples_can_be_asked_for(tmp_path: Path, limit: tuple[str, ...], tried: int) -> None:
    property_test = """
import hypothesis, hypothesis.strategies
@hypothesis.settings(max_examples=60, database=None)
@hypothesis.given(hypothesis.strategies.floats())
def test_property(value):
    with open("tried", "a") as file: file.write("x")
"""
    code, _ = run(tmp_path, "-k", "property", *limit, ci=False, some=property_test)
    assert code == 0
    assert len((tmp_path / "repository" / "tried").read_text()) == tried


@pytest.mark.parametrize("ci", [True, False])
@pytest.mark.parametrize("processes", [(), BESIDE])
def test_in_ci_a_skip_alone_fails_the_run(tmp_path: Path, processes: tuple[str, ...], ci: bool) -> None:
    code, _ = run(tmp_path, "-k", "passes or skipped", *processes, ci=ci)
    assert code == int(ci)


RUNNING = """
import pathlib, pytest, time

@pytest.fixture(autouse=True)
def running(request):
    mark = pathlib.Path("running-" + request.node.name)
    mark.touch()
    yield
    mark.unlink()

def beside(): return {one.name for one in pathlib.Path().glob("running-*")}
"""
MANY = """
@pytest.mark.parametrize("n", range(40))
def test_many(n):
    for _ in range(5):
        if len(beside()) > 1: pathlib.Path("together").touch()
        time.sleep(0.01)
"""
ALONE = """
@pytest.mark.alone
@pytest.mark.parametrize("n", range(3))
def test_alone(n, request):
    for _ in range(50):
        assert beside() == {"running-" + request.node.name}
        time.sleep(0.01)
"""


def test_nothing_runs_beside_what_runs_alone_and_all_else_does(tmp_path: Path) -> None:
    code, output = run(tmp_path, *BESIDE, ci=True, alone=RUNNING + ALONE + MANY, many=RUNNING + MANY)
    assert "83 passed" in output
    assert code == 0
    assert (tmp_path / "repository" / "together").exists()
