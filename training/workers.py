"""Training by several processes at once, each with its share of every batch: `tf.distribute`.

Every worker reads the same events, draws the same windows, and takes its share of them; gradients are summed up over
all workers. So the weights are those of one process, but for the order in which floats are summed up, and for what
dropout leaves out. Worker 0 is the chief: it alone writes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from training.errors import TrainingError
from training.share import Share


def strategy_of(share: Share) -> Any:  # noqa: ANN401  TensorFlow has no types
    """The strategy of this process, made before TensorFlow computes anything. It waits until all workers are there."""
    return tf.distribute.get_strategy() if share.of == 1 else tf.distribute.MultiWorkerMirroredStrategy()


def over_workers(value: Any) -> Any:  # noqa: ANN401  a tensor
    """The sum over all workers, inside of what a strategy runs."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)


def agreed(weights: Sequence[NDArray[np.float32]], strategy: Any, share: Share) -> list[NDArray[np.float32]]:  # noqa: ANN401
    """The mean of all workers' weights: one machine's sums may differ from another's in their last bits."""
    if share.of == 1:
        return list(weights)
    mean = tf.function(lambda: [over_workers(tf.constant(one)) / share.of for one in weights])
    return [one.numpy() for one in strategy.run(mean)]


@contextmanager
def lost_told(share: Share) -> Iterator[None]:
    """A worker that is lost, in words.

    Raises:
        TrainingError: with them.
    """
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError) as error:
        if share.of == 1:
            raise
        raise TrainingError(
            f"a worker of {share.of} was lost: {str(error).splitlines()[0]}. Start all of them again"
        ) from error
