"""The best that can be reached from rows: who a customer is, foretold from facts by one who was told it of many others.

For an upper bound in `make shop-eval`, never for learning. Nothing that sees only rows can know more of a customer than
this does: it is fitted to the true type, of which the policies see nothing, in shops of its own, with more triggers
than any policy learns from. Softmax regression on the logarithms of facts, their squares and products.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream.core.response import Asked
from stream.shop.population import TYPES
from stream.shop.truth import Oracle, TrueForecast

Floats = NDArray[np.float64]
RIDGE = 1.0
ITERATIONS = 12


@dataclass(frozen=True, slots=True)
class Mixed:
    """The expected response of n customers who are of each type with some probability."""

    basket: Floats
    weights: Floats
    """[n, types]."""
    of_type: tuple[TrueForecast, ...]
    """By type, what n customers of it would do."""

    @property
    def buys_unprompted(self) -> Floats:
        """As `stream.core.response.Expected`."""
        unprompted = np.stack([told.buys_unprompted for told in self.of_type], axis=1)
        mean: Floats = (self.weights * unprompted).sum(axis=1)
        return mean

    def buys(self, depth: Floats) -> Floats:
        """As `stream.core.response.Expected`."""
        return self._mean([told.buys(depth) for told in self.of_type])

    def redeems(self, depth: Floats) -> Floats:
        """As `stream.core.response.Expected`."""
        return self._mean([told.redeems(depth) for told in self.of_type])

    def _mean(self, told: list[Floats]) -> Floats:
        mean: Floats = sum((self.weights[:, i, None] * one for i, one in enumerate(told)), np.zeros_like(told[0]))
        return mean


class Reachable:
    """As `stream.core.response.Responds`: what is expected of customers of whom only facts are known."""

    def __init__(self, facts: tuple[str, ...], seen: Floats, types: NDArray[np.int64], oracle: Oracle) -> None:
        """Fit to customers whose type is told.

        Args:
            facts: which are looked at.
            seen: [N, facts], at triggers.
            types: [N], of the customers.
            oracle: what customers of each type do.
        """
        self._facts, self._oracle = facts, oracle
        logs = _logs(seen)
        self._centre, self._scale = logs.mean(axis=0), logs.std(axis=0) + 1e-9
        x = self._columns(logs)
        self._coefficients = np.stack([_logistic(x, (types == i).astype(float)) for i in range(len(TYPES))], axis=1)

    def _columns(self, logs: Floats) -> Floats:
        z = (logs - self._centre) / self._scale
        products = [z[:, i] * z[:, j] for i in range(z.shape[1]) for j in range(i + 1)]
        return np.column_stack([np.ones(len(z)), z, *products])

    def weights(self, seen: Floats) -> Floats:
        """P(type | facts), [n, types]."""
        odds = 1 / (1 + np.exp(-np.clip(self._columns(_logs(seen)) @ self._coefficients, -30, 30)))
        weights: Floats = odds / odds.sum(axis=1, keepdims=True)
        return weights

    def forecast(self, triggers: Asked, at: NDArray[np.int64]) -> Mixed:
        """As `stream.core.response.Responds`."""
        seen = np.stack([triggers.fact(name)[at] for name in self._facts], axis=1)
        of_type = tuple(self._oracle.of_type(triggers, at, np.full(len(at), i)) for i in range(len(TYPES)))
        return Mixed(of_type[0].basket, self.weights(seen), of_type)


def _logs(seen: Floats) -> Floats:
    return np.log1p(np.maximum(np.nan_to_num(seen), 0))


def _logistic(x: Floats, outcome: Floats) -> Floats:
    """Logistic regression with a ridge, by Newton's method."""
    b = np.zeros(x.shape[1])
    b[0] = np.log(outcome.mean() / (1 - outcome.mean()))
    for _ in range(ITERATIONS):
        p = 1 / (1 + np.exp(-np.clip(x @ b, -30, 30)))
        curvature = (x * (p * (1 - p))[:, None]).T @ x + RIDGE * np.eye(len(b))
        b -= np.linalg.solve(curvature, x.T @ (p - outcome) + RIDGE * b)
    return b
