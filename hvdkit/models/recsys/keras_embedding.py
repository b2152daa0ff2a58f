"""A table of which a step reads and writes a few rows."""

from __future__ import annotations

import tensorflow as tf
from keras import layers


class Embedding(layers.Layer):
    """Integers below `rows`, of any shape, to vectors of `dimension`.

    Rows are read from the variable itself: Keras's own layer copies the whole table first, and
    so the whole table would be the size of its gradient. With `sparse`, `sparse_rows` says that
    the gradient is to stay rows on its way through the strategy and the optimizer.
    """

    def __init__(self, rows: int, dimension: int, *, sparse: bool = False, name: str | None = None):
        super().__init__(name=name)
        self.rows, self.dimension, self.sparse_rows = rows, dimension, sparse

    def build(self, *_):
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.rows, self.dimension),
            initializer="zeros",
            autocast=False,  # in half precision it would cast all rows at every read
        )

    def call(self, ids):
        return tf.cast(tf.gather(self.embeddings.value, ids), self.compute_dtype)
