"""What is said of an error that ends a rank."""

from __future__ import annotations

import numpy as np
import pytest

from hvdkit.launch.failure import message_of


def test_an_ordinary_error_speaks_for_itself() -> None:
    assert message_of(ValueError("two\nlines")) == "two\nlines"


def test_a_graphs_error_is_told_without_the_stack_of_its_trace() -> None:
    import tensorflow as tf

    @tf.function
    def losses(labels: tf.Tensor) -> tf.Tensor:
        logits = tf.zeros((1, 10))
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)

    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        losses(tf.constant(np.array([99])))
    assert 'File "' in str(caught.value)
    said = message_of(caught.value)
    assert "label value of 99" in said
    assert 'File "' not in said
    assert "\n" not in said
