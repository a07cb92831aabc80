"""Uplift from models of outcomes: S-, T-, X-learner and class transformation, over linear models or boosted trees.

Sources: Kuenzel, Sekhon, Bickel, Yu, "Metalearners for estimating heterogeneous treatment effects", PNAS 2019 (S, T,
X); Jaskowski, Jaroszewicz, "Uplift modeling for clinical trial data", ICML workshop 2012 (class transformation, with
the weights of Athey and Imbens, 2016, for arms of unequal size).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, StandardScaler

from training.tables import Reals

Flags = NDArray[np.bool_]
Target = NDArray[np.bool_] | NDArray[np.float64]
"""[N], what a model is to say."""
Matrix = NDArray[np.float64]
"""[N, F], from `Encoder`."""


@dataclass(frozen=True)
class Encoder:
    """Columns of a trial as one matrix: numbers as they are, text as its place among training's sorted values."""

    numbers: tuple[str, ...]
    levels: dict[str, tuple[str, ...]]
    """By column of text; the matrix has these columns after the numbers."""

    @property
    def n_numbers(self) -> int:
        """Columns that are numbers."""
        return len(self.numbers)

    def encode(self, features: dict[str, Reals | tuple[str, ...]]) -> Matrix:
        """float64 [N, F]; a level that training has not seen is -1."""
        columns = [np.asarray(features[name], np.float64) for name in self.numbers]
        for name, levels in self.levels.items():
            place = {level: float(number) for number, level in enumerate(levels)}
            columns.append(np.array([place.get(str(value), -1.0) for value in features[name]]))
        return np.column_stack(columns)


def encoder(features: dict[str, Reals | tuple[str, ...]]) -> Encoder:
    """What the training rows need."""
    numbers = tuple(name for name, column in features.items() if isinstance(column, np.ndarray))
    levels = {name: tuple(sorted(set(column))) for name, column in features.items() if isinstance(column, tuple)}
    return Encoder(numbers, levels)


class Base(Protocol):
    """Makes the models that a learner is built of. Columns from `n_numbers` on are codes."""

    def classifier(self, n_numbers: int, n_columns: int, target: Target) -> Any:  # noqa: ANN401  a scikit-learn estimator
        """Of a probability."""

    def regressor(self, n_numbers: int, n_columns: int, target: Target) -> Any:  # noqa: ANN401
        """Of a mean."""


@dataclass(frozen=True)
class Linear:
    """Main effects and all pairs, shrunk: discounts work on combinations of few attributes, and data are thin."""

    inverse_penalty: float

    def classifier(self, n_numbers: int, n_columns: int, target: Target) -> Any:  # noqa: ANN401, ARG002
        """Logistic regression."""
        model = LogisticRegression(C=self.inverse_penalty, solver="newton-cholesky", max_iter=100)
        return make_pipeline(*_pairs(n_numbers, n_columns), model)

    def regressor(self, n_numbers: int, n_columns: int, target: Target) -> Any:  # noqa: ANN401
        """Ridge regression, shrunk like the logistic one: near a rate p, a step in log odds moves p by p (1 - p)."""
        variance = max(float(np.var(target)), 1e-9)
        return make_pipeline(*_pairs(n_numbers, n_columns), Ridge(alpha=1 / (self.inverse_penalty * variance)))


def _pairs(n_numbers: int, n_columns: int) -> list[Any]:
    one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    parts = ColumnTransformer(
        [
            ("numbers", StandardScaler(), list(range(n_numbers))),
            ("codes", one_hot, list(range(n_numbers, n_columns))),
        ]
    )
    return [parts, PolynomialFeatures(2, interaction_only=True, include_bias=False)]


@dataclass(frozen=True)
class Trees:
    """Shallow boosted trees with large leaves: a leaf of few buyers says nothing about a difference of rates."""

    leaf_share: float
    seed: int

    def classifier(self, n_numbers: int, n_columns: int, target: Target) -> Any:  # noqa: ANN401
        """On the log loss."""
        return HistGradientBoostingClassifier(**self._settings(n_numbers, n_columns, len(target)))

    def regressor(self, n_numbers: int, n_columns: int, target: Target) -> Any:  # noqa: ANN401
        """On the squared error."""
        return HistGradientBoostingRegressor(**self._settings(n_numbers, n_columns, len(target)))

    def _settings(self, n_numbers: int, n_columns: int, n_rows: int) -> dict[str, Any]:
        return {
            "max_depth": 3,
            "max_iter": 80,
            "learning_rate": 0.06,
            "min_samples_leaf": max(20, int(self.leaf_share * n_rows)),
            "l2_regularization": 10.0,
            "early_stopping": False,
            "random_state": self.seed,
            "categorical_features": list(range(n_numbers, n_columns)),
        }


Learner = Callable[[Base, Matrix, Flags, Flags, float, int], "Fitted"]


class Fitted(Protocol):
    """A learned effect; picklable."""

    def uplift(self, x: Matrix) -> Reals:
        """P(outcome | given) - P(outcome | not given), [N]."""


@dataclass(frozen=True)
class SFitted:
    """One model with the gift as a column."""

    model: Any

    def uplift(self, x: Matrix) -> Reals:
        """See `Fitted`."""
        given, not_given = (np.insert(x, x.shape[1], flag, axis=1) for flag in (1.0, 0.0))
        return _probability(self.model, given) - _probability(self.model, not_given)


@dataclass(frozen=True)
class TFitted:
    """A model for each group."""

    given: Any
    not_given: Any

    def uplift(self, x: Matrix) -> Reals:
        """See `Fitted`."""
        return _probability(self.given, x) - _probability(self.not_given, x)


@dataclass(frozen=True)
class XFitted:
    """Two models of imputed effects, weighted by the design's propensity."""

    of_given: Any
    of_not_given: Any
    propensity: float

    def uplift(self, x: Matrix) -> Reals:
        """See `Fitted`; Kuenzel's weights: the propensity for the effect imputed on those not given."""
        e = self.propensity
        found: Reals = e * self.of_not_given.predict(x) + (1 - e) * self.of_given.predict(x)
        return found


@dataclass(frozen=True)
class ClassFitted:
    """A model of Z = outcome where given, no outcome where not."""

    model: Any

    def uplift(self, x: Matrix) -> Reals:
        """See `Fitted`: 2 P(Z) - 1 under weights that make both groups one half."""
        return 2 * _probability(self.model, x) - 1


def fit_s(base: Base, x: Matrix, given: Flags, outcome: Flags, propensity: float, n_numbers: int) -> SFitted:  # noqa: ARG001
    """One model; the gift is one more code, and pairs or splits let it meet the others."""
    columns = np.column_stack([x, given])
    return SFitted(base.classifier(n_numbers, columns.shape[1], outcome).fit(columns, outcome))


def fit_t(base: Base, x: Matrix, given: Flags, outcome: Flags, propensity: float, n_numbers: int) -> TFitted:  # noqa: ARG001
    """A model for each group."""
    models = [
        base.classifier(n_numbers, x.shape[1], outcome[group]).fit(x[group], outcome[group])
        for group in (given, ~given)
    ]
    return TFitted(*models)


def fit_x(base: Base, x: Matrix, given: Flags, outcome: Flags, propensity: float, n_numbers: int) -> XFitted:
    """Each group's outcomes against what the other group's model expects of it, then a regression on that."""
    first = fit_t(base, x, given, outcome, propensity, n_numbers)
    effect_given = outcome[given] - _probability(first.not_given, x[given])
    effect_not_given = _probability(first.given, x[~given]) - outcome[~given]
    shape = (n_numbers, x.shape[1])
    of_given = base.regressor(*shape, effect_given).fit(x[given], effect_given)
    of_not_given = base.regressor(*shape, effect_not_given).fit(x[~given], effect_not_given)
    return XFitted(of_given, of_not_given, propensity)


def fit_class(base: Base, x: Matrix, given: Flags, outcome: Flags, propensity: float, n_numbers: int) -> ClassFitted:
    """One model of Z."""
    weight = np.where(given, 0.5 / propensity, 0.5 / (1 - propensity))
    agrees = outcome == given
    model = base.classifier(n_numbers, x.shape[1], agrees)
    name = model.steps[-1][0] + "__sample_weight" if hasattr(model, "steps") else "sample_weight"
    return ClassFitted(model.fit(x, agrees, **{name: weight}))


LEARNERS: dict[str, Learner] = {"s": fit_s, "t": fit_t, "x": fit_x, "class": fit_class}


def bases(seed: int) -> dict[str, Base]:
    """By name."""
    return {"linear": Linear(0.03), "trees": Trees(0.02, seed)}


def _probability(model: Any, x: Matrix) -> Reals:  # noqa: ANN401
    found: Reals = model.predict_proba(x)[:, 1]
    return found
