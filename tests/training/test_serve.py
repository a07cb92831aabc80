import numpy as np

from stream.core.absorb import absorb
from stream.core.fold import turns
from stream.core.row import N_STEPS, new_rows
from stream.scoring.model import Model, load
from training.dataset import Dataset, of_users
from training.log import EventLog
from training.seeded import seeded_model
from training.serve import agreement, carried, rebuilt

HOUR_MS = 3_600_000


def test_the_data_set_is_scored_as_a_worker_scores(model: Model, log: EventLog, dataset: Dataset) -> None:
    """Rows, rounds and absorb on one side, the data set on the other: the same bits."""
    table = new_rows(len(log.users))
    worker = np.empty(len(log.events), np.float32)
    for start in range(0, len(log.events), 500):
        part = slice(start, start + 500)
        for turn in turns(log.events[part], log.row[part], table):
            worker[start + turn.at] = model.score(absorb(turn.events, turn.rows), turn.rows)[:, 0]
    expected = np.concatenate([worker[log.row == user] for user in range(len(log.users))])
    assert carried(model, dataset)[:, 0].tobytes() == expected.tobytes()


def test_rebuilt_scores_are_those_after_a_swap(model: Model, log: EventLog, dataset: Dataset) -> None:
    other = load(seeded_model(4))
    at = np.arange(0, len(dataset.steps), 37)
    found = rebuilt(model, dataset, at)
    place = np.concatenate(
        [np.flatnonzero(log.row == user) for user in range(len(log.users))]
    )  # of each step in the log
    for n, step in enumerate(at.tolist()):
        past = np.flatnonzero((log.row == log.row[place[step]]) & (np.arange(len(log.row)) <= place[step]))
        table = new_rows(1)
        for turn in turns(log.events[past[:-1]], np.zeros(len(past) - 1, np.int64), table):
            other.score(absorb(turn.events, turn.rows), turn.rows)
        (turn,) = turns(log.events[past[-1:]], np.zeros(1, np.int64), table)
        assert model.score(absorb(turn.events, turn.rows), turn.rows).tobytes() == found[n : n + 1].tobytes()


def test_agreement_is_exact_where_the_ring_holds_all(model: Model, dataset: Dataset) -> None:
    scores = carried(model, dataset)
    first = np.concatenate(
        [np.arange(a, min(a + N_STEPS, b)) for a, b in zip(dataset.starts, dataset.starts[1:], strict=False)]
    )
    assert rebuilt(model, dataset, first).tobytes() == scores[first].tobytes()


def test_agreement_looks_at_longer_histories_only(model: Model, dataset: Dataset) -> None:
    scores = carried(model, dataset)
    found = agreement(model, dataset, scores, at_most=200)
    assert found is not None
    assert 0 < found.steps <= 200
    assert 0 < found.median <= found.p99 <= found.max < 1
    short = of_users(dataset, np.arange(len(dataset.user)) < 1)
    short = short._replace(steps=short.steps[:20], starts=np.array([0, 20]))
    assert agreement(model, short, scores[:20]) is None
