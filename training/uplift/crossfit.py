"""Predictions for every customer of a trial by models that have not seen that customer."""

import numpy as np

from training.errors import TrainingError
from training.uplift.evaluate import Predicted, predict
from training.uplift.model import fit
from training.uplift.trial import Trial


def crossfit(trial: Trial, folds: int, seed: int) -> tuple[Predicted, str]:
    """Cut the trial in parts at random; choose, fit and set the threshold on all but one, predict that one; in turns.

    Curves rank by the rank within a part: a part that by chance responds more leaves a lower mean to its own model, and
    gains of several models in one ranking would show that as a model that is worse than random.

    Returns:
        What was predicted, and the arm that most parts' training found best for everybody.

    Raises:
        TrainingError: fewer customers than a fold needs.
    """
    if len(trial) < 100 * folds:
        raise TrainingError(f"{len(trial)} customers are too few for {folds} folds")
    of = np.random.default_rng(seed).permutation(len(trial)) % folds
    best, gain, score = np.empty(len(trial), np.int64), np.empty(len(trial)), np.empty(len(trial))
    rivals = []
    for fold in range(folds):
        left_out = np.flatnonzero(of == fold)
        learned, _ = fit(trial.take(np.flatnonzero(of != fold)), seed)
        predicted = predict(learned, trial.take(left_out))
        best[left_out], gain[left_out] = predicted.best, predicted.gain
        score[left_out] = np.searchsorted(np.sort(predicted.gain), predicted.gain) / len(left_out)
        rivals.append(learned.everybody)
    return Predicted(best, gain, score), max(rivals, key=rivals.count)
