"""The training step, once for both frameworks, over a few primitives each one supplies.

An adapter owns a model, its optimizer state and the place where its tensors live. Trainers
give it NumPy batches and get floats and NumPy state back. `step_body` is the step; torch runs
it as it stands, TensorFlow traces it into one graph.

May import strategies, optimizers, gradients, comm and tensors; the frameworks only below.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from hvdkit.adapters.averaging import average
from hvdkit.adapters.loss_scale import LossScale
from hvdkit.adapters.shard import Shard, own_name
from hvdkit.adapters.task import Task
from hvdkit.comm import Comm
from hvdkit.comm.agreement import require_equal
from hvdkit.errors import HvdkitError
from hvdkit.gradients.buckets import Bucket, ParamSpec
from hvdkit.optimizers import Averaged, Optimizer
from hvdkit.strategies import Parameter, Strategy
from hvdkit.tensors import Ops, Tensor, Variable

Batch = Mapping[str, np.ndarray]
Sums = dict[str, np.ndarray]
Precision = Literal["fp32", "fp64", "bf16", "fp16"]
# The dtype of weights, gradients and their sums, and what a model computes in where that is
# another: what torch calls autocast and Keras a mixed policy (Micikevicius et al. 2018).
DTYPES = {"fp32": "float32", "fp64": "float64", "bf16": "float32", "fp16": "float32"}
COMPUTE_DTYPES = {"bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class StepResult:
    """What all ranks agreed on in a step.

    `stop`: some rank asked to. `skipped`: the gradient was not finite, and nothing was updated.
    `bad`: so it was, and no smaller loss scale can help. `updated`: neither that, nor was the
    batch one of stand-ins alone.
    """

    stop: bool
    skipped: bool
    bad: bool
    updated: bool


class Adapter(ABC):
    """A model in one framework, ready to take steps.

    `model` is the framework's own kind (`torch.nn.Module`, `keras.Model`), untouched before
    `setup`. With `precision` bf16 or fp16 the model computes in that and keeps fp32 weights;
    fp16 scales the loss so that small gradients survive. `clip_norm` bounds the norm of the
    whole gradient, after the ranks agree on it and before the update. `ema_decay` keeps a
    running average of the weights, and evaluates that.
    """

    framework: ClassVar[str]
    ops: Ops

    def __init__(
        self,
        *,
        model: Any,
        task: Task,
        optimizer: Optimizer,
        strategy: Strategy,
        comm: Comm,
        precision: Precision = "fp32",
        clip_norm: float | None = None,
        ema_decay: float | None = None,
    ):
        if ema_decay is not None:
            optimizer = Averaged(optimizer, decay=ema_decay)
        self.model, self.task, self.optimizer = model, task, optimizer
        self.strategy, self.comm = strategy, comm
        self.dtype = DTYPES[precision]
        self.compute_dtype = COMPUTE_DTYPES.get(precision)
        self.clip_norm = clip_norm
        self._loss_scale: LossScale | None = None
        self._table_slots: dict[str, dict[str, Variable]] = {}
        self._reference_count = 1.0
        self._seed = 0

    def setup(
        self,
        *,
        seed: int,
        reference_count: float,
        example: Batch,
        plan: Sequence[Sequence[str]] | None = None,
    ) -> None:
        """Make parameters agree and allocate buffers; call it once, before the first step.

        `reference_count` is the batch's usual count: losses are divided by it on the way back,
        so gradients have the mean's size before the true count is known. `example` is any
        batch. `plan` is a saved bucket plan to take over.
        """
        self._seed, self._reference_count = seed, reference_count
        self.build(example)
        params = self.parameters()
        # Before the broadcast, in which ranks of different models would wait for ever.
        require_equal(
            self.comm,
            {f"parameter {p.spec.name}": (p.spec.shape, p.spec.dtype) for p in params},
            "ranks do not agree at the start",
        )
        self._write_initial_weights(params, seed)
        self.strategy.setup(params, self.comm, self.ops, plan=plan)
        self._totals = self.ops.variable(np.zeros(2), "float64")  # loss sum, count
        if self.compute_dtype == "float16":
            self._loss_scale = LossScale(self.ops)
        self._check_tables()
        self.allocate()
        for table in self.strategy.tables:
            self._table_slots[table.spec.name] = {
                slot: self.ops.variable(self._slot_start(slot, table))
                for slot in self.optimizer.slots
            }

    def _check_tables(self) -> None:
        if self.strategy.tables and self.optimizer.layerwise:
            raise HvdkitError(
                f"{self.optimizer.name} needs the norm of whole parameters, and "
                f"{self.strategy.tables[0].spec.name} is a table of which only some rows are "
                "looked at: use another optimizer, or make the table dense (model.sparse=false)"
            )

    def _slot_start(self, slot: str, param: Parameter) -> np.ndarray:
        start = self.optimizer.slot_start(slot)
        if start == "parameter":
            return self.ops.numpy(self.ops.read(param.variable))
        return np.full(param.spec.shape, start, param.spec.dtype)

    def _write_initial_weights(self, params: Sequence[Parameter], seed: int) -> None:
        # Our own models say how their weights start, in NumPy, so that both frameworks
        # start alike; a user's model keeps its own, and rank 0's are broadcast.
        initial = getattr(self.model, "initial_weight", None)
        if initial is None:
            return
        weights = {
            f"params/{param.spec.name}": initial(seed, param.spec.name, param.spec.shape)
            for param in params
            if param.trainable
        }
        self.write_parameters(weights)

    # ---- the step ------------------------------------------------------------------------

    def train_step(
        self,
        microbatches: Sequence[Batch],
        *,
        step: int,
        lr: float,
        flag: bool = False,
        update: int | None = None,
    ) -> StepResult:
        """Take step number `step` on this rank's slice of the batch, at rate `lr`.

        `flag` is a request to stop, which all ranks see at once. `update` counts the updates
        made so far, which are fewer than the steps where some were skipped.
        """
        count = sum(self.task.count(batch) for batch in microbatches)
        local = np.array([count, float(flag)])
        scalars = self.optimizer.scalars(lr=lr, step=step if update is None else update)
        self.strategy.at_step(step)
        total, flags, finite = self.run_step(microbatches, local, scalars, step)
        # fp16 finds its scale by overflowing: what a smaller one may mend is not held against it.
        mendable = self._loss_scale is not None and not finite and not self._loss_scale.at_floor
        return StepResult(
            stop=bool(flags > 0),
            skipped=not finite,
            bad=not finite and not mendable,
            updated=bool(finite and total > 0),
        )

    def step_body(
        self, microbatches: Sequence[Mapping[str, Tensor]], local: Tensor, scalars: Mapping
    ) -> Tensor:
        """One update, over tensors; returns the summed (count, flag) of all ranks, and whether
        the gradient was finite. If it was not, or nothing in the batch had a weight, the step
        leaves no trace in the model."""
        ops = self.ops
        losses: list[Tensor] = []
        # A copy, because a collective may work in place.
        pending = self.comm.allreduce(ops.concat([local]), name="step.count")
        self.strategy.begin(unit=self.unit)
        statistics = [(variable, ops.copy(variable)) for variable in self.statistics()]
        for i, batch in enumerate(microbatches):
            losses.append(self.backward(batch, last=i == len(microbatches) - 1))
        gradients = [self.strategy.gradient(bucket) for bucket in self.strategy.buckets]
        rows = [self.strategy.row_gradient(table) for table in self.strategy.tables]
        agreed = pending.wait()  # last, so that what a slow rank costs shows in its buckets
        parts = [*gradients, *(values for _, values in rows)]
        self.note_agreement(parts)
        something = agreed[0] > 0  # not so where every record of a batch was left out
        multiplier = self._reference_count / ops.where(something, agreed[0], agreed[0] + 1.0)
        if self._loss_scale:
            multiplier = multiplier / self._loss_scale.value
        if self.clip_norm is None:
            # All ranks have the same sum, so all come to the same answer. A sum of finite
            # numbers is not finite only where its gradient would be useless as well.
            finite = ops.is_finite(sum(ops.cast(ops.sum(x), "float64") for x in parts))
        else:
            norm = self.strategy.global_norm(parts) * multiplier
            finite = ops.is_finite(norm)
            # Not clip_norm / norm, which is no number where there is no gradient.
            multiplier = multiplier * (self.clip_norm / ops.maximum(norm, self.clip_norm))

        def update() -> None:
            for bucket, gradient in zip(self.strategy.buckets, gradients, strict=True):
                self.update(bucket, gradient, scalars, multiplier)
            for table, (touched, values) in zip(self.strategy.tables, rows, strict=True):
                self._update_rows(table, touched, values, scalars, multiplier)
            self.strategy.after_update()
            self.strategy.commit()
            self._add_to_totals(sum(losses[1:], losses[0]), local[0])

        def undo() -> None:
            self.strategy.rollback()
            for variable, before in statistics:
                ops.assign(variable, before)

        ops.when(finite & something, update, undo)
        if self._loss_scale:
            self._loss_scale.adjust(finite)
        return ops.concat([agreed, ops.reshape(ops.cast(finite, "float64"), (1,))])

    def note_agreement(self, gradients: Sequence[Tensor]) -> None:  # noqa: B027 - for TensorFlow
        """The summed gradients are there, for an adapter that measures when."""

    def loss_factor(self, loss: Tensor) -> Tensor | float:
        """What a microbatch's summed `loss` is multiplied by on its way back."""
        unit = self.unit
        return self.ops.cast(unit, self.ops.dtype(loss)) if self._loss_scale else unit

    @property
    def unit(self) -> Tensor | float:
        """How many times the true gradient of the summed loss the step's gradients are."""
        scale = self._loss_scale.value if self._loss_scale else 1.0
        return scale / self._reference_count

    def _update_rows(
        self, table: Parameter, rows: Tensor, gradient: Tensor, scalars: Mapping, multiplier: Tensor
    ) -> None:
        """Apply the optimizer to the touched rows of a table. The others keep their weights and
        slots as they are: momentum and decay reach a row only with a gradient."""
        ops, dtype = self.ops, table.spec.dtype
        slots = self._table_slots[table.spec.name]
        value, new_slots = self.optimizer.update(
            ops,
            ops.take_rows(table.variable, rows),
            gradient * self.typed(multiplier, dtype),
            {name: ops.take_rows(slot, rows) for name, slot in slots.items()},
            {name: self.typed(scalar, dtype) for name, scalar in scalars.items()},
            self.optimizer.weight_decay,
        )
        ops.put_rows(table.variable, rows, value)
        for name, new in new_slots.items():
            ops.put_rows(slots[name], rows, new)

    def typed(self, number: Any, dtype: str) -> Any:
        """A number that may be multiplied with tensors of `dtype`."""
        return self.ops.cast(number, dtype) if hasattr(number, "dtype") else number

    def new_values(
        self,
        spec: ParamSpec,
        param: Tensor,
        grad: Tensor,
        slots: Mapping[str, Tensor],
        scalars: Mapping[str, Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What the optimizer makes of one whole parameter and its slots."""
        decay = self.optimizer.weight_decay if len(spec.shape) > 1 else 0.0
        return self.optimizer.update(self.ops, param, grad, slots, scalars, decay)

    def _add_to_totals(self, loss: Tensor, count: Tensor) -> None:
        ops = self.ops
        pair = [ops.reshape(ops.cast(x, "float64"), (1,)) for x in (loss, count)]
        ops.assign_add(self._totals, ops.concat(pair))

    @property
    def totals(self) -> tuple[float, float]:
        """This rank's (loss sum, count) of the steps since this was set to (0, 0)."""
        loss, count = self.ops.numpy(self._totals).tolist()
        return loss, count

    @totals.setter
    def totals(self, value: tuple[float, float]) -> None:
        self.ops.assign(self._totals, self.ops.array(np.array(value), "float64"))

    # ---- primitives ----------------------------------------------------------------------

    @abstractmethod
    def build(self, example: Batch) -> None:
        """Put the model on its device, in its dtype, with all its variables made."""

    @abstractmethod
    def parameters(self) -> list[Parameter]:
        """Trainable variables, then the statistics that ranks must agree on, in model order."""

    @abstractmethod
    def statistics(self) -> list[Variable]:
        """What a forward pass in training changes: batch norm's running mean, say."""

    @abstractmethod
    def allocate(self) -> None:
        """Make gradient buffers and optimizer slots for the strategy's buckets."""

    @abstractmethod
    def run_step(
        self, microbatches: Sequence[Batch], local: np.ndarray, scalars: dict, step: int
    ) -> np.ndarray:
        """Run `step_body` on NumPy input."""

    @abstractmethod
    def backward(self, batch: Mapping[str, Tensor], *, last: bool) -> Tensor:
        """Add the gradient of sum(loss) times `loss_factor`; return sum(loss).

        With `last`, hand every bucket and table to the strategy as soon as it is complete.
        """

    @abstractmethod
    def update(
        self, bucket: Bucket, gradient: Tensor, scalars: Mapping, multiplier: Tensor
    ) -> None:
        """Apply the optimizer to a bucket's parameters, with `gradient` times `multiplier`."""

    @property
    @abstractmethod
    def threads(self) -> int:
        """Compute threads of this rank: the order of a sum within it depends on them."""

    @abstractmethod
    def evaluate(self, batch: Batch) -> Sums:
        """The task's sums over one batch, without training."""

    @abstractmethod
    def communication_seconds(self) -> float:
        """Time spent waiting for other ranks so far: what overlap could not hide."""

    @abstractmethod
    def read_arrays(self) -> dict[str, np.ndarray]:
        """Parameters ("params/NAME"), statistics ("statistics/NAME"), slots
        ("optimizer/SLOT/NAME"), in canonical layout."""

    @abstractmethod
    def write_parameters(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Put back some of what `read_arrays` gave."""

    @abstractmethod
    def swap_buckets(self, slot: str) -> None:
        """Exchange every parameter of the buckets with its slot."""

    # ---- state ---------------------------------------------------------------------------

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Have the model hold its averaged weights for a while, where an average is kept."""
        if "average" not in self.optimizer.slots:
            yield
            return
        self._swap("average")
        try:
            yield
        finally:
            self._swap("average")

    def _swap(self, slot: str) -> None:
        ops = self.ops
        self.swap_buckets(slot)
        for table in self.strategy.tables:
            kept = self._table_slots[table.spec.name][slot]
            weights = ops.array(ops.numpy(ops.read(table.variable)))
            ops.assign(table.variable, ops.read(kept))
            ops.assign(kept, weights)

    def average_statistics(self) -> None:
        """Replace untrained arrays that differ by rank, batch norm's statistics, by the mean."""
        average([p for p in self.parameters() if not p.trainable], self.comm, self.ops)

    def state(self) -> dict[str, Shard]:
        """This rank's part of all that a run needs to go on from here, by canonical name."""
        shared = self._arrays() if self.strategy.keeps_shared_state() else {}
        own = {own_name(self.comm.rank, k): x for k, x in self.strategy.own_state().items()}
        return {name: Shard.whole(array) for name, array in {**shared, **own}.items()}

    def _arrays(self, *, strategy: bool = True) -> dict[str, np.ndarray]:
        kept = self.strategy.state_dict() if strategy else {}
        scale = {"loss_scale": self._loss_scale.read()} if self._loss_scale else {}
        return self.read_arrays() | {f"strategy/{k}": x for k, x in kept.items()} | scale

    def load_state(
        self,
        arrays: Mapping[str, np.ndarray],
        own: Mapping[str, np.ndarray] | None = None,
        *,
        shared: bool = False,
    ) -> None:
        """Take over a saved state, with this rank's `own` arrays or, if `shared`, their sums
        over all ranks. Raises `HvdkitError` if it is another model's."""
        # What a strategy keeps is its own to judge.
        expected = {name: _words(array) for name, array in self._arrays(strategy=False).items()}
        given = {k: _words(array) for k, array in arrays.items() if not k.startswith("strategy/")}
        for name in sorted(expected.keys() | given.keys()):
            if expected.get(name) != given.get(name):
                raise HvdkitError(
                    f"the checkpoint is of another model or optimizer: {name} is "
                    f"{given.get(name, 'absent')} there and {expected.get(name, 'absent')} here. "
                    "Resume with the same model, optimizer, trainer.precision and ema_decay"
                )
        others = ("strategy/", "loss_scale")
        self.write_parameters({k: v for k, v in arrays.items() if not k.startswith(others)})
        self.strategy.load_state_dict(
            {k.removeprefix("strategy/"): v for k, v in arrays.items() if k.startswith("strategy/")}
        )
        self.strategy.load_own_state(own or {}, shared=shared)
        if self._loss_scale:
            self._loss_scale.write(arrays["loss_scale"])

    def weights_sha256(self) -> str:
        """A digest of the trainable parameters, by canonical name: equal bits, equal digest."""
        digest = hashlib.sha256()
        for name, array in sorted(self.read_trainable().items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    @abstractmethod
    def read_trainable(self) -> dict[str, np.ndarray]:
        """The trainable parameters by canonical name and in canonical layout."""

    def close(self) -> None:  # noqa: B027 - most adapters have nothing to undo
        """Give the model back to its owner as an ordinary one."""


def _words(array: np.ndarray) -> str:
    return f"{array.dtype} of shape {list(array.shape)}"
