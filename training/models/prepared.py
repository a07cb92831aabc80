"""The first layer of every network: `training.prepare`, in TensorFlow."""

import keras
import numpy as np
import tensorflow as tf

from training.prepare import DEVIATION_MAX, FLAG_VALUES, FLAGGED, HOUR, KIND, Standard, hour_table, kind_table


class Prepared(keras.layers.Layer):
    """Steps as a network wants them: float32 [..., F] to [..., P].

    Codes go through tables, "not known" becomes a flag, the whole step is standardised.
    """

    def __init__(self, standard: Standard) -> None:
        super().__init__(trainable=False, name="prepared")
        self._standard = standard
        self._kinds, self._hours = kind_table(), hour_table()

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """The layer itself."""
        kind = tf.gather(self._kinds, tf.cast(x[..., KIND], tf.int32))
        hour = tf.gather(self._hours, tf.cast(x[..., HOUR], tf.int32))
        flags = tf.cast(tf.equal(tf.gather(x, FLAGGED, axis=-1), FLAG_VALUES), tf.float32)
        standard = (x - self._standard.mean) / np.sqrt(self._standard.variance)
        return tf.concat([kind, hour, flags, tf.clip_by_value(standard, -DEVIATION_MAX, DEVIATION_MAX)], axis=-1)
