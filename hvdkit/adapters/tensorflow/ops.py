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

    def sum(self, x, axis=None):
        return tf.reduce_sum(x, axis)

    def max(self, x, axis):
        return tf.reduce_max(x, axis)

    def abs(self, x):
        return tf.abs(x)

    def round(self, x, *, out=None):
        return tf.round(x)

    def multiply(self, x, y, *, out=None):
        return x * y

    def sum_of_squares(self, x):
        return 2 * tf.nn.l2_loss(x)

    def sqrt(self, x):
        return tf.sqrt(x)

    def exp(self, x):
        return tf.exp(x)

    def log(self, x):
        return tf.math.log(x)

    def where(self, condition, x, y):
        return tf.where(condition, x, y)

    def minimum(self, x, y):
        return tf.minimum(x, y)

    def maximum(self, x, y):
        return tf.maximum(x, y)

    def is_finite(self, x):
        return tf.math.is_finite(x)

    def add_scaled(self, x, y, factor, *, out=None):
        return x + y * factor

    def matmul(self, x, y, *, transpose_x=False, transpose_y=False):
        return tf.matmul(x, y, transpose_a=transpose_x, transpose_b=transpose_y)

    def argmax(self, x):
        return tf.argmax(x, -1)

    def kth_largest(self, x, k):
        return tf.math.top_k(x, k, sorted=True).values[-1]

    def nonzero(self, mask):
        return tf.where(mask)[:, 0]

    def zero_at(self, x, index):
        zeros = tf.zeros(tf.shape(index), x.dtype)
        return tf.tensor_scatter_nd_update(x, index[:, None], zeros)

    def add_rows(self, x, start, values):
        end = start + values.shape[0]
        return tf.concat([x[:start], x[start:end] + values, x[end:]], 0)

    def bfloat16_bits(self, x):
        return tf.bitcast(tf.cast(x, tf.bfloat16), tf.int16)

    def from_bfloat16_bits(self, bits, dtype):
        return tf.cast(tf.bitcast(bits, tf.bfloat16), dtype)

    def in_pieces(self, function, *tensors, out=None):
        return function(*tensors)

    def join(self, parts, *, out):
        return parts[0] if len(parts) == 1 else tf.concat(parts, 0)

    def take_last(self, x, index):
        return tf.gather(x, index, batch_dims=len(index.shape))

    def cross_entropy(self, logits, labels, *, smoothing=0.0):
        logits = _at_least_fp32(logits)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        if smoothing:
            likely = self.take_last(logits, labels) - tf.reduce_mean(logits, -1)
            losses = losses + smoothing * likely
        return losses

    def binary_cross_entropy(self, logits, labels):
        logits = _at_least_fp32(logits)
        return tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)

    def histogram(self, index, weights, size):
        index, weights = tf.reshape(index, (-1,)), tf.reshape(weights, (-1,))
        return tf.math.unsorted_segment_sum(weights, index, size)

    def sum_rows(self, rows, values):
        unique, place = tf.unique(rows)
        return unique, tf.math.unsorted_segment_sum(values, place, tf.size(unique))

    def drop_zero_rows(self, rows, values):
        others = list(range(1, len(values.shape)))
        kept = tf.reduce_any(values != 0, others)
        return tf.boolean_mask(rows, kept), tf.boolean_mask(values, kept)

    def take_rows(self, variable, rows):
        return tf.gather(variable, rows)

    def put_rows(self, variable, rows, values):
        variable.scatter_update(tf.IndexedSlices(values, rows))

    def when(self, condition, then, otherwise):
        def branch(change):
            def run():
                change()
                return tf.constant(0)  # a branch has to return something

            return run

        tf.cond(condition, branch(then), branch(otherwise))

    def copy(self, variable):
        return tf.identity(variable.read_value())

    def variable(self, value, dtype=None):
        return tf.Variable(np.array(value, dtype=dtype), trainable=False)

    def read(self, variable):
        return variable.read_value()

    def assign(self, variable, value):
        variable.assign(value)

    def assign_add(self, variable, value):
        variable.assign_add(value)

    def clock(self, after):
        with tf.control_dependencies(list(after)):
            return tf.timestamp()

    def replace(self, variable, value):
        variable.assign(value)  # which shares the memory of a tensor

    def nbytes(self, x):
        count = x.shape.num_elements()
        return x.dtype.size * (tf.cast(tf.size(x), tf.float64) if count is None else float(count))


def _at_least_fp32(x):
    return tf.cast(x, tf.float32) if x.dtype in (tf.float16, tf.bfloat16) else x
