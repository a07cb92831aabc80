"""Shapley values of a score: over groups of features, and over the last steps.

A score is what the model says of a row's ring of steps, rebuilt from zero, so the networks that carry a state and those
that look at a window are explained alike. Values add up: base + their sum = score (Lundberg and Lee, "A unified
approach to interpreting model predictions", NIPS 2017). With so few players every coalition is asked, nothing is drawn.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.core.features import FEATURES
from stream.core.row import N_FEATURES, N_STEPS, new_rows
from stream.scoring.model import Model

GROUPS: dict[str, tuple[str, ...]] = {
    "what just happened": ("kind", "product_seen", "hour"),
    "how long known, how long away": ("tenure", "gap"),
    "how busy": ("events_1h", "events_1d", "session_events"),
    "interest in products": ("views_7d", "favourites_7d", "category_share"),
    "the cart": ("carts_1d",),
    "orders before": ("since_buy", "buys_30d"),
    "price and discounts": ("price", "discount_share"),
}
"""Every feature of the step is in one of them."""

STEPS_SHOWN = 7
"""Steps before the newest that are players of their own; what was before them is one more."""

EARLIER = "all before"

_PLACES = [[[feature.name for feature in FEATURES].index(name) for name in names] for names in GROUPS.values()]
if sorted(place for places in _PLACES for place in places) != list(range(N_FEATURES)):
    raise AssertionError(GROUPS)

_BACKGROUND = 24  # stand-ins for a feature that is not known

Steps = NDArray[np.uint8]
Coalitions = NDArray[np.bool_]


class Explained(NamedTuple):
    """A score, taken apart."""

    names: list[str]
    """[P], the players."""
    values: NDArray[np.float64]
    """[P]; base + sum = score."""
    base: float
    """What the model says where no player is known."""
    score: float


def background(model: Model, seed: int = 0) -> Steps:
    """Steps of nobody in particular, uint8 [_BACKGROUND, F]: from the model's golden examples.

    Each of their features was drawn on its own from the steps that the model was trained on.
    """
    golden = model.metadata.golden.steps.reshape(-1, N_FEATURES)
    return golden[np.random.default_rng(seed).permutation(len(golden))[:_BACKGROUND]]


def score_of(model: Model, histories: list[Steps]) -> NDArray[np.float64]:
    """P(purchase) after each history, as after a rebuild; float64 [n].

    Args:
        model: the model.
        histories: uint8 [1 to N_STEPS, F] each, oldest first.
    """
    rows = new_rows(len(histories))
    for at, steps in enumerate(histories):
        rows["steps"][at, : len(steps)] = steps
        rows["step_count"][at] = len(steps)
        rows["step_pos"][at] = len(steps) % N_STEPS
    newest = np.stack([steps[-1] for steps in histories])
    return model.score(newest, rows)[:, 0].astype(np.float64)


def by_group(model: Model, steps: Steps, stand_ins: Steps) -> Explained:
    """What each group of features adds, in all steps at once.

    A group that is not known is taken from a stand-in, in every step; over the stand-ins the mean is taken.

    Args:
        model: the model.
        steps: uint8 [1 to N_STEPS, F], oldest first.
        stand_ins: of `background`.
    """

    def ask(known: Coalitions) -> NDArray[np.float64]:
        histories = []
        for coalition in known:
            unknown = [place for places, is_in in zip(_PLACES, coalition, strict=True) if not is_in for place in places]
            for other in stand_ins:
                mixed = steps.copy()
                mixed[:, unknown] = other[unknown]
                histories.append(mixed)
        return score_of(model, histories).reshape(len(known), len(stand_ins)).mean(axis=1)

    return _explained(list(GROUPS), ask)


def by_step(model: Model, steps: Steps) -> Explained:
    """What each step before the newest adds: as if it had not been.

    Args:
        model: the model.
        steps: uint8 [2 to N_STEPS, F], oldest first.
    """
    shown = min(STEPS_SHOWN, len(steps) - 1)
    first = len(steps) - 1 - shown  # of those shown
    names = [f"{shown - at} before" for at in range(shown)]
    if first:
        names = [EARLIER, *names]

    def ask(known: Coalitions) -> NDArray[np.float64]:
        histories = []
        for coalition in known:
            of_step = coalition if not first else np.r_[np.repeat(coalition[0], first), coalition[1:]]
            histories.append(steps[np.r_[of_step, True]])
        return score_of(model, histories)

    return _explained(names, ask)


def _explained(names: list[str], ask: Callable[[Coalitions], NDArray[np.float64]]) -> Explained:
    shap = _shap()

    def of(z: NDArray[np.float64]) -> NDArray[np.float64]:
        return ask(z > 0.5)

    n = len(names)
    nobody, all_ = np.zeros((1, n)), np.ones((1, n))
    # Every coalition is asked (2^n samples), so its regression is exact; `Exact` spends a minute on compiling itself.
    explainer = shap.KernelExplainer(of, nobody, silent=True)
    values = np.asarray(explainer.shap_values(all_, nsamples=2**n, l1_reg=False, silent=True), np.float64).reshape(n)
    return Explained(names, values, float(of(nobody)[0]), float(of(all_)[0]))


def _shap() -> Any:  # noqa: ANN401  it has no types
    """The package, imported late: it takes seconds, and a worker does not have it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its import warns of its own dependencies
        import shap  # noqa: PLC0415
    return shap
