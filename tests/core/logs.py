"""Generated logs: events of several users in their order of application, as hard as a shop's life can make them."""

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from stream.core.events import EVENT, KINDS_OF_SOURCE, SOURCES, TIME_MIN_MS, Kind
from stream.core.row import WINDOWS
from tests.core.oracle import Event

YEAR_2100_MS = 4_102_444_800_000
SOURCE_OF_KIND = {kind: i for i, source in enumerate(SOURCES) for kind in KINDS_OF_SOURCE[source].values()}

Log = list[tuple[int, Event]]
"""(user's row, event), in order of application."""

_EDGES_MS = sorted({n * tile_ms for tiles, tile_ms in WINDOWS.values() for n in (1, tiles - 1, tiles, tiles + 1)})
_MINUTE_MS = 60_000


def _time(draw: Random, clock_ms: int, style: str) -> int:
    """An event time: mostly a little after the clock, sometimes on an edge of a tile or window, sometimes far off."""
    pause_ms = {"bursty": 200, "steady": 10 * _MINUTE_MS, "rare": 5 * 86_400_000}[style]
    way = draw.random()
    if way < 0.55:
        time_ms = clock_ms + int(draw.expovariate(1 / pause_ms))
    elif way < 0.70:
        time_ms = clock_ms  # twice in one millisecond
    elif way < 0.85:  # to the edge of a tile, and a whole number of tiles from there
        tile_ms = draw.choice([tile_ms for _, tile_ms in WINDOWS.values()])
        time_ms = (clock_ms // tile_ms + draw.randint(-12, 2)) * tile_ms + draw.choice([-1, 0, 1])
    elif way < 0.95:  # to the edge of a window
        time_ms = clock_ms + draw.choice([-1, -1, 1]) * draw.choice(_EDGES_MS) + draw.choice([-1, 0, 1])
    else:  # late beyond every window
        time_ms = clock_ms - draw.randint(31 * 86_400_000, 400 * 86_400_000)
    return min(max(time_ms, TIME_MIN_MS), YEAR_2100_MS)


def _event(draw: Random, time_ms: int, event_id: int) -> Event:
    """An event of any kind, each optional field missing half the time."""
    kind = draw.choice(list(Kind))
    given: dict[str, Any] = {
        "session": draw.randint(1, 3),
        "offer": draw.randint(1, 2**64 - 1),
        "price_minor": draw.choice([1, 99, 10**12, draw.randint(1, 10**6)]),
        "amount_minor": draw.choice([1, 10**12, draw.randint(1, 10**6)]),
        "discount_minor": draw.choice([1, 10**12, draw.randint(1, 10**6)]),
        "registered_ms": draw.randint(TIME_MIN_MS, YEAR_2100_MS),
        "product": draw.choice([draw.randint(1, 6), 2**32 - 1, draw.randint(1, 2**32 - 1)]),
        "category": draw.choice([draw.randint(1, 4), draw.randint(1, 14), 2**32 - 1]),
        "brand": draw.choice([draw.randint(1, 4), draw.randint(1, 14), 2**32 - 1]),
        "dwell_ms": draw.choice([999, 1000, 86_400_000, draw.randint(0, 100_000)]),
        "quantity": draw.choice([1, 10**6]),
        "results": draw.randint(1, 3),
        "birthday": draw.randint(1, 12) * 32 + draw.randint(1, 31),
        "tier": draw.randint(1, 4),
        "consent": draw.randint(1, 2),
        "objection": 1,
    }
    fields = {name: value for name, value in given.items() if draw.random() < 0.5}
    if kind == Kind.RATING:
        fields["rating"] = draw.randint(1, 5)
    return Event(time_ms, int(kind), event_id, SOURCE_OF_KIND[kind], **fields)


def random_log(draw: Random, n: int, n_users: int) -> Log:
    """A log of `n` events; users by Zipf's law, so that the first has many and most have few or none."""
    weights = [1 / (1 + u) ** 1.1 for u in range(n_users)]
    clock_ms = [
        draw.choice([TIME_MIN_MS, YEAR_2100_MS, draw.randint(TIME_MIN_MS, YEAR_2100_MS)]) for _ in range(n_users)
    ]
    style = [draw.choice(["bursty", "steady", "rare"]) for _ in range(n_users)]
    of_user: list[list[Event]] = [[] for _ in range(n_users)]
    log: Log = []
    for i in range(n):
        u = draw.choices(range(n_users), weights)[0]
        if (
            of_user[u] and draw.random() < 0.15
        ):  # a duplicate: mostly of something recent, sometimes of what is long forgotten
            event = draw.choice(of_user[u][-draw.choice([1, 5, 16, 17, 18, 40]) :])
        else:
            event = _event(draw, _time(draw, clock_ms[u], style[u]), draw.choice([i + 1, 2**64 - 1 - i]))
            clock_ms[u] = max(clock_ms[u], event.time_ms)
        event = event._replace(offset=i, user=u + 1)
        of_user[u].append(event)
        log.append((u, event))
    return log


@st.composite
def logs(draw: st.DrawFn, n_max: int = 60, n_users_max: int = 5) -> Log:
    n = draw(st.integers(0, n_max))
    return random_log(draw(st.randoms(use_true_random=True)), n, draw(st.integers(1, n_users_max)))


def as_columns(log: Log) -> tuple[NDArray[np.void], NDArray[np.int64]]:
    """(events as EVENT [N], each event's row [N])."""
    names = EVENT.names or ()
    events = np.array([tuple(getattr(e, name) for name in names) for _, e in log], EVENT)
    return events, np.array([u for u, _ in log], np.int64)


def of_user(log: Log, user: int) -> list[Event]:
    return [e for u, e in log if u == user]


def users(log: Log) -> Sequence[int]:
    return sorted({u for u, _ in log})
