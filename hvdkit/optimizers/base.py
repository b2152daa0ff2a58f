"""The form of an update rule: elementwise, stateless, over `Ops`.

An adapter calls `update` on pieces of its choice (a cache-sized run of a flat buffer, one
variable of a graph), so a rule may only work element by element. Whatever depends on the
step number alone is computed once, on the host, by `scalars`: both frameworks then receive
the same numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from hvdkit.tensors import Ops, Tensor


class Optimizer(ABC):
    """An update rule.

    `lr` is the base learning rate; the schedule's factor is applied to it. `slots` names the
    state kept for each element, zero at the start.
    """

    lr: float
    weight_decay: float
    slots: ClassVar[tuple[str, ...]] = ()

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
