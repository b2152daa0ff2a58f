"""The TensorFlow adapter: Keras's own result from one compiled step, under canonical names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hvdkit.adapters.tensorflow.layout import places  # first: it chooses Keras's backend
from hvdkit.errors import HvdkitError
from hvdkit.optimizers import SGD, Adam
from hvdkit.tasks import Classification
from tests.adapters.images import CLASSES, SHAPE, adapter, arrays, loss, train, train_data

import keras  # isort: skip
import tensorflow as tf  # isort: skip


class Shared(keras.Model):
    """One layer used twice, and one that takes no part."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten = keras.layers.Flatten()
        self.enter = keras.layers.Dense(5, name="enter")
        self.twice = keras.layers.Dense(5, activation="tanh", name="twice")
        self.idle = keras.layers.Dense(4, name="idle")
        self.head = keras.layers.Dense(CLASSES, name="head")

    def call(self, x: Any) -> Any:
        x = self.enter(self.flatten(x))
        if not self.idle.built:
            self.idle(x)
        return self.head(self.twice(self.twice(x)))


class Dropped(Shared):
    def __init__(self) -> None:
        super().__init__()
        self.drop = keras.layers.Dropout(0.5)

    def call(self, x: Any, training: bool | None = None) -> Any:
        return super().call(self.drop(x, training=training))


def convolutions() -> keras.Model:
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Conv2D(4, 3, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(CLASSES, name="head"),
        ]
    )


MODELS: dict[str, Callable[[], keras.Model]] = {"shared": Shared, "convolutions": convolutions}


def weights(model: keras.Model) -> dict[str, np.ndarray]:
    return {v.path.split("/", 1)[1]: v.numpy() for v in model.trainable_variables}


def plain(model: keras.Model, *, steps: int = 4) -> dict[str, np.ndarray]:
    """The same training in Keras's own words."""
    rule = keras.optimizers.SGD(0.1, momentum=0.9)
    data = train_data(Classification(layout="nhwc"))
    for ((batch,),) in zip(data.batches(start=0, stop=steps, replica=(0, 1)), strict=True):
        with tf.GradientTape() as tape:
            logits = model(batch["image"], training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)
            mean = tf.reduce_mean(losses)
        variables = model.trainable_variables
        found = tape.gradient(mean, [v.value for v in variables], unconnected_gradients="zero")
        rule.apply(found, variables)
    return weights(model)


@pytest.mark.parametrize("kind", MODELS)
def test_training_is_plain_kerass(kind: str) -> None:
    keras.utils.set_random_seed(0)
    ours, theirs = MODELS[kind](), MODELS[kind]()
    mine = adapter("tensorflow", ours)
    theirs(np.zeros((1, *SHAPE), np.float32))
    theirs.set_weights(ours.get_weights())
    train(mine)
    expected = plain(theirs)
    for name, value in weights(ours).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bucket_mb", [1e-6, 4.0], ids=["a bucket each", "one bucket"])
def test_microbatches_and_buckets_change_nothing(bucket_mb: float) -> None:
    model, other = Shared(), Shared()
    whole, parts = adapter("tensorflow", model), adapter("tensorflow", other, bucket_mb=bucket_mb)
    parts.load_state(arrays(whole))
    train(whole)
    train(parts, accumulate=3)
    for name, array in arrays(whole).items():
        np.testing.assert_allclose(arrays(parts)[name], array, rtol=1e-4, atol=1e-6)


def test_other_buckets_between_two_steps_change_nothing() -> None:
    stays, changes = (adapter("tensorflow", Shared(), optimizer=Adam(lr=0.01)) for _ in range(2))
    changes.load_state(arrays(stays))
    train(stays)
    train(changes, stop=2)
    changes.overlap = False
    changes.lay_out(changes.strategy.planned_with(bucket_mb=1e-6))
    train(changes, start=2)
    assert len(changes.strategy.buckets) > 1
    for name, array in arrays(stays).items():
        np.testing.assert_allclose(arrays(changes)[name], array, rtol=1e-5, atol=1e-7)


def test_an_unused_variable_stays_while_the_others_train() -> None:
    model = Shared()
    mine = adapter("tensorflow", model)
    before, first = weights(model), loss(mine)
    train(mine, stop=20)
    assert loss(mine) < first
    for name, value in weights(model).items():
        assert np.array_equal(value, before[name]) == name.startswith("idle")
    assert not arrays(mine)["optimizer/velocity/idle.weight"].any()


def test_a_frozen_layer_stays_and_is_saved() -> None:
    model = Shared()
    model.enter.trainable = False
    mine = adapter("tensorflow", model)
    before = model.enter.get_weights()
    train(mine)
    for value, was in zip(model.enter.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, was)
    assert "statistics/enter.weight" in arrays(mine)
    assert "optimizer/velocity/enter.weight" not in arrays(mine)


def test_arrays_come_in_torchs_layout_and_go_back() -> None:
    model = convolutions()
    mine = adapter("tensorflow", model)
    shapes = {name: array.shape for name, array in arrays(mine).items()}
    assert shapes["params/conv.weight"] == (4, SHAPE[2], 3, 3)
    assert shapes["params/head.weight"] == (CLASSES, 64)
    assert shapes["params/norm.weight"] == shapes["statistics/norm.running_var"] == (4,)
    for place in places(model):
        array = np.random.default_rng(0).normal(size=tuple(place.variable.shape))
        canonical = place.to_canonical(array)
        assert canonical.shape == place.shape
        np.testing.assert_array_equal(place.from_canonical(canonical), array)
    saved = arrays(mine)
    other = adapter("tensorflow", convolutions())
    other.load_state(saved)
    for name, array in arrays(other).items():
        np.testing.assert_array_equal(array, saved[name])


def test_a_short_batch_is_the_same_step() -> None:
    model = Shared()
    mine = adapter("tensorflow", model)
    train(mine)
    batches = train_data(mine.task).batches(start=0, stop=1, replica=(0, 3))
    (short,) = batches
    assert len(short[0]["label"]) < 8
    mine.train_step(short, step=4, lr=0.1)
    assert np.isfinite(loss(mine))


@pytest.mark.parametrize("rule", [SGD(lr=0.1), Adam(lr=0.01)], ids=["sgd", "adam"])
@pytest.mark.parametrize("make", [Dropped, convolutions])
def test_going_on_from_a_saved_state_gives_the_same_bits(make: Callable, rule: Any) -> None:
    whole, first, second = (adapter("tensorflow", make(), optimizer=rule) for _ in range(3))
    whole.load_state(start := arrays(whole))
    first.load_state(start)
    train(whole, stop=6)
    train(first, stop=3)
    second.load_state(arrays(first))
    train(second, start=3, stop=6)
    assert second.weights_sha256() == whole.weights_sha256()
    for name, array in arrays(whole).items():
        np.testing.assert_array_equal(arrays(second)[name], array)


class Doubled(keras.Model):
    """Two layers by one name."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten = keras.layers.Flatten()
        self.one, self.other = (keras.layers.Dense(CLASSES, name="same") for _ in range(2))

    def call(self, x: Any) -> Any:
        x = self.flatten(x)
        return self.one(x) + self.other(x)


def test_two_layers_of_one_name_are_refused() -> None:
    with pytest.raises(HvdkitError, match=r"called same\..*different names"):
        adapter("tensorflow", Doubled())


def test_a_model_in_another_precision_is_refused() -> None:
    model = keras.Sequential(
        [keras.layers.Flatten(), keras.layers.Dense(CLASSES, dtype="float64", name="head")]
    )
    with pytest.raises(HvdkitError, match=r"head/kernel is float64.*asks for float32"):
        adapter("tensorflow", model)


def test_nothing_to_train_is_refused() -> None:
    model = Shared()
    model.trainable = False
    with pytest.raises(HvdkitError, match="no trainable variable"):
        adapter("tensorflow", model)


def test_random_layers_draw_apart_and_the_same_again_at_the_same_step() -> None:
    class TwoMasks(Shared):
        def __init__(self) -> None:
            super().__init__()
            self.drops = [keras.layers.Dropout(0.5) for _ in range(2)]

        def call(self, x: Any, training: bool | None = None) -> Any:
            for drop in self.drops:
                drop(x, training=training)
            return super().call(x)

    mine: Any = adapter("tensorflow", TwoMasks())
    streams = [tuple(row) for step in (0, 1, 2, 1) for row in mine._streams(step)]
    assert len(streams) == 8
    assert len(set(streams)) == 6
    assert streams[2:4] == streams[6:8]
