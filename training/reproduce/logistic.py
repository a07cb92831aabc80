"""Logistic regression by gradient descent on the log loss: who buys, from activity, purchase frequency and preference.

On the sessions of "Online Shoppers Purchasing Intention" (UCI 468; Sakar et al., Neural Computing and Applications,
2019). Left out on purpose: PageValues, which Google Analytics computes from the transaction that is to be predicted.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from training.metrics import auc, best_f1_threshold, decided, figures, log_loss, under_draws, user_draws
from training.tables import Table, read_table

PUBLISHED_ACCURACY = 0.85
TEST_SHARE, SPLIT_SEED = 0.2, 42
STEP, STEPS_MAX, GRADIENT_MIN = 1.0, 5_000, 1e-5
PENALTY = 1e-3  # of half the squared weights, a session: traffic types that are rare must not run away
N_DRAWS = 1_000
_RARE = 100  # sessions; a category of fewer is "other"

_COUNTS = ("Administrative", "Informational", "ProductRelated")
_DURATIONS = tuple(f"{name}_Duration" for name in _COUNTS)
_RATES = ("BounceRates", "ExitRates")
_COLUMNS = (*_COUNTS, *_DURATIONS, *_RATES, "SpecialDay", "Month", "TrafficType", "VisitorType", "Weekend", "Revenue")

Reals = NDArray[np.float64]


class Sessions(NamedTuple):
    """Features of visits, in three groups, and what became of them."""

    names: tuple[str, ...]
    group: tuple[str, ...]
    """Of each feature: activity, frequency or preference."""
    x: Reals
    """[N, F], not standardised."""
    bought: NDArray[np.bool_]
    """[N]."""


def read_sessions(path: str) -> Sessions:
    """The UCI file.

    Raises:
        TrainingError: not this file; it says line and column.
    """
    table = read_table(path, _COLUMNS)
    columns: dict[tuple[str, str], Reals] = {}
    for name in (*_COUNTS, *_DURATIONS):
        columns["activity", f"log {name}"] = np.log1p(table.numbers(name, least=0))
    for name in _RATES:
        columns["activity", name] = table.numbers(name, 0, 1)
    # The file knows nothing of earlier orders; that somebody has been here before is all it has of frequency.
    visitor = np.array(table.text("VisitorType", ("Returning_Visitor", "New_Visitor", "Other")))
    columns["frequency", "returning"] = (visitor == "Returning_Visitor").astype(np.float64)
    columns["preference", "SpecialDay"] = table.numbers("SpecialDay", 0, 1)
    columns["preference", "Weekend"] = _truth(table, "Weekend").astype(np.float64)
    for name in ("Month", "TrafficType"):
        columns |= {("preference", f"{name}={value}"): one for value, one in _one_hot(table.text(name)).items()}
    groups, names = zip(*columns, strict=True)
    return Sessions(names, groups, np.stack(list(columns.values()), axis=1), _truth(table, "Revenue"))


def _truth(table: Table, column: str) -> NDArray[np.bool_]:
    return np.isin(table.text(column, ("TRUE", "FALSE", "True", "False", "1", "0")), ("TRUE", "True", "1"))


def _one_hot(values: tuple[str, ...]) -> dict[str, Reals]:
    found, at, n = np.unique(values, return_inverse=True, return_counts=True)
    return {str(value): (at == place).astype(np.float64) for place, value in enumerate(found) if n[place] >= _RARE}


class Weights(NamedTuple):
    """Of a logistic regression on standardised features."""

    weight: Reals
    """[F]."""
    bias: float
    losses: list[float]
    """Penalised log loss, by step."""


def loss_and_gradient(x: Reals, bought: NDArray[np.bool_], weight: Reals, bias: float) -> tuple[float, Reals, float]:
    """Penalised mean log loss of sigmoid(x w + b), and its gradient in w and b.

    Args:
        x: [N, F], standardised.
        bought: [N].
        weight: [F].
        bias: not penalised.
    """
    z = x @ weight + bias
    # log(1 + exp(z)) without overflow
    loss = float(np.mean(np.logaddexp(0, z) - bought * z) + 0.5 * PENALTY * weight @ weight)
    wrong = (_sigmoid(z) - bought) / len(z)
    return loss, x.T @ wrong + PENALTY * weight, float(wrong.sum())


def descend(x: Reals, bought: NDArray[np.bool_]) -> Weights:
    """Gradient descent from zero, all sessions in every step, until the gradient vanishes."""
    weight, bias = np.zeros(x.shape[1]), 0.0
    losses = []
    for _ in range(STEPS_MAX):
        loss, slope, bias_slope = loss_and_gradient(x, bought, weight, bias)
        losses.append(loss)
        if max(float(np.abs(slope).max()), abs(bias_slope)) < GRADIENT_MIN:
            break
        weight = weight - STEP * slope
        bias -= STEP * bias_slope
    return Weights(weight, bias, losses)


class Reproduced(NamedTuple):
    """What came out."""

    figures: dict[str, Any]
    weights: Weights
    test: NDArray[np.int64]
    """Places of the sessions kept apart."""
    score: Reals
    """[test sessions]: P(purchase)."""


def reproduce(sessions: Sessions, seed: int = 0) -> Reproduced:
    """Fit to four fifths, judge on the fifth kept apart.

    The threshold is the one of the best F1 on the training sessions; 0.5, at which one session in fifty is called a
    buyer, is told beside it, since published accuracies are taken there.

    Args:
        sessions: of `read_sessions`.
        seed: of the bootstrap.

    Raises:
        TrainingError: see `read_sessions`.
    """
    train, test = train_test_split(np.arange(len(sessions.bought)), test_size=TEST_SHARE, random_state=SPLIT_SEED)
    mean, deviation = sessions.x[train].mean(axis=0), sessions.x[train].std(axis=0)
    x = (sessions.x - mean) / np.where(deviation > 0, deviation, 1)
    weights = descend(x[train], sessions.bought[train])
    score = _sigmoid(x @ weights.weight + weights.bias)
    bought, said = sessions.bought[test], score[test]
    threshold = best_f1_threshold(sessions.bought[train], score[train])
    draws = user_draws(len(test), N_DRAWS, seed)
    drawn = under_draws(bought, said, np.arange(len(test)), draws)
    everybody, nobody = decided(bought, np.ones(len(test)), 0.5), decided(bought, np.zeros(len(test)), 0.5)
    found = {
        "sessions": {"train": len(train), "test": len(test)},
        "features": {group: sessions.group.count(group) for group in ("activity", "frequency", "preference")},
        **{name: figure.said() for name, figure in figures(drawn).items()},
        "auc_train": auc(sessions.bought[train], score[train]),
        "log_loss_of_the_rate": log_loss(bought, np.full(len(test), sessions.bought[train].mean())),
        "at_half": decided(bought, said, 0.5)._asdict(),
        "at_threshold": decided(bought, said, threshold)._asdict(),
        "majority": {"accuracy": nobody.accuracy, "recall": 0.0, "f1": nobody.f1},
        "always_yes": {"accuracy": everybody.accuracy, "recall": 1.0, "f1": everybody.f1},
        "published_accuracy": PUBLISHED_ACCURACY,
        "steps": len(weights.losses),
        "split_seed": SPLIT_SEED,
    }
    return Reproduced(found, weights, test, said)


def _sigmoid(z: Reals) -> Reals:
    return np.exp(-np.logaddexp(0, -z))
