import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.metrics import quality

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from sklearn import metrics as judge


@given(
    pairs=st.lists(st.tuples(st.booleans(), st.integers(1, 20)), min_size=2, max_size=200).filter(
        lambda pairs: len({label for label, _ in pairs}) == 2
    )
)
def test_figures_are_scikit_learns(pairs: list[tuple[bool, int]]) -> None:
    label = np.array([label for label, _ in pairs])
    score = np.array([level / 21 for _, level in pairs], np.float32)  # few levels: many ties
    found = quality(label, score, 0.25)
    assert found.auc == pytest.approx(judge.roc_auc_score(label, score))
    assert found.log_loss == pytest.approx(judge.log_loss(label, score.astype(float)), rel=1e-6)
    assert found.brier == pytest.approx(judge.brier_score_loss(label, score))
    assert found.base_rate == label.mean()
    assert found.base_log_loss == pytest.approx(judge.log_loss(label, np.full(len(label), 0.25)))


def test_certainty_that_is_wrong_costs_much_and_not_everything() -> None:
    assert 15 < quality(np.array([True, False]), np.array([0.0, 1.0], np.float32), 0.5).log_loss < 20
