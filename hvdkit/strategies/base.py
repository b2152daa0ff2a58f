"""The contract between a training step and the way its ranks work together.

A strategy sees parameters and flat gradient buffers through `Ops`, and other ranks through
`Comm`; it sees no framework. One step calls, in this order: `bucket_ready` for every bucket and
`rows_ready` for every table (during the backward pass where the framework can), `gradient` and
`row_gradient` for each of them, and, unless the step is skipped, `after_update`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hvdkit.comm import Comm
from hvdkit.gradients.buckets import Bucket, ParamSpec, buckets_from_names, plan_buckets
from hvdkit.tensors import Ops, Tensor, Variable


@dataclass(frozen=True)
class Parameter:
    """A named variable of the model that the ranks must agree on.

    Untrained ones (batch norm's statistics) have no gradient and are in no bucket. Nor is a
    sparse one: it is a table whose gradient travels as the rows it touches.
    """

    spec: ParamSpec
    variable: Variable
    trainable: bool = True
    sparse: bool = False


class Strategy(ABC):
    """How gradients, and where needed parameters, come to agree over the ranks."""

    buckets: tuple[Bucket, ...]
    tables: tuple[Parameter, ...]

    def __init__(self, *, bucket_mb: float):
        self.bucket_mb = bucket_mb

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
        self._params = tuple(params)
        trained = [param for param in params if param.trainable]
        self.tables = tuple(param for param in trained if param.sparse)
        specs = [param.spec for param in trained if not param.sparse]
        if plan is None:
            self.buckets = plan_buckets(specs, cap_mb=self.bucket_mb, world_size=self.shards())
        else:
            self.buckets = buckets_from_names(specs, plan, world_size=self.shards())
        self.broadcast_parameters()

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

    def replica(self) -> tuple[int, int]:
        """(index, count): which slice of every batch this rank trains on."""
        return self.comm.rank, self.comm.size

    def keeps_shared_state(self) -> bool:
        """Whether this rank writes what all ranks hold alike to a checkpoint."""
        return self.comm.rank == 0

    def phase(self, step: int) -> Hashable:
        """What shape step `step` has: a compiled step is reused while this stays the same."""
        return None

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
        squares = [self.ops.cast(self.ops.sum(g * g), "float64") for g in gradients]
        return self.ops.sqrt(sum(squares[1:], squares[0]))

    @abstractmethod
    def gradient(self, bucket: Bucket) -> Tensor:
        """The gradient to update `bucket` with; waits for it. Call it once a step."""

    def after_update(self) -> None:  # noqa: B027 - equal gradients need nothing more
        """Make parameters agree, where equal gradients do not already see to it."""

    def state_dict(self) -> dict[str, np.ndarray]:
        """What a checkpoint must keep beside parameters and optimizer state."""
        return {}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, found {sorted(state)}")

    def describe(self) -> dict[str, Any]:
        """What the bits of a run depend on, for a checkpoint's manifest."""
        return {
            "strategy": type(self).__name__,
            "buckets": [list(bucket.names) for bucket in self.buckets],
        }
