"""One update, written once for both frameworks: torch runs it as it stands, TensorFlow traces it
into one graph.

May import strategies, optimizers, gradients, comm and tensors; the frameworks only below.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from hvdkit.adapters import tables
from hvdkit.adapters.loss_scale import LossScale
from hvdkit.comm import Comm, Handle
from hvdkit.gradients.buckets import Bucket
from hvdkit.optimizers import Optimizer
from hvdkit.strategies import Strategy
from hvdkit.tensors import Ops, Tensor, Variable


class Step(ABC):
    """What an adapter does in a step, over primitives that each framework supplies."""

    # Whether `step_body` is traced into a graph: results of collectives are promises there.
    traced: ClassVar[bool] = False
    overlap = True  # whether buckets leave during the backward pass; else when it is over
    ops: Ops
    comm: Comm
    strategy: Strategy
    optimizer: Optimizer
    clip_norm: float | None
    _loss_scale: LossScale | None
    _table_slots: dict[str, dict[str, Variable]]
    _totals: Variable
    _reference_count: float
    _local: Tensor  # this rank's (count, flag)
    _squares: list[Tensor]  # of the buckets handed over so far
    _squares_tell: bool
    _to_come: int  # buckets not yet handed over
    _asked: Handle | None

    def step_body(
        self, microbatches: Sequence[Mapping[str, Tensor]], local: Tensor, scalars: Mapping
    ) -> Tensor:
        """One update, over tensors; returns the summed (count, flag) of all ranks, and whether
        the gradient was finite. If it was not, or nothing in the batch had a weight, the step
        leaves no trace in the model."""
        ops, strategy = self.ops, self.strategy
        self._begin(local)
        strategy.begin(unit=self.unit)
        statistics = [(variable, ops.copy(variable)) for variable in self.statistics()]
        losses = [
            self.backward(batch, last=i == len(microbatches) - 1)
            for i, batch in enumerate(microbatches)
        ]
        agreement = self._agreement()
        # Waited for when first asked for: one bucket is updated while others still travel.
        sums = [functools.cache(functools.partial(strategy.gradient, b)) for b in strategy.buckets]
        rows = [strategy.row_gradient(table) for table in strategy.tables]
        parts = [values for _, values in rows]
        told = self._squares_tell
        if self.traced or not told:
            parts += [arrived() for arrived in sums]
            self.note_agreement(parts)
        agreed = agreement.wait()
        if told and not self.traced and not self._are_far_from_overflow(agreed[2]):
            told = False
            parts += [arrived() for arrived in sums]
        something = agreed[0] > 0  # not so where every record of a batch was left out
        multiplier = self._reference_count / ops.where(something, agreed[0], agreed[0] + 1.0)
        if self._loss_scale:
            multiplier = multiplier / self._loss_scale.value
        if self.clip_norm is None:
            # All ranks have the same sums, so all come to the same answer. A sum of finite
            # numbers is not finite only where its gradient would be useless as well.
            checked = parts[: len(rows)] if told else parts
            finite = ops.is_finite(
                sum((ops.cast(ops.sum(x), "float64") for x in checked), agreed[2])
            )
        else:
            norm = strategy.global_norm(parts) * multiplier
            finite = ops.is_finite(norm)
            # Not clip_norm / norm, which is no number where there is no gradient.
            multiplier = multiplier * (self.clip_norm / ops.maximum(norm, self.clip_norm))

        def update() -> None:
            for bucket, arrived in zip(strategy.buckets, sums, strict=True):
                self.update(bucket, arrived(), scalars, multiplier)
            for table, (touched, values) in zip(strategy.tables, rows, strict=True):
                slots = self._table_slots[table.spec.name]
                tables.update_rows(
                    ops, self.optimizer, table, slots, touched, values, multiplier, scalars
                )
            strategy.after_update()
            strategy.commit()
            self._add_to_totals(sum(losses[1:], losses[0]), local[0])

        def undo() -> None:
            for arrived in sums:
                arrived()
            strategy.rollback()
            for variable, before in statistics:
                ops.assign(variable, before)

        ops.when(finite & something, update, undo)
        if self._loss_scale:
            self._loss_scale.adjust(finite)
        return ops.concat([agreed[:2], ops.reshape(ops.cast(finite, "float64"), (1,))])

    def _begin(self, local: Tensor) -> None:
        self._local, self._squares, self._asked = local, [], None
        self._to_come = len(self.strategy.buckets)
        # Where every rank's squares have a finite sum, no gradient is near the largest number,
        # and nor is their sum: nobody has to read that once more. Where a sum is encoded, the
        # squares have to be small enough for that, which a graph cannot make its order hang on.
        below = self.strategy.finite_below
        known = below is not None and (below == math.inf or not self.traced)
        self._squares_tell = self.clip_norm is None and known

    def _are_far_from_overflow(self, squares: Tensor) -> bool:
        """Whether these squares of all ranks' gradients say that no sum has overflown."""
        below = self.strategy.finite_below
        assert below is not None
        # A sum over ranks is at most the root of their number times the root of all squares.
        return below == math.inf or float(squares) * self.comm.size < below**2

    def hand_over(self, bucket: Bucket, flat: Tensor) -> None:
        """This rank's gradient of `bucket` is complete in `flat`: let the strategy have it.

        Before the last one goes what an update waits for, the count and whether the gradient is
        finite: so the other buckets can be updated while that one travels.
        """
        if self._squares_tell:
            self._squares.append(self.ops.sum_of_squares(flat))
        self._to_come -= 1
        if not self._to_come:
            self._agreement()
        self.strategy.bucket_ready(bucket, flat)

    def _agreement(self) -> Handle:
        """The sum over ranks of (count, flag, squares of the gradient), asked for once a step."""
        if self._asked is None:
            ops = self.ops
            squares = sum((ops.cast(x, "float64") for x in self._squares), ops.zeros((), "float64"))
            pair = ops.concat([self._local, ops.reshape(squares, (1,))])
            self._asked = self.comm.allreduce(pair, name="step.agreement")
        return self._asked

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

    def _add_to_totals(self, loss: Tensor, count: Tensor) -> None:
        ops = self.ops
        pair = [ops.reshape(ops.cast(x, "float64"), (1,)) for x in (loss, count)]
        ops.assign_add(self._totals, ops.concat(pair))

    # ---- primitives --------------------------------------------------------------------------

    @abstractmethod
    def statistics(self) -> list[Variable]:
        """What a forward pass in training changes: batch norm's running mean, say."""

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
