"""The fault suite in short."""

import random
from pathlib import Path

import pytest

from tests.faults.__main__ import run

SECONDS = 60
"""Of injecting: with start and verdict some 90."""


@pytest.mark.needs_broker
def test_a_minute_of_faults(tmp_path: Path) -> None:
    suite, report = run(tmp_path, random.randrange(2**32), 40, SECONDS / 60)  # of the session's seed
    print(report)
    assert report["applied"] > 300
    assert report["offers"]
    assert suite.faults.total() >= 5
    bad = {name: report[name] for name in ("lost", "duplicated", "mismatched_rows", "stuck", "ended")}
    assert not any(bad.values()), report
