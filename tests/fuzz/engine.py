"""Coverage-guided fuzzing in plain Python: an input that reaches a line nobody reached is kept and bent further.

Tracing costs more than what is traced, so one bulk in `TRACE_EVERY` is traced; the seeds, and what was kept before, all
are. A finding ends the run with the inputs that made it.
"""

import base64
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import psutil

from tests.fuzz.mutate import mutate
from tests.fuzz.targets import APPLIED, DEAD, REFUSED, ROOT, TARGETS, Target, draw_of

TRACE_EVERY = 25
HANG_S = 20
"""For one bulk: a healthy one takes milliseconds."""

GROWTH_BYTES_MAX = 48 << 20
"""Of resident memory over the second half of a run."""

KEPT_MAX = 300
KEPT_BYTES_MAX = 8192
SEEDS = Path(__file__).with_name("seeds")

Line = tuple[str, int]


class Fuzzed(NamedTuple):
    """What a run over one target showed."""

    inputs: int
    outcomes: dict[str, int]
    lines_reached: int
    lines: int
    inputs_per_s: float
    growth_bytes: int
    kept: list[bytes]
    """Inputs that reached a new line, the seeds apart."""


class HangError(AssertionError):
    """A bulk took too long."""


def fuzz(name: str, inputs: int, seed: int, folder: Path) -> Fuzzed:
    """Fuzz one target.

    The inputs at work are in `folder`/<name>.current before they are taken: a process that dies leaves them there.

    Raises:
        Exception: whatever the target raised.
        HangError: a bulk took too long.
    """
    target: Target = TARGETS[name].make(folder)
    draw = draw_of(seed, name)
    lines = _lines(target.modules)
    seen: set[Line] = set()
    corpus = [*target.seeds, *kept_seeds(name)]
    kept: list[bytes] = []
    outcomes: Counter[str] = Counter()
    current = folder / f"{name}.current"
    began_s, growth, done = time.monotonic(), 0, 0
    for data in corpus[:]:
        _take(target, [data], current, outcomes, seen, traced=True)
    while done < inputs:
        bulk = [mutate(draw, draw.choice(corpus), corpus) for _ in range(min(target.bulk, inputs - done))]
        traced = (done // target.bulk) % TRACE_EVERY == 0
        new = _take(target, bulk, current, outcomes, seen, traced=traced)
        if new and len(kept) < KEPT_MAX:
            for data in bulk:  # whose lines they are, one by one
                if len(data) <= KEPT_BYTES_MAX and _reaches(target, data, new):
                    kept.append(data)
                    corpus.append(data)
                    break
        if done < inputs // 2 <= done + len(bulk):
            growth = _resident_bytes()
        done += len(bulk)
    current.unlink(missing_ok=True)
    took_s = time.monotonic() - began_s
    growth = _resident_bytes() - growth
    assert growth < GROWTH_BYTES_MAX, f"{name}: {growth} bytes more in the second half"
    taken = inputs + len(target.seeds) + len(kept_seeds(name))
    assert outcomes.total() == taken, f"{name}: {outcomes.total()} outcomes of {taken} inputs"
    return Fuzzed(
        inputs,
        {what: outcomes[what] for what in (APPLIED, REFUSED, DEAD)},
        len(seen & lines),
        len(lines),
        inputs / took_s,
        growth,
        kept,
    )


def kept_seeds(name: str) -> list[bytes]:
    """Inputs of earlier runs: those that found something, and those that reached much."""
    path = SEEDS / f"{name}.json"
    return [base64.b64decode(text) for text in json.loads(path.read_text())] if path.exists() else []


def as_seeds(inputs: Iterable[bytes]) -> str:
    """How they are kept."""
    return json.dumps([base64.b64encode(data).decode() for data in inputs], indent=1) + "\n"


def _take(
    target: Target, bulk: list[bytes], current: Path, outcomes: Counter[str], seen: set[Line], *, traced: bool
) -> set[Line]:
    current.write_text(as_seeds(bulk))
    with _alarm():
        if not traced:
            outcomes.update(target.take(bulk))
            return set()
        reached: set[Line] = set()
        with _tracing(target, reached):
            outcomes.update(target.take(bulk))
    new = reached - seen
    seen |= reached
    return new


def _reaches(target: Target, data: bytes, wanted: set[Line]) -> bool:
    reached: set[Line] = set()
    with _tracing(target, reached):
        target.take([data])
    return bool(reached & wanted)


@contextmanager
def _alarm() -> Iterator[None]:
    def late(_number: int, _frame: FrameType | None) -> None:
        raise HangError(f"not done within {HANG_S} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(HANG_S)
    try:
        yield
    finally:
        signal.alarm(0)


@contextmanager
def _tracing(target: Target, reached: set[Line]) -> Iterator[None]:
    """Note the lines of the target's modules' functions that run in its thread."""
    files = {str(ROOT / module): module for module in target.modules}
    settrace = getattr(target, "settrace", sys.settrace)

    def call(frame: FrameType, _event: str, _arg: Any) -> Any:
        module = files.get(frame.f_code.co_filename)
        if module is None:
            return None

        def line(frame: FrameType, event: str, _arg: Any) -> Any:
            if event == "line":
                reached.add((module, frame.f_lineno))
            return line

        return line

    settrace(call)
    try:
        yield
    finally:
        settrace(None)


def _lines(modules: tuple[str, ...]) -> set[Line]:
    """Every line of the modules' functions."""
    found: set[Line] = set()
    for module in modules:
        path = ROOT / module
        whole = compile(path.read_text(), str(path), "exec")
        for function in _functions(whole):
            found |= {(module, n) for _, _, n in function.co_lines() if n is not None and n != function.co_firstlineno}
    return found


def _functions(code: CodeType, *, inside: bool = False) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            is_class = "__qualname__" in constant.co_names and "__module__" in constant.co_names
            if inside or not is_class:
                yield constant
            yield from _functions(constant, inside=not is_class)


def _resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)
