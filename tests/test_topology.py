"""One batch through absorb, score and decide: a function of its input, however the input was cut."""

import itertools
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.campaigns.control import Shop, compile_campaigns
from stream.core.campaign import CampaignSet
from stream.core.decide import Reason
from stream.core.fold import fold
from stream.core.row import Rows, new_rows
from stream.kafka.control import InForce
from stream.scoring.model import Model, load
from stream.scoring.scorer import scored_by
from stream.topology import Outcome, process
from tests.core.logs import Log, as_columns, logs
from tests.core.oracle import Event, which_apply
from training.seeded import seeded_model

NOW_MS = 4_102_444_800_000
CAMPAIGN = {
    "id": "nudge",
    "name": "Nudge",
    "version": 1,
    "trigger": {"kinds": ["cart_add", "product_view", "search"]},
    "arms": [{"id": "ten", "kind": "percent", "percent": 10}],
    "policy": {"kind": "threshold", "probability": 0.6, "arm": "ten"},
    "holdout": 0.2,
    "valid_for": "24h",
}


@pytest.fixture(scope="module")
def model() -> Model:
    return load(seeded_model(3))


@pytest.fixture(scope="module")
def campaigns() -> CampaignSet:
    found, refused = compile_campaigns({"nudge": json.dumps(CAMPAIGN).encode()}, Shop("UTC", "EUR"))
    assert not refused
    return found


def run(events: Any, row: Any, in_force: InForce, cuts: list[int], n_rows: int) -> tuple[Rows, list[Outcome]]:
    """The batch in pieces that end at `cuts`."""
    rows = new_rows(n_rows)
    rows["consent"] = 2
    draws = np.linspace(0, 1, len(events), endpoint=False)
    ends = [0, *sorted(cuts), len(events)]
    pieces = [slice(a, b) for a, b in itertools.pairwise(ends) if a < b]
    return rows, [process(events[p], row[p], rows, in_force, NOW_MS, draws[p], 2**50, lambda _: None) for p in pieces]


def without_repeats_and_profiles(log: Log) -> Log:
    """What a partition hands over; profiles change who may get an offer as soon as they are noted: left out."""
    kept: Log = []
    for user in {u for u, _ in log}:
        events = [e for u, e in log if u == user and e.kind < 16]
        kept += [(user, e) for e, applies in zip(events, which_apply(events), strict=True) if applies]
    return sorted(kept, key=lambda entry: entry[1].offset)


@settings(max_examples=40, deadline=None)
@given(logs(n_max=40), st.lists(st.integers(0, 40), max_size=6), st.booleans())
def test_how_a_batch_is_cut_changes_nothing(
    model: Model, campaigns: CampaignSet, log: Log, cuts: list[int], with_model: bool
) -> None:
    log = without_repeats_and_profiles(log)
    if not log:
        return
    events, row = as_columns(log)
    n_rows = int(row.max()) + 1
    in_force = InForce(scored_by(model if with_model else None), campaigns)
    rows, [whole] = run(events, row, in_force, [], n_rows)
    rows_cut, parts = run(events, row, in_force, [min(c, len(events)) for c in cuts], n_rows)
    assert rows_cut.tobytes() == rows.tobytes()
    assert np.concatenate([o.steps for o in parts]).tobytes() == whole.steps.tobytes()
    assert set(whole.models.tolist()) == {model.hash if with_model else 0}
    assert np.concatenate([o.models for o in parts]).tobytes() == whole.models.tobytes()
    assert np.concatenate([o.row_seqs for o in parts]).tobytes() == whole.row_seqs.tobytes()
    assert np.concatenate([o.decisions for o in parts]).tobytes() == whole.decisions.tobytes()
    # ... and the same as folding, which training does, and as stepping the model by hand.
    table = new_rows(n_rows)
    steps, applied = fold(events, row, table)
    assert applied.all()
    assert steps.tobytes() == whole.steps.tobytes()
    for user in set(row.tolist()):
        of_user = row == user
        assert whole.row_seqs[of_user].tolist() == list(range(1, int(of_user.sum()) + 1))
        state = np.zeros((1, rows["state"].shape[1]), np.float16)
        for step, said in zip(steps[of_user], whole.decisions[of_user]["score"], strict=True):
            if with_model:
                assert model.advance(step[None], state)[0, 0] == said
            else:
                assert np.isnan(said)
        assert rows["state"][user].tobytes() == state.tobytes()
        assert rows["model"][user] == (model.hash if with_model else 0)
        offered = whole.decisions[of_user]["reason"] == Reason.OFFERED
        assert rows["offers_made"][user] == offered.sum()


def test_an_empty_batch(model: Model, campaigns: CampaignSet) -> None:
    events, row = as_columns([])
    outcome = process(
        events, row, new_rows(0), InForce(scored_by(model), campaigns), NOW_MS, np.empty(0), 1, lambda _: None
    )
    assert [len(part) for part in outcome] == [0, 0, 0, 0]


def test_stages_tell_when_they_end(model: Model, campaigns: CampaignSet) -> None:
    events, row = as_columns([(0, e) for e in _two_events()])
    laps: list[str] = []
    process(events, row, new_rows(1), InForce(scored_by(model), campaigns), NOW_MS, np.zeros(2), 1, laps.append)
    assert laps == ["absorb", "score", "decide"] * 2


def _two_events() -> list[Event]:
    return [Event(NOW_MS, 3, 1), Event(NOW_MS + 1, 1, 2)]
