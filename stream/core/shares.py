"""Shares: the purses of a budget carried over to another number of partitions, to the last unit."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from stream.core.budget import OF_PARITY, share_minor
from stream.core.parity import respread_tallies
from stream.core.row import Rows

State = Mapping[str, Mapping[str, float]]
"""What `Wallet.state` stored: purses, and tallies of offers by group, by the campaign's key."""

_SUMS = ("limit_minor", "settled_minor", "used_minor", "settled", "unknown", "overdrawn_minor")


def respread(
    states: Sequence[State], held_minor: Mapping[str, Sequence[int]], n: int
) -> list[dict[str, dict[str, float]]]:
    """The purses of `n` partitions that together hold what those of the old ones held.

    What is reserved goes where the user goes who has the offer. What is spent is told apart so that spent and reserved
    together are spread as evenly as limits are: then no partition is over its limit, and the budget as a whole cannot
    be overspent. A partition that got more open offers than its even part has less than nothing spent; the sum is
    right. What was reserved for users who were erased is held by nobody, and is spread evenly too.

    Args:
        states: of the old partitions.
        held_minor: by purse, what the rows of each new partition hold reserved, [n].
        n: new partitions.

    Returns:
        States, [n].
    """
    spread: list[dict[str, dict[str, float]]] = [{} for _ in range(n)]
    for key in dict.fromkeys(key for state in states for key in state):
        old = [state[key] for state in states if key in state]
        if key.startswith(OF_PARITY):
            for q, tally in enumerate(respread_tallies(old, n)):
                spread[q][key] = tally
            continue
        sums = {name: sum(int(purse[name]) for purse in old) for name in (*_SUMS, "spent_minor", "reserved_minor")}
        held = [int(minor) for minor in held_minor.get(key, [0] * n)]
        orphaned = sums["reserved_minor"] - sum(held)
        price, lasting = (sum(purse[name] for purse in old) / len(old) for name in ("price", "lasting"))
        for q in range(n):
            reserved = held[q] + share_minor(orphaned, q, n)
            taken = share_minor(sums["spent_minor"] + sums["reserved_minor"], q, n)
            spread[q][key] = {
                **{name: share_minor(sums[name], q, n) for name in _SUMS},
                "reserved_minor": reserved,
                "spent_minor": taken - reserved,
                "price": price,
                "lasting": lasting,
                "paced_ms": max(int(purse["paced_ms"]) for purse in old),
            }
    return spread


def count_held(held_minor: dict[str, NDArray[np.int64]], rows: Rows, to: NDArray[np.int64], n: int) -> None:
    """Add up, by purse and new partition, what rows hold reserved; in place.

    Args:
        held_minor: purse -> int64 [n]; grows.
        rows: ROW [N].
        to: [N], the partition that each goes to.
        n: partitions.
    """
    open_ = np.flatnonzero(rows["open_cost"])
    campaign, cost = rows["open_campaign"][open_], rows["open_cost"][open_].astype(np.int64)
    for key in np.unique(campaign).tolist():
        of_key = campaign == key
        sums = held_minor.setdefault(str(key), np.zeros(n, np.int64))
        np.add.at(sums, to[open_][of_key], cost[of_key])
