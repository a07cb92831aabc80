"""Names and labels agree with docs/metrics.md both ways; the event loop's holds are measured, short and long."""

import asyncio
import re
import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from stream import metrics as m

DOCS = Path(__file__).resolve().parent.parent / "docs" / "metrics.md"


def described() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Name to (type, labels) as the class makes them, in the names that Prometheus shows."""
    registry = CollectorRegistry()
    made = m.Metrics(registry)
    found = {}
    for value in vars(made).values():
        name = getattr(value, "_name", None)
        if name is not None:
            found[name + "_total" * (value._type == "counter")] = (value._type, tuple(value._labelnames))
    # None was made that the holder does not name.
    families = {f.name + "_total" * (f.type == "counter") for f in registry.collect()}
    assert {name for name in families if not name.startswith("process_")} == set(found)
    return found


def documented() -> dict[str, tuple[str, tuple[str, ...]]]:
    rows = re.findall(r"^\| `(offerstream_\w+)` \| (\w+) \| ([^|]*)\|", DOCS.read_text(), re.MULTILINE)
    return {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def test_every_metric_is_documented_and_the_other_way_round() -> None:
    assert described() == documented()


def test_values_of_bound_labels_are_documented() -> None:
    text = DOCS.read_text()
    lines = {name: line for line in text.splitlines() for name in re.findall(r"^\| `(\w+)`", line)}
    for name, values in (
        ("offerstream_stage_seconds", m.STAGES),
        ("offerstream_events_total", m.OUTCOMES),
        ("offerstream_rows", m.ROWS_WHERE),
    ):
        named = set(re.findall(r"`([a-z]+)`", lines[name].split("|")[4]))
        assert set(values) == named - {"outcome"}, name


def test_process_metrics_are_documented() -> None:
    shown = {s.name for f in m.Metrics(CollectorRegistry()).registry.collect() for s in f.samples}
    process = {name for name in shown if name.startswith("process_")}
    assert process <= set(re.findall(r"`(process_\w+)`", DOCS.read_text()))


def held(registry: CollectorRegistry) -> tuple[float, float]:
    """How many turns were observed, and their sum in seconds."""
    count = registry.get_sample_value("offerstream_loop_held_seconds_count")
    total = registry.get_sample_value("offerstream_loop_held_seconds_sum")
    assert count is not None
    assert total is not None
    return count, total


@pytest.mark.alone
def test_a_held_loop_is_measured_and_a_waiting_one_is_not() -> None:
    registry = CollectorRegistry()
    made = m.Metrics(registry)

    async def run() -> None:
        m.loop_monitor(asyncio.get_running_loop(), made.loop_held)
        await asyncio.sleep(0)
        before = held(registry)
        await asyncio.sleep(0.2)  # waits: other work could be done
        after_wait = held(registry)
        assert after_wait[1] - before[1] < 0.1
        time.sleep(0.06)  # noqa: ASYNC251 (holds the loop on purpose)
        await asyncio.sleep(0)
        count, total = held(registry)
        assert count == after_wait[0] + 1
        assert 0.06 <= total - after_wait[1] < 0.2
        # Several callbacks of one turn add up: input waits for all of them.
        loop = asyncio.get_running_loop()
        for _ in range(3):
            loop.call_soon(time.sleep, 0.02)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert held(registry)[1] - total >= 0.06

    asyncio.run(run())
    assert registry.get_sample_value("offerstream_loop_held_seconds_bucket", {"le": "0.05"}) == held(registry)[0] - 2


def test_a_loop_without_a_selector_is_refused_by_name() -> None:
    class OtherLoop(asyncio.AbstractEventLoop):
        pass

    other = OtherLoop()  # type: ignore[abstract]
    with pytest.raises(TypeError, match="OtherLoop"):
        m.loop_monitor(other, m.Metrics(CollectorRegistry()).loop_held)
