"""The admin server: /metrics, /healthz and /readyz on a port of their own.

It runs in the worker's event loop on purpose: a loop that hangs answers no probe, and Kubernetes restarts the worker.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass, field

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder


@dataclass
class Progress:
    """Liveness as progress: healthy while every position moves or nothing waits there.

    "The process is up" says little: a consumer can stop for good after a rebalance or a broker outage, and commits can
    stop while processing goes on. So `positions` has to be what is committed, and `lag` what lies behind that. Each
    source partition is watched by itself: one that stands still among others that move is a stall as well.

    Attributes:
        positions: by whatever is watched: something that changes when work is done there.
        lag: by the same: records known to wait.
        stall_s: how long a position may stand while records wait.
    """

    positions: Callable[[], Mapping[Hashable, Hashable]]
    lag: Callable[[], Mapping[Hashable, int]]
    stall_s: float
    clock: Callable[[], float] = time.monotonic
    _seen: dict[Hashable, Hashable] = field(default_factory=dict, init=False)
    _stalled_since_s: dict[Hashable, float] = field(default_factory=dict, init=False)

    def complaint(self) -> str:
        """Why the worker is unhealthy, or ""."""
        now_s, positions, lag = self.clock(), dict(self.positions()), self.lag()
        since_s: dict[Hashable, float] = {}
        for place, position in positions.items():
            if lag.get(place, 0) > 0 and self._seen.get(place) == position:
                # From the first look that found nothing moved, not from the last move: after an idle hour a single new
                # event is no stall.
                since_s[place] = self._stalled_since_s.get(place, now_s)
        self._seen, self._stalled_since_s = positions, since_s
        stalled = {place: now_s - began_s for place, began_s in since_s.items() if now_s - began_s >= self.stall_s}
        if not stalled:
            return ""
        place, stalled_s = max(stalled.items(), key=lambda item: item[1])
        others = f", and {len(stalled) - 1} more" if len(stalled) > 1 else ""
        return f"{place}: nothing moved for {stalled_s:.0f} s while {lag[place]} records wait{others}"


def admin_app(registry: CollectorRegistry, unhealthy: Callable[[], str], unready: Callable[[], str]) -> web.Application:
    """The three pages.

    Args:
        registry: what /metrics shows; `/metrics?name[]=NAME` (repeatable) shows these samples alone, as Prometheus'
            own client does.
        unhealthy: why the worker should be restarted, or "".
        unready: why the worker is not processing yet (restoring, no assignment), or "".
    """

    async def metrics(request: web.Request) -> web.Response:
        try:
            encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        except (TypeError, ValueError):  # it compares versions that are none
            encode, content_type = choose_encoder("")
        names = request.query.getall("name[]", [])
        wanted = registry.restricted_registry(names) if names else registry
        # All of them are some 400 lines made in Python: in a thread they take turns with the loop.
        body = await asyncio.to_thread(encode, wanted)
        return web.Response(body=body, headers={"Content-Type": content_type})

    def probe(complain: Callable[[], str]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def answer(_: web.Request) -> web.StreamResponse:
            complaint = complain()
            return web.json_response({"ok": not complaint, "why": complaint}, status=503 if complaint else 200)

        return answer

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", probe(unhealthy))
    app.router.add_get("/readyz", probe(unready))
    return app


class AdminServer:
    """`admin_app` on a socket."""

    def __init__(self, app: web.Application) -> None:
        self._runner = web.AppRunner(app, access_log=None)

    async def start(self, host: str, port: int) -> int:
        """Listen; port 0 takes any free one.

        Returns:
            The port.

        Raises:
            OSError: the port is taken, or the address is not this machine's.
        """
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Close the socket and its connections."""
        await self._runner.cleanup()
