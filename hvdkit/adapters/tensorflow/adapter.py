"""A `keras.Model` taking steps: the whole step is one compiled graph.

Horovod's own Keras optimizer is never used: under Keras 3 it trains each rank alone. Here
gradients are taken with a tape, reduced by the strategy inside the graph, and applied by our
optimizer; Keras's part is the model.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.adapters.base import Adapter
from hvdkit.adapters.streams import stream_words
from hvdkit.adapters.tensorflow.layout import Place, places, random_states
from hvdkit.adapters.tensorflow.ops import TensorFlowOps
from hvdkit.errors import HvdkitError
from hvdkit.gradients.buckets import ParamSpec
from hvdkit.strategies import Parameter

_log = logging.getLogger(__name__)


class TensorFlowAdapter(Adapter):
    """Train a `keras.Model` on TensorFlow.

    `jit_compile` has XLA compile the model. All its gradients then come at once, so that no
    communication is hidden behind the backward pass.

    Weights of a layer that says `sparse_rows = True` are tables: their gradients travel as
    rows. It must look them up in the variable itself (`tf.gather(variable, ids)`).
    """

    framework = "tensorflow"
    traced = True

    def __init__(self, *, jit_compile: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self._jit_compile = jit_compile
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
        self._forward = self._train_outputs
        if self._jit_compile:
            _log.info(
                "the model is compiled by XLA: its gradients come together when the backward "
                "pass ends, so that nothing hides the communication"
            )
            self._forward = tf.function(self._forward, autograph=False, jit_compile=True)

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
        tables = {
            id(variable)
            for layer in self.model._flatten_layers()
            if getattr(layer, "sparse_rows", False)
            for variable in layer._trainable_variables
        }
        ordered = sorted(self._places, key=lambda place: id(place.variable) not in trained)
        return [
            Parameter(
                _spec(place),
                place.variable.value,
                trainable=id(place.variable) in trained,
                sparse=id(place.variable) in tables,
                axes=place.axes,
            )
            for place in ordered
        ]

    def statistics(self):
        kept = {id(place.variable) for place in self._places}
        return [
            variable.value
            for layer in self.model._flatten_layers()
            for variable in layer._non_trainable_variables
            if id(variable) in kept
        ]

    def allocate(self):
        self._steps.clear()  # they are traced with the buckets there were
        by_name = {place.name: place.variable.value for place in self._places}
        self._variables = {
            name: by_name[name] for bucket in self.strategy.buckets for name in bucket.names
        }
        self._tables = {table.spec.name: table.variable for table in self.strategy.tables}
        self._slots = {
            name: {slot: self._new_slot(slot, variable) for slot in self.optimizer.slots}
            for name, variable in self._variables.items()
        }

    def _new_slot(self, slot, variable):
        start = self.optimizer.slot_start(slot)
        value = variable.read_value() if start == "parameter" else tf.fill(variable.shape, start)
        return tf.Variable(tf.cast(value, variable.dtype), trainable=False)

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
            return self.step_body(batches, local, scalars)

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

    def _train_outputs(self, *inputs):
        return self.model(*inputs, training=True)

    def backward(self, batch, *, last):
        watched = self._variables | self._tables
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(list(watched.values()))
            outputs = self._forward(*self.task.inputs(batch))
            loss = tf.reduce_sum(self.task.losses(self.ops, outputs, batch))
            scaled = loss * self.loss_factor(loss)
        grads = tape.gradient(scaled, watched)
        self._accumulate({name: self._found(name, grad) for name, grad in grads.items()})
        if last:
            dense = [self._grads[name] for name in self._variables]
            with tf.control_dependencies(dense):
                self._computed = tf.timestamp()
            for bucket in self.strategy.buckets:
                self.hand_over(bucket, self._flat(bucket))
            for table in self.strategy.tables:
                slices = self._grads[table.spec.name]
                rows = tf.cast(slices.indices, tf.int64)
                self.strategy.rows_ready(table, rows, slices.values)
            self._grads = {}
        return loss

    def _found(self, name, grad):
        """A parameter's gradient: a tensor, or rows of a table; zero, or none, where unused."""
        if name in self._variables:
            if grad is None:
                return tf.zeros_like(self._variables[name])
            return tf.convert_to_tensor(grad)
        table = self._tables[name]
        if grad is None:
            none = tf.zeros((0,), tf.int64)
            return tf.IndexedSlices(tf.gather(table, none), none)
        if not isinstance(grad, tf.IndexedSlices):
            raise HvdkitError(
                f"{name} is marked sparse_rows, but its gradient is dense: its layer must look "
                "rows up with tf.gather(variable, ids), and nothing else may use the table"
            )
        return grad

    def _accumulate(self, grads):
        before = self._grads
        self._grads = {
            name: _added(before[name], grad) if before else grad for name, grad in grads.items()
        }

    def _flat(self, bucket):
        with tf.control_dependencies([] if self.overlap else [self._computed]):
            parts = [tf.reshape(self._grads[name], (-1,)) for name in bucket.names]
        if bucket.size > bucket.numel:
            parts.append(tf.zeros((bucket.size - bucket.numel,), bucket.dtype))
        return parts[0] if len(parts) == 1 else tf.concat(parts, 0)

    def note_agreement(self, gradients):
        with tf.control_dependencies(gradients):
            finished = tf.timestamp()
        self._waited.assign_add(finished - self._computed)

    def update(self, bucket, gradient, scalars, multiplier):
        scalars = {name: tf.cast(value, bucket.dtype) for name, value in scalars.items()}
        gradient = gradient * tf.cast(multiplier, bucket.dtype)
        sizes = [param.numel for param in bucket.params]
        padding = bucket.size - bucket.numel
        parts = tf.split(gradient, [*sizes, padding] if padding else sizes)
        for param, part in zip(bucket.params, parts, strict=False):
            variable, slots = self._variables[param.name], self._slots[param.name]
            value, new_slots = self.new_values(
                param,
                variable.read_value(),
                tf.reshape(part, variable.shape),
                {name: slot.read_value() for name, slot in slots.items()},
                scalars,
            )
            variable.assign(value)
            for name, new in new_slots.items():
                slots[name].assign(new)

    def swap_buckets(self, slot):
        for name, variable in self._variables.items():
            kept = self._slots[name][slot]
            weights = tf.identity(variable.read_value())
            variable.assign(kept)
            kept.assign(weights)

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
            slots = {**getattr(self, "_slots", {}), **self._table_slots}.get(place.name, {})
            for slot, variable in slots.items():
                state[f"optimizer/{slot}/{place.name}"] = (place, variable)
        return state


def _added(x, y):
    if isinstance(x, tf.IndexedSlices):
        pairs = ((x.values, y.values), (x.indices, y.indices))
        return tf.IndexedSlices(*(tf.concat(pair, 0) for pair in pairs))
    return x + y


def _spec(place: Place) -> ParamSpec:
    return ParamSpec(place.name, place.shape, keras.backend.standardize_dtype(place.variable.dtype))
