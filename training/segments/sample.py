"""What segments are learned from: steps of many users, and the rules' segment at each."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.core import windows
from stream.core.absorb import absorb
from stream.core.events import Kind
from stream.core.features import FEATURES, dequantise
from stream.core.fold import turns
from stream.core.row import DAY_MS, new_rows
from stream.core.segments import SEGMENT_RULES, Segment
from training.errors import TrainingError
from training.log import EventLog

USED = (
    *("since_buy", "tenure", "events_1d", "views_7d", "carts_1d", "favourites_7d"),
    *("buys_30d", "category_share", "discount_share"),
)
"""Features of the step that say something about the user. The others are about the one event."""

STEPS_A_USER = 20
"""At most, drawn evenly: a user with a thousand events is one user."""

_PLACES = [[feature.name for feature in FEATURES].index(name) for name in USED]
_CHUNK = 2_000


class Sample(NamedTuple):
    """Drawn steps."""

    steps: NDArray[np.uint8]
    """[N, F]."""
    user: NDArray[np.int64]
    """[N]: whose, 0 to U - 1."""
    rule: NDArray[np.uint8]
    """[N]: the `Segment` that the rules say, at the time of the event; dormant: before the event."""

    def used(self) -> NDArray[np.float32]:
        """The features that segments are learned from, float32 [N, len(USED)]."""
        return used(self.steps)


def used(steps: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The columns USED of steps [N, F], in the meaning of the features; "never bought" is its byte's, the longest."""
    return dequantise(steps)[:, _PLACES]


def draw(log: EventLog, seed: int) -> Sample:
    """Walk a log through rows as a worker does, and draw steps of every user.

    Args:
        log: all events, in the order in which they apply.
        seed: of what is drawn.

    Raises:
        TrainingError: no event makes a step.
    """
    rules = SEGMENT_RULES
    table = new_rows(len(log.users))
    steps, users, segments = [], [], []
    for start in range(0, len(log.events), _CHUNK):
        part = slice(start, start + _CHUNK)
        for turn in turns(log.events[part], log.row[part], table):
            last_ms = turn.rows["last_ms"].copy()
            had_ordered = turn.rows["kind_total"][:, Kind.ORDER_PLACED] > 0
            steps.append(absorb(turn.events, turn.rows))
            time_ms = turn.events["time_ms"]
            dormant = had_ordered & (time_ms - last_ms > rules.dormant_days * DAY_MS)
            orders = windows.count(turn.rows, rules.frequent_window, Kind.ORDER_PLACED)
            segment = np.where(dormant, np.uint8(Segment.DORMANT), np.uint8(Segment.REGULAR))
            segment[orders > rules.frequent_more_than] = Segment.FREQUENT
            segment[time_ms - turn.rows["first_ms"] < rules.new_days * DAY_MS] = Segment.NEW
            segments.append(segment)
            users.append(log.row[start + turn.at])
    if not steps:
        raise TrainingError("the log has no event of the kinds that a model learns from")
    user = np.concatenate(users)
    order = np.random.default_rng(seed).permutation(len(user))
    order = order[np.argsort(user[order], kind="stable")]
    first = np.searchsorted(user[order], user[order])
    kept = np.sort(order[np.arange(len(order)) - first < STEPS_A_USER])
    return Sample(np.concatenate(steps)[kept], user[kept], np.concatenate(segments)[kept])
