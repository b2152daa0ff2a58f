"""`Ops` on TensorFlow tensors, eager or in a graph."""

from __future__ import annotations

import numpy as np
import tensorflow as tf


class TensorFlowOps:
    """Tensor operations; variables are `tf.Variable`s."""

    def array(self, value, dtype=None):
        return tf.constant(np.array(value, dtype=dtype))

    def numpy(self, x):
        return x.numpy()

    def dtype(self, x):
        return x.dtype.name

    def cast(self, x, dtype):
        return tf.cast(x, dtype)

    def zeros(self, shape, dtype):
        return tf.zeros(shape, dtype)

    def reshape(self, x, shape):
        return tf.reshape(x, shape)

    def concat(self, parts):
        return tf.concat(parts, 0)

    def sum(self, x):
        return tf.reduce_sum(x)

    def sqrt(self, x):
        return tf.sqrt(x)

    def where(self, condition, x, y):
        return tf.where(condition, x, y)

    def minimum(self, x, y):
        return tf.minimum(x, y)

    def add_scaled(self, x, y, factor, *, out=None):
        return x + y * factor

    def argmax(self, x):
        return tf.argmax(x, -1)

    def cross_entropy(self, logits, labels):
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)

    def variable(self, value, dtype=None):
        return tf.Variable(np.array(value, dtype=dtype), trainable=False)

    def read(self, variable):
        return variable.read_value()

    def assign(self, variable, value):
        variable.assign(value)

    def assign_add(self, variable, value):
        variable.assign_add(value)
