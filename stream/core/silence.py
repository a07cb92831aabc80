"""Silences: users from whom nothing has come for as long as a campaign waits.

A silence falls due at moments that its row alone determines: `after_ms` behind the user's last event, and where the
campaign says so every `repeat_ms` after that. A sweep covers the moments from one on and before another, and the next
one goes on there: so each moment is swept once, and no row has to remember that it was. An event that comes ends the
silence, and with it what was still to fall due.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stream.core.absorb import Events
from stream.core.campaign import Silence
from stream.core.decide import splitmix64, unit
from stream.core.events import EVENT, SILENCE
from stream.core.row import Rows

AGE_MAX_MS = 2**62
"""A silence is never too old to be answered: it lasts."""


def due_ms(rule: Silence, last_ms: NDArray[np.int64], begin_ms: int, end_ms: int) -> NDArray[np.int64]:
    """The latest moment from `begin_ms` on and before `end_ms` at which each silence falls due, int64 [n]; 0 = none.

    Args:
        rule: how long nothing is to come.
        last_ms: [n], event time of the users' last events; 0 = there was none.
        begin_ms: first moment.
        end_ms: first one that is not swept any more: at that time nothing has come for longer than the rule says.
    """
    due = last_ms + rule.after_ms
    if rule.repeat_ms:
        due = due + np.maximum(end_ms - 1 - due, 0) // rule.repeat_ms * rule.repeat_ms
    falls = (last_ms != 0) & (due >= begin_ms) & (due < end_ms)
    return np.where(falls, due, 0)


def unanswered(rule: Silence, rows: Rows, begin_ms: int, end_ms: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Those of the rows whose silence fell due, and to whom no offer was made since: (their places, when), [m].

    An offer since then has answered it: that of a longer rule, or one of which a crash left only the row.
    """
    due = due_ms(rule, rows["last_ms"], begin_ms, end_ms)
    at = np.flatnonzero((due != 0) & (rows["offer_last_ms"] < due))
    return at, due[at]


def as_triggers(rule: Silence, users: Sequence[int], due_ms: NDArray[np.int64]) -> Events:
    """Silences as what `decide` answers: EVENT [n] of kind SILENCE, at the moments at which they fell due.

    Args:
        rule: what they are due by; in the place of an offset stands how long nothing came.
        users: n hashes of user ids, as events carry them.
        due_ms: [n].
    """
    events = np.zeros(len(users), EVENT)
    events["kind"], events["user"] = SILENCE, users
    events["time_ms"], events["offset"] = due_ms, rule.after_ms
    return events


def draws_of(rule: Silence, triggers: Events) -> NDArray[np.float64]:
    """The random draw of each silence, a hash of its coordinates: float64 [n] in [0, 1), the same on every replay."""
    base = splitmix64(triggers["user"] ^ splitmix64(np.array(rule, np.uint64)).sum())
    return unit(splitmix64(base ^ triggers["time_ms"].astype(np.uint64)))
