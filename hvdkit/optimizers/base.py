"""The form of an update rule: stateless, over `Ops`, elementwise but for two norms.

An adapter calls `update` on pieces of its choice (a cache-sized run of a flat buffer, some
rows of a table, one variable of a graph), so a rule may only work element by element. The
rules that need norms of whole parameters say so by `layerwise`, and are called in three parts.
Whatever depends on the step number alone is computed once, on the host, by `scalars`: both
frameworks then receive the same numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal

from hvdkit.tensors import Ops, Tensor


class Optimizer(ABC):
    """An update rule.

    `lr` is the base learning rate; the schedule's factor is applied to it. `slots` names the
    state kept for each element, and `slot_start` says what it starts from. `layerwise` rules
    are `LayerwiseOptimizer`s, whose `update` takes whole parameters only.
    """

    lr: float
    weight_decay: float
    layerwise: bool = False

    @property
    def slots(self) -> tuple[str, ...]:
        return ()

    @property
    def name(self) -> str:
        """What messages call it."""
        return type(self).__name__

    def slot_start(self, slot: str) -> float | Literal["parameter"]:
        """What a slot holds before the first update: a number, or a copy of the parameter."""
        return 0.0

    def scalars(self, *, lr: float, step: int) -> dict[str, float]:
        """Numbers for update number `step` (0 is the first), at learning rate `lr`."""
        return {"lr": lr}

    @abstractmethod
    def update(
        self,
        ops: Ops,
        param: Tensor,
        grad: Tensor,
        slots: Mapping[str, Tensor],
        scalars: Mapping[str, Tensor],
        decay: Tensor | float,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The new values of a piece of parameters and of its slots.

        `param` and `slots` may be overwritten on the way (`Ops.add_scaled`), `grad` may not.

        `decay` is the weight decay of each element: `weight_decay` for matrices and kernels,
        0 for biases and norms (Goyal et al. 2017, section 5.1), which have one dimension.
        """


class LayerwiseOptimizer(Optimizer):
    """A rule whose step is measured by the norms of whole parameters, in three parts.

    An adapter calls `prepare` on every piece of a parameter, takes the Euclidean norms of the
    whole parameter and of its direction, calls `ratio` once, then `apply` on every piece. A
    parameter of fewer than two dimensions (a bias, a norm) is not adapted: its ratio is exactly
    1, and `ratio` is not called (You et al. 2020, and the published implementations, leave
    these out).

    `decay` is here one number for the whole parameter.
    """

    layerwise: bool = True

    @abstractmethod
    def prepare(
        self,
        ops: Ops,
        param: Tensor,
        grad: Tensor,
        slots: Mapping[str, Tensor],
        scalars: Mapping[str, Tensor],
        decay: float,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The direction of a piece, whose norm `ratio` is given, and all its slots for `apply`.

        `slots` may be overwritten on the way, `param` and `grad` may not. The direction may be
        `grad` itself.
        """

    @abstractmethod
    def ratio(self, ops: Ops, param_norm: Tensor, direction_norm: Tensor, decay: float) -> Tensor:
        """The trust ratio of a whole parameter, a scalar: 1 where a norm is 0."""

    @abstractmethod
    def apply(
        self,
        ops: Ops,
        param: Tensor,
        direction: Tensor,
        slots: Mapping[str, Tensor],
        scalars: Mapping[str, Tensor],
        ratio: Tensor | float,
        decay: float,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The new values of a piece and of all its slots, given those of `prepare`.

        `param` and `slots` may be overwritten on the way, `direction` may not. A tensor
        `ratio` has the parameter's dtype.
        """

    def update(self, ops, param, grad, slots, scalars, decay):
        """All three parts, on one whole parameter in its own shape."""
        direction, slots = self.prepare(ops, param, grad, slots, scalars, decay)
        ratio = 1.0
        if len(param.shape) > 1:
            ratio = self.ratio(ops, _norm(ops, param), _norm(ops, direction), decay)
        return self.apply(ops, param, direction, slots, scalars, ratio, decay)


def _norm(ops: Ops, x: Tensor) -> Tensor:
    return ops.sqrt(ops.sum(x * x))
