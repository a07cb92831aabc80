"""Fifty thousand bent inputs harm nothing; and the fuzzer would say so if they did."""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from tests.fuzz import engine
from tests.fuzz.engine import HangError, fuzz
from tests.fuzz.mutate import BYTES_MAX, mutate
from tests.fuzz.targets import APPLIED, ROOT, TARGETS, Entry

INPUTS = 50_000


@pytest.mark.slow
def test_no_input_crashes_hangs_or_grows_anything(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--inputs", str(INPUTS), "--seed", "1", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = [[int(n) for n in line.split()[1:5]] for line in done.stdout.splitlines()[2:]]
    assert sum(inputs for inputs, *_ in counts) >= INPUTS
    assert all(inputs <= sum(outcomes) for inputs, *outcomes in counts)
    assert all(applied for _, applied, *_ in counts), "every target takes some of its inputs"


class Broken:
    """Fails where an input holds a byte that its seed has not."""

    seeds = (b"abcdef" * 3,)
    modules = ("tests/fuzz/mutate.py",)
    bulk = 3

    def __init__(self, how: str) -> None:
        self._how = how
        self._kept: list[bytes] = []

    def take(self, inputs: Sequence[bytes]) -> list[str]:
        for data in inputs:
            if b"\xff" in data and self._how == "raises":
                raise ValueError("a byte")
            if b"\xff" in data and self._how == "hangs":
                time.sleep(5)
            if self._how == "grows":
                self._kept.append(bytes(1 << 16))
        return [APPLIED] * (len(inputs) - (self._how == "loses"))


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("raises", ValueError, "a byte"),
        ("hangs", HangError, "not done within"),
        ("grows", AssertionError, "bytes more in the second half"),
        ("loses", AssertionError, "outcomes of"),
    ],
)
def test_what_is_broken_is_found(
    how: str, error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "HANG_S", 1)
    monkeypatch.setitem(TARGETS, how, Entry(lambda _: Broken(how), 1.0))
    with pytest.raises(error, match=message):
        fuzz(how, 3000, 1, tmp_path)
    if how == "raises":
        assert (tmp_path / "raises.current").exists()


def test_a_seed_repeats_a_run() -> None:
    corpus = [b'x{"a": [1, "b"]}', b"other"]

    def run(seed: int) -> list[bytes]:
        draw = Random(seed)
        return [mutate(draw, corpus[0], corpus) for _ in range(500)]

    assert run(1) == run(1)
    assert run(1) != run(2)
    assert all(len(data) <= BYTES_MAX for data in run(3))
    assert len(set(run(1))) > 300
