"""Fixtures for every test, and how tests run beside each other.

`make test` runs several processes (pytest-xdist): each takes a file of tests at a time and has a broker of its own. A
test marked `alone` measures times: nothing runs beside it in the other processes.
"""

import fcntl
import os
import re
import shutil
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from stream.broker.embedded import PREFIX, broker_from_environment
from stream.broker.status import is_running

ROOT = Path(__file__).resolve().parent.parent
IN_CI = os.environ.get("CI") == "true"
MEMORY = Path("/dev/shm")
MEMORY_BYTES_MIN = 2 << 30
DESELECTED = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def broker() -> Iterator[str]:
    """`host:port` of a real Kafka: KAFKA_BOOTSTRAP's, else an embedded one of this session's own."""
    with broker_from_environment(memory()) as bootstrap:
        yield bootstrap


def memory() -> Path | None:
    """Where a broker's folder lies in memory, if there is room; what runs that were killed left there is taken away.

    Tests make ten thousand partitions, each a folder of files: to delete 1,140 such files took 1.80 s on ext4 and
    0.03 s in memory.
    """
    if not MEMORY.is_dir() or shutil.disk_usage(MEMORY).free < MEMORY_BYTES_MIN:
        return None
    for folder in MEMORY.glob(PREFIX + "*"):
        # A broker that is just being started has no lock yet.
        with suppress(FileNotFoundError):  # its own process takes it away
            if time.time() - folder.stat().st_mtime > 3600 and not is_running(folder):
                shutil.rmtree(folder, ignore_errors=True)
    return MEMORY


@pytest.fixture
def topic_prefix(request: pytest.FixtureRequest) -> str:
    """A prefix for topics, groups and transactional ids, of this test alone, so that all tests share one broker."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:40]
    return f"{name}-{uuid.uuid4().hex[:8]}-"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of recorded logs beside the repository. They are not part of it: skipped where they are not."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        reason = "the recorded logs (../shared/data) are not here"
        if IN_CI:
            pytest.fail(f"{reason}, and CI must not pass without them")
        pytest.skip(reason)
    return folder


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--examples", type=int, help="at most so many examples for each property (hypothesis)")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what uses the broker, and what is too slow for `make test-fast`. First, so that `-m` sees the marks."""
    examples_max: int | None = config.getoption("--examples")
    for item in items:
        if examples_max is not None:
            limit_examples(item, examples_max)
        fixtures = getattr(item, "fixturenames", ())
        if "broker" in fixtures:
            item.add_marker("needs_broker")
        # Whole recorded logs; and TensorFlow, which takes seconds to load and for each model.
        if "shared_data" in fixtures or "training" in item.path.relative_to(ROOT).parts:
            item.add_marker("slow")


@pytest.hookimpl(trylast=True, specname="pytest_collection_modifyitems")
def order(items: list[pytest.Item]) -> None:
    """Files that have tests to run alone come first, then those that wait for brokers or fit models.

    Within a rank the order is the drawn one. What is quick comes last and fills the time in which other processes end.
    """
    rank: dict[Path, int] = defaultdict(lambda: 2)
    for item in items:
        keywords = item.keywords
        of_item = 0 if "alone" in keywords else 1 if "needs_broker" in keywords or "slow" in keywords else 2
        rank[item.path] = min(rank[item.path], of_item)
    items.sort(key=lambda item: rank[item.path])


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """First, hence outside pytest-timeout's clock: a test does not pay for its wait."""
    if not hasattr(item.config, "workerinput"):
        return (yield)
    factory: pytest.TempPathFactory = item.config._tmp_path_factory  # type: ignore[attr-defined]
    with turn(factory.getbasetemp().parent, alone="alone" in item.keywords):
        return (yield)


@contextmanager
def turn(folder: Path, *, alone: bool) -> Iterator[None]:
    """Wait until a test may run, in a folder that all processes of the run share; what one that dies holds is free.

    1. Pass the gate: who wants to be alone keeps it, so that no other one begins and it is soon alone.
    2. Be one of many, or the only one.
    """
    with ExitStack() as stack:
        gate, hall = (stack.enter_context((folder / name).open("w")) for name in ("gate", "hall"))
        # 1.
        fcntl.flock(gate, fcntl.LOCK_EX)
        # 2.
        fcntl.flock(hall, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield


def limit_examples(item: pytest.Item, count: int) -> None:
    """Hypothesis has no option for this: a number given at a test beats any profile, so it is replaced at the test."""
    test = getattr(item, "obj", None)
    attribute = "_hypothesis_internal_use_settings"
    given = getattr(test, attribute, None)
    if given is not None and given.max_examples > count:
        setattr(test, attribute, hypothesis.settings(given, max_examples=count))


@dataclass
class LeftOut:
    """A test that no process ran, in the one that reports: as much of it as the report needs."""

    nodeid: str


def pytest_deselected(items: list[pytest.Item]) -> None:
    for item in items:
        item.config.stash.setdefault(DESELECTED, []).append(item.nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """All processes collect all tests, so each says the same of those left out; pytest-xdist reports none of it."""
    left_out = getattr(node, "workeroutput", {}).get("deselected")
    if left_out:
        reporter = node.config.pluginmanager.get_plugin("terminalreporter")
        reporter.stats["deselected"] = [LeftOut(nodeid) for nodeid in left_out]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """CI has, or installs, whatever a test asks for: what is skipped there was not tried, and that is a failure."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["deselected"] = session.config.stash.get(DESELECTED, [])
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if IN_CI and exitstatus == 0 and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was not tried, and why: the last thing before the closing line."""
    skipped = terminalreporter.stats.get("skipped", [])
    deselected = terminalreporter.stats.get("deselected", [])
    if not skipped and not deselected:
        return
    terminalreporter.section("not tried, and why")
    by_reason: dict[str, Counter[str]] = defaultdict(Counter)
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        by_reason[reason.removeprefix("Skipped: ")][report.nodeid.split("::")[0]] += 1
    if deselected:
        options = terminalreporter.config.option
        left_out = " and ".join(f"{one!r}" for one in (options.markexpr, options.keyword) if one)
        by_reason[f"left out by {left_out}"].update(item.nodeid.split("::")[0] for item in deselected)
    for reason, counts in by_reason.items():
        terminalreporter.line(f"{counts.total()} test{'s' * (counts.total() != 1)}: {reason}")
        for path, count in sorted(counts.items()):
            terminalreporter.line(f"  {path} ({count})")
