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
CONFIGURATION = "[pytest]\nmarkers =\n  needs_broker: x\n  long: x\n  slow: x\n"


def run(tmp_path: Path, *arguments: str, ci: bool, tests: str = TESTS) -> tuple[int, str]:
    folder = tmp_path / "repository" / "tests"
    folder.mkdir(parents=True)
    shutil.copy(CONFTEST, folder)
    (folder / "test_some.py").write_text(tests)
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


def test_what_was_not_tried_is_listed_with_the_reason_before_the_closing_line(tmp_path: Path) -> None:
    code, output = run(tmp_path, "-m", "not needs_broker", ci=False)
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
    assert "1 passed, 2 skipped, 1 deselected" in closing


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
    code, _ = run(tmp_path, "-k", "property", *limit, ci=False, tests=property_test)
    assert code == 0
    assert len((tmp_path / "repository" / "tried").read_text()) == tried


@pytest.mark.parametrize("ci", [True, False])
def test_in_ci_a_skip_alone_fails_the_run(tmp_path: Path, ci: bool) -> None:
    code, _ = run(tmp_path, "-k", "passes or skipped", ci=ci)
    assert code == int(ci)
