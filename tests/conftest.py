"""Fixtures for every test: one broker a session, topics of each test's own, the recorded data where it is there."""

import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream.broker.embedded import broker_from_environment

ROOT = Path(__file__).resolve().parent.parent
IN_CI = os.environ.get("CI") == "true"


@pytest.fixture(scope="session")
def broker() -> Iterator[str]:
    """`host:port` of a real Kafka: KAFKA_BOOTSTRAP's, else an embedded one of this session's own."""
    with broker_from_environment() as bootstrap:
        yield bootstrap


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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What uses the broker is marked by that use. First, so that `-m "not needs_broker"` sees the marks."""
    for item in items:
        if "broker" in getattr(item, "fixturenames", ()):
            item.add_marker("needs_broker")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """CI has, or installs, whatever a test asks for: what is skipped there was not tried, and that is a failure."""
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
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        terminalreporter.line(f"{report.nodeid}: {reason.removeprefix('Skipped: ')}")
    if deselected:
        expression = terminalreporter.config.option.markexpr or terminalreporter.config.option.keyword
        count = len(deselected)
        terminalreporter.line(f"{count} test{'s' * (count != 1)} left out by {expression!r}")
