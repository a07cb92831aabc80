"""An LSTM that says at which discount a user buys: 100 users, 10 features, and a published loss to stay below.

The users are drawn, since no public data says at which depth somebody would have bought. Three things that nobody sees
make them: how much the price matters to them, how active and how loyal they are. Ten features that a shop sees follow
from these, with noise; so does the target, `discount_demand`: the depth of discount, 0 to 0.5, at which the user buys.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

PUBLISHED_LOSS = 0.0951
"""Mean squared error of LSTM(50) and Dense(1) after 100 epochs in batches of 32, as published."""

TARGET = "discount_demand"
FEATURES = (
    *("orders_30d", "views_7d", "carts_1d", "searches_7d", "discount_share", "spend_minor"),
    *("days_since_last_buy", "rating_mean", "offers_dismissed_30d", "days_since_first_seen"),
)
N_USERS, TEST_SHARE, SPLIT_SEED = 100, 0.2, 42
UNITS, EPOCHS, BATCH = 50, 100, 32


class Users(NamedTuple):
    """Drawn users."""

    features: NDArray[np.float64]
    """[N, F]; counts, amounts and times as logarithms, as in the worker's step."""
    demand: NDArray[np.float64]
    """[N], discount_demand: a share of the price."""


def draw_users(seed: int, n_users: int = N_USERS) -> Users:
    """Users from a seed."""
    rng = np.random.default_rng(seed)
    price, active, loyal = rng.normal(size=(3, n_users))

    def noise(scale: float) -> NDArray[np.float64]:
        return rng.normal(scale=scale, size=n_users)

    def counted(log_rate: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.log2(1 + rng.poisson(np.exp(log_rate)))

    discount_share = _squash(1.2 * price + noise(0.2))
    orders = counted(0.6 + 0.6 * loyal + 0.3 * active)
    searches = counted(1.0 + 0.5 * active + 0.2 * price)
    log_spend = 8.0 + 0.7 * loyal - 0.3 * price + noise(0.3)
    columns = {
        "orders_30d": orders,
        "views_7d": counted(2.2 + 0.8 * active),
        "carts_1d": counted(0.3 + 0.5 * active),
        "searches_7d": searches,
        "discount_share": discount_share,
        "spend_minor": log_spend,
        "days_since_last_buy": 2.0 - 0.6 * loyal + noise(0.3),
        "rating_mean": np.clip(4.0 + 0.4 * loyal + noise(0.4), 1, 5),
        "offers_dismissed_30d": counted(0.5 - 0.5 * price),
        "days_since_first_seen": 5.0 + 0.5 * loyal + noise(0.5),
    }
    wish = 0.9 * _scaled(discount_share) - 0.5 * _scaled(orders) + 0.3 * _scaled(searches) - 0.3 * _scaled(log_spend)
    return Users(np.stack([columns[name] for name in FEATURES], axis=1), 0.5 * _squash(wish - 1.2 + noise(0.1)))


class Reproduced(NamedTuple):
    """What came out."""

    figures: dict[str, Any]
    train_loss: list[float]
    """By epoch."""
    test_loss: list[float]
    demand: NDArray[np.float64]
    """[test users], as drawn: a share of the price."""
    said: NDArray[np.float64]
    """[test users], by the network."""


def reproduce(users: Users, seed: int, epochs: int = EPOCHS) -> Reproduced:
    """Train as published, judge on the fifth of the users that was kept apart.

    Features and target are standardised with mean and deviation of the training users, so a loss is in variances of the
    target: saying the mean of the training users costs about 1.

    Args:
        users: of `draw_users`.
        seed: of weights and batches.
        epochs: how often every user is seen.
    """
    keras.utils.set_random_seed(seed)
    train, test = train_test_split(np.arange(len(users.demand)), test_size=TEST_SHARE, random_state=SPLIT_SEED)
    x = (users.features - users.features[train].mean(axis=0)) / users.features[train].std(axis=0)
    mean, deviation = users.demand[train].mean(), users.demand[train].std()
    y = (users.demand - mean) / deviation
    sequence = x[:, None, :]  # one step of ten features
    network = keras.Sequential(
        [keras.Input(sequence.shape[1:]), keras.layers.LSTM(UNITS), keras.layers.Dense(1)], name="reproduction"
    )
    network.compile(optimizer="adam", loss="mse")
    told = network.fit(
        sequence[train],
        y[train],
        epochs=epochs,
        batch_size=BATCH,
        validation_data=(sequence[test], y[test]),
        verbose=0,
    ).history
    said = network.predict(sequence[test], verbose=0)[:, 0].astype(np.float64)
    figures = {
        "target": TARGET,
        "users": {"train": len(train), "test": len(test)},
        "loss": float(np.mean(np.square(said - y[test]))),
        "loss_of_the_mean": float(np.mean(np.square(y[test]))),
        "train_loss": float(told["loss"][-1]),
        "published_loss": PUBLISHED_LOSS,
        "mean_error_depth": float(np.abs(said - y[test]).mean() * deviation),
        "epochs": epochs,
        "batch": BATCH,
        "split_seed": SPLIT_SEED,
        "seed": seed,
    }
    return Reproduced(figures, told["loss"], told["val_loss"], users.demand[test], said * deviation + mean)


def _squash(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-x))


def _scaled(x: NDArray[np.float64]) -> NDArray[np.float64]:
    scaled: NDArray[np.float64] = (x - x.mean()) / x.std()
    return scaled
