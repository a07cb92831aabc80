"""Health is progress; the admin server says it over a real socket."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from stream.health import AdminServer, Progress, admin_app
from stream.metrics import Metrics


class World:
    """Positions, lag and time that a test moves by hand."""

    def __init__(self) -> None:
        self.position, self.waiting, self.now_s, self.other = 0, 0, 1000.0, 0
        self.progress = Progress(
            positions=lambda: {"orders[0]": self.position, "orders[1]": self.other},
            lag=lambda: {"orders[0]": self.waiting},
            stall_s=30,
            clock=lambda: self.now_s,
        )

    def look(self, *, after_s: float, position: int, waiting: int) -> str:
        self.now_s += after_s
        self.position, self.waiting = position, waiting
        self.other += 1  # another partition moves all the time
        return self.progress.complaint()


def test_idle_for_hours_and_then_one_event_is_no_stall() -> None:
    world = World()
    assert world.look(after_s=0, position=5, waiting=0) == ""
    assert world.look(after_s=7200, position=5, waiting=0) == ""
    assert world.look(after_s=7200, position=5, waiting=1) == ""


def test_records_wait_and_nothing_moves() -> None:
    world = World()
    world.look(after_s=0, position=5, waiting=9)
    assert world.look(after_s=10, position=5, waiting=9) == ""
    assert world.look(after_s=29.9, position=5, waiting=12) == ""
    complaint = world.look(after_s=0.1, position=5, waiting=12)
    assert complaint.startswith("orders[0]: nothing moved for 30 s")
    assert "12 records" in complaint
    # It heals where it moves again, and the time starts anew.
    assert world.look(after_s=10, position=6, waiting=11) == ""
    assert world.look(after_s=10, position=6, waiting=11) == ""
    assert world.look(after_s=29, position=6, waiting=11) == ""
    assert world.look(after_s=1, position=6, waiting=11) != ""


def test_slow_but_moving_is_healthy() -> None:
    world = World()
    for position in range(20):
        assert world.look(after_s=29, position=position, waiting=1_000_000) == ""


def test_a_rebalance_that_takes_positions_away_counts_as_a_move() -> None:
    world = World()
    world.look(after_s=0, position=5, waiting=9)
    world.look(after_s=1, position=5, waiting=9)
    assert world.look(after_s=40, position=0, waiting=9) == ""


Ask = Callable[[str], Awaitable[tuple[int, dict[str, object]]]]


def served(unhealthy: Callable[[], str], unready: Callable[[], str], ask: Callable[[Ask], Awaitable[None]]) -> None:
    async def run() -> None:
        server = AdminServer(admin_app(CollectorRegistry(), unhealthy, unready))
        port = await server.start("127.0.0.1", 0)
        try:
            async with aiohttp.ClientSession() as session:

                async def get(path: str) -> tuple[int, dict[str, object]]:
                    async with session.get(f"http://127.0.0.1:{port}{path}") as answer:
                        return answer.status, await answer.json()

                await ask(get)
        finally:
            await server.stop()

    asyncio.run(run())


def test_probes_are_asked_each_time_and_say_why() -> None:
    why = {"healthz": "", "readyz": "restoring 2 partitions"}

    async def ask(get: Ask) -> None:
        assert await get("/healthz") == (200, {"ok": True, "why": ""})
        assert await get("/readyz") == (503, {"ok": False, "why": "restoring 2 partitions"})
        why["healthz"], why["readyz"] = "no position moved", ""
        assert await get("/healthz") == (503, {"ok": False, "why": "no position moved"})
        assert await get("/readyz") == (200, {"ok": True, "why": ""})

    served(lambda: why["healthz"], lambda: why["readyz"], ask)


def test_metrics_are_read_by_prometheus_own_parser() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.event["clickstream", "applied"].inc(12)
    metrics.decisions.labels('a "quoted"\nreason').inc()

    async def run() -> str:
        server = AdminServer(admin_app(registry, str, str))
        port = await server.start("127.0.0.1", 0)
        try:
            async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
                assert answer.status == 200
                assert answer.content_type == "text/plain"
                plain = await answer.text()
            garbled = {"Accept": "application/openmetrics-text; version=1.x"}
            async with (
                aiohttp.ClientSession(headers=garbled) as session,
                session.get(f"http://127.0.0.1:{port}/metrics") as answer,
            ):
                assert (answer.status, answer.content_type) == (200, "text/plain")
            openmetrics = {"Accept": "application/openmetrics-text; version=1.0.0"}
            async with (
                aiohttp.ClientSession(headers=openmetrics) as session,
                session.get(f"http://127.0.0.1:{port}/metrics") as answer,
            ):
                assert answer.content_type == "application/openmetrics-text"
                assert (await answer.text()).endswith("# EOF\n")
            few = {"name[]": "offerstream_decisions_total"}
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{port}/metrics", params=few) as answer,
            ):
                names = {family.name for family in text_string_to_metric_families(await answer.text())}
                assert names == {"offerstream_decisions"}
        finally:
            await server.stop()
        return plain

    samples = {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(asyncio.run(run()))
        for s in family.samples
    }
    assert samples["offerstream_events_total", (("outcome", "applied"), ("source", "clickstream"))] == 12
    assert samples["offerstream_events_total", (("outcome", "dead"), ("source", "orders"))] == 0
    assert samples["offerstream_decisions_total", (("reason", 'a "quoted"\nreason'),)] == 1


def test_a_taken_port_raises_and_leaves_nothing_open() -> None:
    async def run() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            server = AdminServer(admin_app(CollectorRegistry(), str, str))
            with pytest.raises(OSError, match="address already in use"):
                await server.start("127.0.0.1", taken.getsockname()[1])
            await server.stop()

    asyncio.run(run())
