"""RMSprop."""

from __future__ import annotations

from dataclasses import dataclass

from hvdkit.optimizers.base import Optimizer
from hvdkit.schema import at_least, between, check, positive


@dataclass(frozen=True, kw_only=True)
class RMSprop(Optimizer):
    """g / (sqrt(mean of g^2) + eps), with L2 decay added to g (Hinton 2012, lecture 6e).

    `centered` takes the variance instead of the mean square (Graves 2013, arXiv:1308.0850,
    section 4.2). With `momentum` a velocity sums these quotients, and the rate stays outside
    it: v = momentum v + quotient; p -= lr v. Epsilon is added to the root, as torch has it.
    """

    lr: float = positive()
    alpha: float = between(0.0, 1.0, default=0.99)
    eps: float = positive(default=1e-8)
    momentum: float = between(0.0, 1.0, default=0.0)
    centered: bool = False
    weight_decay: float = at_least(0.0, default=0.0)

    def __post_init__(self):
        check(self)

    @property
    def slots(self):
        mean = ("mean",) if self.centered else ()
        velocity = ("velocity",) if self.momentum else ()
        return ("square", *mean, *velocity)

    def update(self, ops, param, grad, slots, scalars, decay):
        if self.weight_decay:
            grad = grad + param * decay
        before = slots["square"]
        square = ops.add_scaled(before * self.alpha, grad * grad, 1 - self.alpha, out=before)
        new = {"square": square}
        spread = square
        if self.centered:
            before = slots["mean"]
            mean = ops.add_scaled(before, grad - before, 1 - self.alpha, out=before)
            # A variance, but for rounding, which may leave it just below 0.
            spread = ops.maximum(square - mean * mean, 0.0)
            new["mean"] = mean
        direction = grad / (ops.sqrt(spread) + self.eps)
        if self.momentum:
            before = slots["velocity"]
            direction = ops.add_scaled(direction, before, self.momentum, out=before)
            new["velocity"] = direction
        return ops.add_scaled(param, direction, -scalars["lr"], out=param), new
