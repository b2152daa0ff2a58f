"""What a compression does in a step, and the memory of what it could not send.

A strategy calls `setup` once; then every step `at_step`, `reduce` for each part of its buckets,
and, once all ranks know whether the step counts, `commit` or `rollback`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hvdkit.comm import Comm, Staged, Stages
from hvdkit.gradients.buckets import Bucket, ParamSpec
from hvdkit.tensors import Ops, Tensor, Variable


@dataclass(frozen=True)
class Part:
    """Elements `start` to `stop` of a bucket, which are reduced together under the name `key`.

    `axes` has the memory layout of the bucket's parameters that are not kept as their shape
    says: how the axes of the array in memory are permuted to give that shape.
    """

    key: str
    bucket: Bucket
    start: int
    stop: int
    axes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return self.stop - self.start

    def own_shape(self, param: ParamSpec) -> tuple[int, ...]:
        """The shape of a parameter's array as it lies in memory."""
        axes = self.axes.get(param.name)
        if axes is None:
            return param.shape
        return tuple(param.shape[axes.index(i)] for i in range(len(axes)))

    def pieces(self) -> Iterator[tuple[ParamSpec, slice, slice]]:
        """Each parameter with elements here, which of its elements, and where in the part."""
        for param, offset in zip(self.bucket.params, self.bucket.offsets, strict=True):
            low, high = max(self.start, offset), min(self.stop, offset + param.numel)
            if low < high:
                yield (
                    param,
                    slice(low - offset, high - offset),
                    slice(low - self.start, high - self.start),
                )


class Compression(ABC):
    """An encoding of gradients."""

    divisible = True  # whether any part of a bucket may be reduced by itself
    # Sums of gradients are finite whose norm, as handed over, is below this; None: nobody knows.
    finite_below: float | None = None

    def takes(self, param: ParamSpec) -> bool:
        """Whether the gradient of this parameter is compressed, and not sent as it is."""
        return True

    def multiple(self, ranks: int) -> int:
        """What the size of a part must be a multiple of, on so many ranks."""
        return 1

    def setup(self, parts: Sequence[Part], comm: Comm, ops: Ops) -> None:
        """Make what is kept from step to step, before the first one."""
        self.comm, self.ops = comm, ops
        self.parts = {part.key: part for part in parts}

    def at_step(self, step: int) -> None:  # noqa: B027 - most are the same at every step
        """Step number `step` comes."""

    def phase(self, step: int) -> Hashable:
        """What differs in the shape of step `step`, for a compiled one."""
        return None

    def begin(self, *, unit: Tensor | float) -> None:  # noqa: B027 - most take gradients as they are
        """A step begins, whose gradients are `unit` times the true ones: multiplied by the loss
        scale and divided by the batch's usual count."""

    def reduce(self, flat: Tensor, *, key: str) -> Staged:
        """Start summing `flat` over the ranks; the handle gives the sum in `flat`'s dtype.

        `key` names the part: the same on every rank, and at every step. What is not finite on
        one rank is not finite in the sum on every rank. `flat` may be overwritten.
        """
        return Staged(self.stages(flat, key))

    @abstractmethod
    def stages(self, flat: Tensor, key: str) -> Stages:
        """The collectives of `reduce`, in order."""

    def commit(self) -> None:  # noqa: B027 - most keep nothing
        """The step counts: what it left to send is kept for the next."""

    def rollback(self) -> None:  # noqa: B027
        """The step is skipped: all is as before it. A graph has both branches, in any order."""

    def state(self) -> dict[str, np.ndarray]:
        """What all ranks hold alike and a checkpoint must keep."""
        return {}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:  # noqa: B027
        """Take over what `state` gave; what is missing or does not fit starts anew."""

    def residuals(self) -> dict[str, np.ndarray]:
        """What this rank has not sent yet, by parameter, in each one's own shape."""
        return {}

    def load_residuals(self, residuals: Mapping[str, np.ndarray], *, shared: bool) -> None:  # noqa: B027
        """Take over what `residuals` gave; or, if `shared`, one's part of its sum over ranks."""


@dataclass(kw_only=True)
class NoCompression(Compression):
    """Sum gradients in the precision they were computed in."""

    finite_below = math.inf

    def stages(self, flat, key):
        return (yield self.comm.allreduce(flat, name=key))


class ErrorFeedback(Compression):
    """A compression that adds what it could not send to the next step's gradient.

    Seide et al., "1-bit stochastic gradient descent" (Interspeech 2014); that it converges as
    the uncompressed does: Karimireddy et al., "Error feedback fixes SignSGD" (ICML 2019).

    The residual is in units of the true gradient: neither another loss scale nor another batch
    size changes what it means. What all ranks have applied together with what all of them hold
    back is at any step the sum of all gradients so far.
    """

    def setup(self, parts, comm, ops):
        super().setup(parts, comm, ops)
        self._residual: dict[str, Variable] = {
            part.key: ops.variable(np.zeros(part.size), part.bucket.dtype) for part in parts
        }
        self.begin(unit=1.0)

    def begin(self, *, unit):
        self._unit = unit
        self._after: list[tuple[Variable, Tensor]] = []

    def _owed(self, flat: Tensor, residual: Tensor) -> Tensor:
        """The true gradient and what is left of earlier ones."""
        return self.ops.add_scaled(residual, flat, self._typed(1 / self._unit, flat))

    def _typed(self, number: Any, like: Tensor) -> Any:
        """A number that may be multiplied with tensors of the dtype of `like`."""
        return self.ops.cast(number, self.ops.dtype(like)) if hasattr(number, "dtype") else number

    def _keep(self, variable: Variable, value: Tensor) -> None:
        """Let `value` be the variable's, if the step comes to count."""
        self._after.append((variable, value))

    def commit(self):
        for variable, value in self._after:
            self.ops.replace(variable, value)

    def residuals(self):
        flats: dict[str, np.ndarray] = {}
        owners: dict[str, tuple[Part, ParamSpec]] = {}
        for part in self.parts.values():
            kept = self.ops.numpy(self.ops.read(self._residual[part.key]))
            for param, there, here in part.pieces():
                whole = flats.setdefault(param.name, np.zeros(param.numel, kept.dtype))
                whole[there] = kept[here]
                owners[param.name] = part, param
        return {name: _canonical(*owners[name], flat) for name, flat in flats.items()}

    def load_residuals(self, residuals, *, shared):
        for part in self.parts.values():
            flat = np.zeros(part.size, part.bucket.dtype)
            for param, there, here in part.pieces():
                if param.name in residuals:
                    flat[here] = _in_memory(part, param, residuals[param.name])[there]
            if shared:  # each rank takes up its share, so that the sum over ranks stays
                share = -(-part.size // self.comm.size)
                flat[: share * self.comm.rank] = 0
                flat[share * (self.comm.rank + 1) :] = 0
            self.ops.assign(self._residual[part.key], self.ops.array(flat))


def _canonical(part: Part, param: ParamSpec, flat: np.ndarray) -> np.ndarray:
    axes = part.axes.get(param.name)
    own = flat.reshape(part.own_shape(param))
    return own if axes is None else np.ascontiguousarray(np.transpose(own, axes))


def _in_memory(part: Part, param: ParamSpec, array: np.ndarray) -> np.ndarray:
    axes = part.axes.get(param.name)
    own = array if axes is None else np.transpose(array, np.argsort(axes))
    return np.ascontiguousarray(own).reshape(-1)
