from collections.abc import Callable, Iterator

import numpy as np
import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from xxhash import xxh3_64_intdigest

from stream.core.events import EVENT, SOURCES, Kind
from stream.scoring.model import Model, load
from training.dataset import Dataset, Split, build, split_by_user
from training.fit import Fitted, Plan, fit
from training.log import EventLog
from training.models.registry import BUILDERS
from training.seeded import seeded_model

START_MS = 1_700_000_000_000
HOUR_MS = 3_600_000


def make_log(seed: int = 0, n_users: int = 120, n_events: int = 6_000) -> EventLog:
    """A shop in which a cart, and little else, says that somebody is about to buy.

    Four users in five who put something into the cart order within ten minutes; nobody else orders. Between two things
    that a user does lie a quarter of an hour to a day.
    """
    rng = np.random.default_rng(seed)
    said: list[tuple[int, int, Kind]] = []
    clock = START_MS + rng.integers(0, HOUR_MS, n_users)
    while len(said) < n_events:
        user = int(rng.integers(n_users))
        clock[user] += int(rng.choice([900_000, 7_200_000, 86_400_000], p=[0.3, 0.4, 0.3]))
        kind = (Kind.PAGE_VIEW, Kind.PRODUCT_VIEW, Kind.SEARCH, Kind.CART_ADD)[rng.choice(4, p=[0.3, 0.4, 0.2, 0.1])]
        said.append((int(clock[user]), user, kind))
        if kind is Kind.CART_ADD and rng.random() < 0.8:
            clock[user] += int(rng.integers(60_000, 600_000))
            said.append((int(clock[user]), user, Kind.ORDER_PLACED))
    said.sort()
    users = [f"user-{user}".encode() for user in range(n_users)]
    events = np.zeros(len(said), EVENT)
    row = np.array([user for _, user, _ in said])
    events["time_ms"] = [time_ms for time_ms, _, _ in said]
    events["kind"] = [kind for _, _, kind in said]
    events["offset"] = np.arange(len(said))
    events["event_id"] = np.arange(1, len(said) + 1)
    events["source"] = events["kind"] == Kind.ORDER_PLACED
    events["user"] = np.array([xxh3_64_intdigest(user) for user in users], np.uint64)[row]
    events["price_minor"] = rng.integers(100, 50_000, len(said))
    events["category"] = rng.integers(1, 9, len(said))
    events["product"] = rng.integers(1, 99, len(said))
    return EventLog(users, row, events)


@pytest.fixture(scope="session")
def make() -> Callable[..., EventLog]:
    return make_log


@pytest.fixture(scope="session")
def log() -> EventLog:
    return make_log()


@pytest.fixture(scope="session")
def dataset(log: EventLog) -> Dataset:
    return build(log, HOUR_MS)


@pytest.fixture(scope="session")
def model() -> Model:
    """A model that workers take, of drawn weights: it learnt nothing and took no time."""
    return load(seeded_model(3))


@pytest.fixture(scope="session")
def split(dataset: Dataset) -> Split:
    return split_by_user(dataset)


@pytest.fixture(scope="session")
def fitted(split: Split) -> Fitted:
    """One short training for all tests that need a trained network: it takes seconds."""
    return fit(BUILDERS["lstm"], split.train, split.valid, Plan(epochs=4, batch=16))


@pytest.fixture
def topics(broker: str, topic_prefix: str) -> Iterator[tuple[str, str]]:
    """(bootstrap, prefix) with source topics of two partitions."""
    admin = AdminClient({"bootstrap.servers": broker})
    made = [NewTopic(topic_prefix + source, 2, 1) for source in SOURCES]
    for future in admin.create_topics(made).values():
        future.result(30)
    yield broker, topic_prefix
    for future in admin.delete_topics([topic.topic for topic in made]).values():
        future.result(30)


@pytest.fixture
def models(broker: str, topic_prefix: str) -> Iterator[tuple[str, str]]:
    """(bootstrap, prefix) with an empty models topic."""
    admin = AdminClient({"bootstrap.servers": broker})
    topic = NewTopic(topic_prefix + "models", 1, 1, config={"cleanup.policy": "compact"})
    admin.create_topics([topic])[topic.topic].result(30)
    yield broker, topic_prefix
    admin.delete_topics([topic.topic])[topic.topic].result(30)
