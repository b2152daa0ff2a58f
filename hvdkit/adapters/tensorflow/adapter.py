"""A `keras.Model` taking steps: the whole step is one compiled graph.

Horovod's own Keras optimizer is never used: under Keras 3 it trains each rank alone. Here
gradients are taken with a tape, reduced by the strategy inside the graph, and applied by our
optimizer; Keras's part is the model.
"""

from __future__ import annotations

from collections.abc import Hashable

import keras
import numpy as np
import tensorflow as tf

from hvdkit.adapters.base import Adapter, stream_words
from hvdkit.adapters.tensorflow.layout import Place, places, random_states
from hvdkit.adapters.tensorflow.ops import TensorFlowOps
from hvdkit.errors import HvdkitError
from hvdkit.gradients.buckets import ParamSpec
from hvdkit.strategies import Parameter


class TensorFlowAdapter(Adapter):
    """Train a `keras.Model` on TensorFlow."""

    framework = "tensorflow"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.ops = TensorFlowOps()
        self._steps: dict[Hashable, tf.types.experimental.PolymorphicFunction] = {}
        self._grads: dict[str, tf.Tensor] = {}  # of the microbatches so far, while tracing
        self._waited = tf.Variable(0.0, dtype=tf.float64, trainable=False)

    # ---- setup ---------------------------------------------------------------------------

    def build(self, example):
        if keras.backend.backend() != "tensorflow":
            raise HvdkitError(
                f"Keras runs on {keras.backend.backend()} here: set KERAS_BACKEND=tensorflow"
            )
        self.model(*self.task.inputs(self._tensors(example)), training=False)
        self._check_dtype()
        self._places = places(self.model)
        self._seeds = random_states(self.model)
        self._evaluate = tf.function(self._metrics, autograph=False, reduce_retracing=True)

    def _check_dtype(self):
        odd = [v for v in self.model.trainable_variables if v.dtype != self.dtype]
        if odd:
            raise HvdkitError(
                f"the model's {odd[0].path} is {odd[0].dtype}, but the precision asks for "
                f"{self.dtype}: make the model after hvdkit.adapters.start, or set its dtype"
            )

    def parameters(self):
        trained = {id(v) for v in self.model.trainable_variables}
        if not trained:
            raise HvdkitError("the model has no trainable variable: is layer.trainable False?")
        ordered = sorted(self._places, key=lambda place: id(place.variable) not in trained)
        return [
            Parameter(_spec(place), place.variable.value, id(place.variable) in trained)
            for place in ordered
        ]

    def allocate(self):
        by_name = {place.name: place.variable.value for place in self._places}
        self._variables = {
            name: by_name[name] for bucket in self.strategy.buckets for name in bucket.names
        }
        self._slots = {
            name: {
                slot: tf.Variable(tf.zeros_like(variable), trainable=False)
                for slot in self.optimizer.slots
            }
            for name, variable in self._variables.items()
        }

    # ---- the step ------------------------------------------------------------------------

    def run_step(self, microbatches, local, scalars, step):
        phase = (self.strategy.phase(step), len(microbatches))
        if phase not in self._steps:
            self._steps[phase] = self._compile(microbatches)
        return self._steps[phase](
            [self._tensors(batch) for batch in microbatches],
            tf.constant(local),
            {name: tf.constant(value, tf.float64) for name, value in scalars.items()},
            tf.constant(self._streams(step), tf.uint32),
        ).numpy()

    def _streams(self, step):
        """What each of the model's random generators starts this step from."""
        return np.array(
            [stream_words(self._seed, step, self.comm.rank, i) for i in range(len(self._seeds))],
            np.uint32,
        ).reshape(-1, 2)

    def _compile(self, microbatches):
        def step(batches, local, scalars, streams):
            for i, state in enumerate(self._seeds):
                state.value.assign(tf.cast(streams[i], state.value.dtype))
            self._reduced: list[tf.Tensor] = []
            agreed = self.step_body(batches, local, scalars)
            with tf.control_dependencies(self._reduced):
                finished = tf.timestamp()
            self._waited.assign_add(finished - self._computed)
            return agreed

        # A batch's length is left open: the run's last one is shorter.
        batch = {
            key: tf.TensorSpec((None, *value.shape[1:]), self._dtype_of(value))
            for key, value in microbatches[0].items()
        }
        names = self.optimizer.scalars(lr=1.0, step=0)
        return tf.function(
            step,
            autograph=False,  # as in Keras's own fit
            input_signature=[
                [batch] * len(microbatches),
                tf.TensorSpec((2,), tf.float64),
                {name: tf.TensorSpec((), tf.float64) for name in names},
                tf.TensorSpec((len(self._seeds), 2), tf.uint32),
            ],
        )

    def backward(self, batch, *, last):
        variables = list(self._variables.values())
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            outputs = self.model(*self.task.inputs(batch), training=True)
            loss = tf.reduce_sum(self.task.losses(self.ops, outputs, batch))
            scaled = loss / self._reference_count
        grads = tape.gradient(scaled, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        self._accumulate(dict(zip(self._variables, grads, strict=True)))
        if last:
            with tf.control_dependencies(list(self._grads.values())):
                self._computed = tf.timestamp()
            for bucket in self.strategy.buckets:
                self.strategy.bucket_ready(bucket, self._flat(bucket))
            self._grads = {}
        return loss

    def _accumulate(self, grads):
        before = self._grads
        self._grads = {n: before[n] + grad if before else grad for n, grad in grads.items()}

    def _flat(self, bucket):
        parts = [tf.reshape(self._grads[name], (-1,)) for name in bucket.names]
        if bucket.size > bucket.numel:
            parts.append(tf.zeros((bucket.size - bucket.numel,), bucket.dtype))
        return parts[0] if len(parts) == 1 else tf.concat(parts, 0)

    def update(self, bucket, gradient, scalars, multiplier):
        self._reduced.append(gradient)
        scalars = {name: tf.cast(value, bucket.dtype) for name, value in scalars.items()}
        gradient = gradient * tf.cast(multiplier, bucket.dtype)
        sizes = [param.numel for param in bucket.params]
        padding = bucket.size - bucket.numel
        parts = tf.split(gradient, [*sizes, padding] if padding else sizes)
        for param, part in zip(bucket.params, parts, strict=False):
            variable, slots = self._variables[param.name], self._slots[param.name]
            value, new_slots = self.optimizer.update(
                self.ops,
                variable.read_value(),
                tf.reshape(part, variable.shape),
                {name: slot.read_value() for name, slot in slots.items()},
                scalars,
                self.optimizer.weight_decay if len(param.shape) > 1 else 0.0,
            )
            variable.assign(value)
            for name, new in new_slots.items():
                slots[name].assign(new)

    def evaluate(self, batch):
        sums = self._evaluate(self._tensors(batch))
        return {name: value.numpy() for name, value in sums.items()}

    def _metrics(self, batch):
        outputs = self.model(*self.task.inputs(batch), training=False)
        return self.task.metrics(self.ops, outputs, batch)

    @property
    def threads(self):
        return tf.config.threading.get_intra_op_parallelism_threads()

    def communication_seconds(self):
        return float(self._waited.numpy())

    def _tensors(self, batch):
        return {key: tf.constant(x, self._dtype_of(x)) for key, x in batch.items()}

    def _dtype_of(self, array):
        return self.dtype if np.issubdtype(array.dtype, np.floating) else array.dtype

    # ---- state ---------------------------------------------------------------------------

    def read_trainable(self):
        trained = {id(v) for v in self.model.trainable_variables}
        return {
            place.name: place.to_canonical(place.variable.value.numpy())
            for place in self._places
            if id(place.variable) in trained
        }

    def read_arrays(self):
        return {
            name: np.ascontiguousarray(place.to_canonical(variable.numpy()))
            for name, (place, variable) in self._state().items()
        }

    def write_parameters(self, arrays):
        state = self._state()
        for name, array in arrays.items():
            place, variable = state[name]
            variable.assign(place.from_canonical(array))

    def _state(self) -> dict[str, tuple[Place, tf.Variable]]:
        """Every variable of the state under its name in a checkpoint."""
        params = {param.spec.name: param for param in self.parameters()}
        state = {}
        for place in self._places:
            if place.name in params:
                kind = "params" if params[place.name].trainable else "statistics"
                state[f"{kind}/{place.name}"] = (place, place.variable.value)
            for slot, variable in getattr(self, "_slots", {}).get(place.name, {}).items():
                state[f"optimizer/{slot}/{place.name}"] = (place, variable)
        return state


def _spec(place: Place) -> ParamSpec:
    return ParamSpec(place.name, place.shape, keras.backend.standardize_dtype(place.variable.dtype))
