"""The training step, once for both frameworks, over a few primitives each one supplies.

An adapter owns a model, its optimizer state and the place where its tensors live. Trainers
give it NumPy batches and get floats and NumPy state back. The step itself is in `step.py`.

May import strategies, optimizers, gradients, comm and tensors; the frameworks only below.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from hvdkit.adapters import tables
from hvdkit.adapters.averaging import average
from hvdkit.adapters.loss_scale import LossScale
from hvdkit.adapters.shard import Shard, own_name
from hvdkit.adapters.step import Step
from hvdkit.adapters.task import Task
from hvdkit.comm import Comm
from hvdkit.comm.agreement import require_equal
from hvdkit.errors import HvdkitError
from hvdkit.gradients.buckets import Bucket, ParamSpec
from hvdkit.optimizers import Averaged, Optimizer
from hvdkit.strategies import Parameter, Strategy
from hvdkit.tensors import Tensor, Variable

Batch = Mapping[str, np.ndarray]
Sums = dict[str, np.ndarray]
Precision = Literal["fp32", "fp64", "bf16", "fp16"]
# The dtype of weights, gradients and their sums, and what a model computes in where that is
# another: what torch calls autocast and Keras a mixed policy (Micikevicius et al. 2018).
DTYPES = {"fp32": "float32", "fp64": "float64", "bf16": "float32", "fp16": "float32"}
LEARN_AT = 2  # the third step: by then whatever is made on first use has been made
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


class Adapter(Step):
    """A model in one framework, ready to take steps.

    `model` is the framework's own kind (`torch.nn.Module`, `keras.Model`), untouched before
    `setup`. With `precision` bf16 or fp16 the model computes in that and keeps fp32 weights;
    fp16 scales the loss so that small gradients survive. `clip_norm` bounds the norm of the
    whole gradient, after the ranks agree on it and before the update. `ema_decay` keeps a
    running average of the weights, and evaluates that.
    """

    framework: ClassVar[str]

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
        learn_at: int | None = LEARN_AT,
    ) -> None:
        """Make parameters agree and allocate buffers; call it once, before the first step.

        `reference_count` is the batch's usual count: losses are divided by it on the way back,
        so gradients have the mean's size before the true count is known. `example` is any
        batch. `plan` is a saved bucket plan to take over, and `learn_at` the step whose order
        of gradients the buckets are planned anew for, unless that is past.
        """
        self._seed, self._reference_count = seed, reference_count
        self.learns_at = learn_at if self.strategy.learn_order else None
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
        tables.check(self.strategy.tables, self.optimizer)
        self.allocate()
        for table in self.strategy.tables:
            self._table_slots[table.spec.name] = {
                slot: self.ops.variable(self._slot_start(slot, table))
                for slot in self.optimizer.slots
            }

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
        if step == self.learns_at:
            self._learn_order()
        # fp16 finds its scale by overflowing: what a smaller one may mend is not held against it.
        mendable = self._loss_scale is not None and not finite and not self._loss_scale.at_floor
        return StepResult(
            stop=bool(flags > 0),
            skipped=not finite,
            bad=not finite and not mendable,
            updated=bool(finite and total > 0),
        )

    def _learn_order(self) -> None:
        """Plan the buckets anew for the order in which rank 0's gradients came in this step."""
        self.learns_at = None
        seen = self.comm.broadcast_object(self.arrivals())
        if seen and (buckets := self.strategy.better_plan(seen)):
            self.lay_out(buckets)

    def lay_out(self, buckets: Sequence[Bucket]) -> None:
        """Go on from the same state with other buckets; every rank calls it, between steps."""
        strategy = self.strategy
        kept = {k: np.array(x) for k, x in self.read_arrays().items() if not k.startswith("stat")}
        shared, own = strategy.state_dict(), strategy.own_state()
        strategy.take_over(buckets)
        self.allocate()
        self.write_parameters(kept)
        strategy.load_state_dict(shared)
        strategy.load_own_state(own, shared=False)

    def arrivals(self) -> list[str]:
        """The names of the dense parameters in the order their gradients came in the last step;
        empty where nobody can tell."""
        return []

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
    def allocate(self) -> None:
        """Make gradient buffers and optimizer slots for the strategy's buckets."""

    @abstractmethod
    def run_step(
        self, microbatches: Sequence[Batch], local: np.ndarray, scalars: dict, step: int
    ) -> np.ndarray:
        """Run `step_body` on NumPy input."""

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

    def close(self) -> None:
        """Give the model back to its owner as an ordinary one."""


def _words(array: np.ndarray) -> str:
    return f"{array.dtype} of shape {list(array.shape)}"
