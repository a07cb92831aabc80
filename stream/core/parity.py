"""Parity: between groups of users, offers of a campaign are made about as often; what would go too far is withheld.

A tally counts, by group, how often a campaign could have offered something (`asked`) and how often it did (`offered`).
An offer to a group is withheld where the group's offers would then be more than one ahead of

    lowest rate of the other groups / least ratio x times that the group was asked,

the rate being offered / asked. The one that they may be ahead is what lets a campaign begin, and lets the group that is
behind catch up. Others count once they were asked `COMPARED_FROM` times; a lone group has no bound. Nobody is given
an offer for parity's sake: where the policy wants none for a group, the others wait.

Each partition has its own tallies, stored with the rows as budgets are, so the bound holds in each of them, whatever
crashes and without asking anybody. Ratios of sums are not sums of ratios: over all partitions it holds as far as the
groups are spread over them alike, which users are, by a hash of their id.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stream.core.facts import Triggers

Counts = NDArray[np.int64]
Mask = NDArray[np.bool_]

GROUPS = ("segment", "tier", "learned_segment")
"""What users can be grouped by: a number of few values that the row tells."""

N_GROUPS = 17
"""Not known, and 0 to 15; learned segments above that are taken for the last."""

COMPARED_FROM = 30
"""Times that a group was asked before others are held to its rate: less often a rate says little."""

UNBOUNDED = 2**62


def groups(by: str, triggers: Triggers, at: Counts) -> Counts:
    """The group of each of the triggers `at`, int64 [n] below N_GROUPS; 0 where it is not known."""
    if by == "segment":
        return triggers.segments()[at].astype(np.int64) + 1
    number = triggers.fact(by)[at]
    known = ~np.isnan(number)
    return np.where(known, np.minimum(np.where(known, number, 0) + 1, N_GROUPS - 1), 0).astype(np.int64)


def _zeros() -> Counts:
    return np.zeros(N_GROUPS, np.int64)


@dataclass(slots=True)
class Tally:
    """What one partition counts for one campaign, int64 [N_GROUPS] each."""

    by: str
    asked: Counts = field(default_factory=_zeros)
    offered: Counts = field(default_factory=_zeros)

    def left(self, ratio_min: float) -> Counts:
        """How many more offers each group may get now, [N_GROUPS]."""
        compared = self.asked >= COMPARED_FROM
        rate = np.where(compared, self.offered / np.maximum(self.asked, 1), np.inf)
        lowest, second = np.partition(rate, 1)[:2].tolist()
        others = np.full(N_GROUPS, lowest)
        others[np.argmin(rate)] = second
        bounded = np.isfinite(others)
        most = np.floor(np.where(bounded, others, 0) / ratio_min * self.asked + 1e-9) + 1
        return np.where(bounded, np.maximum(most - self.offered, 0), UNBOUNDED).astype(np.int64)

    def allows(self, group: Counts, asked: Mask, wanted: Mask, ratio_min: float) -> Mask:
        """Count who is asked; say which offers may be made, bool [n]: of each group the first ones.

        What is made of them the caller tells with `made`.

        Args:
            group: [n], of each trigger.
            asked: [n], who counts; those held out do not.
            wanted: [n], who would be offered something.
            ratio_min: least ratio of the lowest rate to any other, in (0, 1].
        """
        self.asked += np.bincount(group[asked], minlength=N_GROUPS)
        left = self.left(ratio_min)
        allowed = wanted.copy()
        for of in np.unique(group[wanted]).tolist():
            allowed[np.flatnonzero(wanted & (group == of))[left[of] :]] = False
        return allowed

    def made(self, group: Counts) -> None:
        """Count the offers that were made, [n] by group."""
        self.offered += np.bincount(group, minlength=N_GROUPS)

    def state(self) -> dict[str, float]:
        """To be stored with the rows: numbers by name, of groups that were asked."""
        told: dict[str, float] = {"by": GROUPS.index(self.by)}
        for group in np.flatnonzero(self.asked).tolist():
            told[f"asked_{group}"], told[f"offered_{group}"] = int(self.asked[group]), int(self.offered[group])
        return told

    @classmethod
    def from_state(cls, state: Mapping[str, float]) -> "Tally":
        """What `state` stored."""
        tally = cls(GROUPS[int(state["by"])])
        for group in range(N_GROUPS):
            tally.asked[group] = int(state.get(f"asked_{group}", 0))
            tally.offered[group] = int(state.get(f"offered_{group}", 0))
        return tally


def respread_tallies(states: list[Mapping[str, float]], n: int) -> list[dict[str, float]]:
    """The tallies of one campaign carried over to `n` partitions: summed, and spread as evenly as users are.

    Where partitions group differently, since some have not met the campaign's newest version, the most common one is
    kept; the others are counted anew.
    """
    tallies = [Tally.from_state(state) for state in states]
    kinds = [tally.by for tally in tallies]
    by = max(GROUPS, key=kinds.count)
    asked = sum((tally.asked for tally in tallies if tally.by == by), _zeros())
    offered = sum((tally.offered for tally in tallies if tally.by == by), _zeros())
    return [Tally(by, asked // n + (q < asked % n), offered // n + (q < offered % n)).state() for q in range(n)]
