"""The contract between a training step and the way its ranks work together.

A strategy sees parameters and flat gradient buffers through `Ops`, and other ranks through
`Comm`; it sees no framework. One step calls, in this order: `at_step`; `begin`; `bucket_ready`
for every bucket and `rows_ready` for every table (during the backward pass where the framework
can); `gradient` and `row_gradient` for each of them; and `after_update` and `commit`, or, if the
step is skipped, `rollback`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hvdkit.comm import Comm, Traffic
from hvdkit.gradients.buckets import (
    Bucket,
    ParamSpec,
    buckets_from_names,
    in_order,
    lateness,
    plan_buckets,
)
from hvdkit.tensors import Ops, Tensor, Variable

# The least gain in lateness (part of a backward pass) for which buckets are laid out anew.
_WORTH_WHILE = 0.02


@dataclass(frozen=True)
class Parameter:
    """A named variable of the model that the ranks must agree on.

    Untrained ones (batch norm's statistics) have no gradient and are in no bucket. Nor is a
    sparse one: it is a table whose gradient travels as the rows it touches. `axes` says how the
    axes of `variable`, and of the gradient in a bucket, are permuted to give `spec.shape`.
    """

    spec: ParamSpec
    variable: Variable
    trainable: bool = True
    sparse: bool = False
    axes: tuple[int, ...] | None = None


class Strategy(ABC):
    """How gradients, and where needed parameters, come to agree over the ranks."""

    buckets: tuple[Bucket, ...]
    tables: tuple[Parameter, ...]
    # `gradient` is finite wherever the norms of what the ranks hand over add up to less than this;
    # None: that has to be looked at.
    finite_below: float | None = None

    def __init__(self, *, bucket_mb: float, learn_order: bool = True):
        self.bucket_mb, self.learn_order = bucket_mb, learn_order

    def setup(
        self,
        params: Sequence[Parameter],
        comm: Comm,
        ops: Ops,
        *,
        plan: Sequence[Sequence[str]] | None = None,
    ) -> None:
        """Give every rank rank 0's values and plan the buckets (or take over a saved `plan`)."""
        self.comm, self.ops = comm, ops
        # What gradients send, counted: buckets, and tables' rows, which no compression touches.
        self.traffic, self.row_traffic = Traffic(comm, ops), Traffic(comm, ops)
        self._steps = 0
        self._params = tuple(params)
        trained = [param for param in params if param.trainable]
        self.tables = tuple(param for param in trained if param.sparse)
        self._dense = [param.spec for param in trained if not param.sparse]
        if plan is None:
            self.buckets = self._planned(self._dense)
        else:
            self.buckets = buckets_from_names(self._dense, plan, world_size=self.shards())
        self.broadcast_parameters()

    def _planned(self, specs: Sequence[ParamSpec]) -> tuple[Bucket, ...]:
        return plan_buckets(
            specs, cap_mb=self.bucket_mb, world_size=self.shards(), apart=self.is_apart
        )

    def better_plan(self, seen: Sequence[str]) -> tuple[Bucket, ...] | None:
        """Buckets for gradients that come in the order `seen`, if they can leave earlier then."""
        ordered = in_order(self._dense, seen)
        better = self._planned(ordered)
        if lateness(self.buckets, seen) - lateness(better, seen) <= _WORTH_WHILE:
            return None
        self._dense = ordered
        return better

    def planned_with(self, **settings: Any) -> tuple[Bucket, ...]:
        """Buckets with other values of the attributes of these names, which are kept."""
        for name, value in settings.items():
            setattr(self, name, value)
        return self._planned(self._dense)

    def take_over(self, buckets: Sequence[Bucket]) -> None:
        """Go on with other buckets, between two steps."""
        self.buckets = tuple(buckets)

    def broadcast_parameters(self) -> None:
        """Give every rank rank 0's parameters, bit for bit."""
        handles = [
            self.comm.broadcast(self.ops.read(param.variable), name=f"init.{param.spec.name}")
            for param in self._params
        ]
        for param, handle in zip(self._params, handles, strict=True):
            self.ops.assign(param.variable, handle.wait())

    def shards(self) -> int:
        """Into how many equal parts a bucket must divide (1: buckets are never cut)."""
        return 1

    def is_apart(self, spec: ParamSpec) -> bool:
        """Whether a parameter shares no bucket with those of which this is not so."""
        return False

    def replica(self) -> tuple[int, int]:
        """(index, count): which slice of every batch this rank trains on."""
        return self.comm.rank, self.comm.size

    def keeps_shared_state(self) -> bool:
        """Whether this rank writes what all ranks hold alike to a checkpoint."""
        return self.comm.rank == 0

    def at_step(self, step: int) -> None:
        """Step number `step` comes (never inside a traced step)."""
        self._steps += 1

    def phase(self, step: int) -> Hashable:
        """What shape step `step` has: a compiled step is reused while this stays the same."""
        return None

    def begin(self, *, unit: Tensor | float) -> None:  # noqa: B027 - for those who keep gradients
        """A step begins whose gradients are `unit` times the true ones."""

    @abstractmethod
    def bucket_ready(self, bucket: Bucket, flat: Tensor) -> None:
        """This rank's gradient of `bucket` is complete in `flat` (`bucket.size` elements)."""

    @abstractmethod
    def rows_ready(self, table: Parameter, rows: Tensor, values: Tensor) -> None:
        """This rank's gradient of `table` is `values` (n, width) at `rows` (n,), and 0 elsewhere.

        A row may come several times: its values add up.
        """

    @abstractmethod
    def row_gradient(self, table: Parameter) -> tuple[Tensor, Tensor]:
        """The rows of `table` to update, each once, and their gradients; waits for them.

        Rows whose gradient is zero are left out: which rows a step touches then does not
        depend on how its batch was split.
        """

    def global_norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """The Euclidean norm (float64) of the whole gradient, from what `gradient` and
        `row_gradient` gave."""
        squares = [self.ops.cast(self.ops.sum_of_squares(g), "float64") for g in gradients]
        return self.ops.sqrt(sum(squares[1:], squares[0]))

    @abstractmethod
    def gradient(self, bucket: Bucket) -> Tensor:
        """The gradient to update `bucket` with; waits for it. Call it once a step."""

    def after_update(self) -> None:  # noqa: B027 - equal gradients need nothing more
        """Make parameters agree, where equal gradients do not already see to it."""

    def commit(self) -> None:  # noqa: B027 - most keep nothing of a step
        """The step counts. It is called where a graph branches, so it only changes variables."""

    def rollback(self) -> None:  # noqa: B027
        """The step is skipped, and leaves no trace."""

    def wire_bytes(self) -> tuple[float, float]:
        """(sent, plain): what this rank's gradients have sent since `setup`, and what they would
        have in the dtype they are computed in, with one ring over all ranks."""
        rows, share = self.row_traffic.sent, 2 * (self.comm.size - 1) / self.comm.size
        dense = sum(param.nbytes for bucket in self.buckets for param in bucket.params)
        return self.traffic.sent + rows, self._steps * dense * share + rows

    def own_state(self) -> dict[str, np.ndarray]:
        """What this rank alone holds, by name, and a checkpoint must keep: on another number of
        ranks, what counts is its sum over them."""
        return {}

    def load_own_state(self, state: Mapping[str, np.ndarray], *, shared: bool) -> None:  # noqa: B027
        """Take over what `own_state` gave; or, if `shared`, one's part of its sum over ranks.
        What is missing is nothing."""

    def state_dict(self) -> dict[str, np.ndarray]:
        """What a checkpoint must keep beside parameters and optimizer state."""
        return {}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, found {sorted(state)}")

    def reduction(self) -> str:
        """How gradients come together, in words that differ where that does."""
        return type(self).__name__

    def describe(self) -> dict[str, Any]:
        """What the bits of a run depend on, for a checkpoint's manifest."""
        return {
            "strategy": type(self).__name__,
            "reduction": self.reduction(),
            "buckets": [list(bucket.names) for bucket in self.buckets],
        }
