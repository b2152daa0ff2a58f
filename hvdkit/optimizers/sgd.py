"""Stochastic gradient descent."""

from __future__ import annotations

from dataclasses import dataclass

from hvdkit.optimizers.base import Optimizer
from hvdkit.schema import at_least, between, check, positive


@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """v = momentum v + g + decay p; p -= lr v (with Nesterov: lr (g + decay p + momentum v)).

    The learning rate stays outside the velocity, as in Sutskever et al. 2013's restatement
    used by Goyal et al. 2017 (equation 10), so a schedule needs no momentum correction.
    """

    lr: float = positive()
    momentum: float = between(0.0, 1.0, default=0.9)
    nesterov: bool = False
    weight_decay: float = at_least(0.0, default=0.0)

    def __post_init__(self):
        check(self)

    @property
    def slots(self):
        return ("velocity",) if self.momentum else ()

    def update(self, ops, param, grad, slots, scalars, decay):
        if self.weight_decay:
            grad = grad + param * decay
        if not self.momentum:
            return ops.add_scaled(param, grad, -scalars["lr"], out=param), {}
        before = slots["velocity"]
        velocity = ops.add_scaled(grad, before, self.momentum, out=before)
        direction = ops.add_scaled(grad, velocity, self.momentum) if self.nesterov else velocity
        return ops.add_scaled(param, direction, -scalars["lr"], out=param), {"velocity": velocity}
