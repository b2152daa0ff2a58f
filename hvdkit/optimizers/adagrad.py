"""Adagrad."""

from __future__ import annotations

from dataclasses import dataclass

from hvdkit.optimizers.base import Optimizer
from hvdkit.schema import at_least, check, positive


@dataclass(frozen=True, kw_only=True)
class Adagrad(Optimizer):
    """s += g^2; p -= lr g / (sqrt(s) + eps) (Duchi et al. 2011), with L2 decay added to g.

    Every element's sum starts at `initial_accumulator`. The rate of update number t (0 is the
    first) is divided by 1 + t `lr_decay`, on top of the schedule.
    """

    lr: float = positive()
    lr_decay: float = at_least(0.0, default=0.0)
    initial_accumulator: float = at_least(0.0, default=0.0)
    eps: float = positive(default=1e-10)
    weight_decay: float = at_least(0.0, default=0.0)
    slots = ("sum",)

    def __post_init__(self):
        check(self)

    def slot_start(self, slot):
        return self.initial_accumulator

    def scalars(self, *, lr, step):
        return {"lr": lr / (1 + step * self.lr_decay)}

    def update(self, ops, param, grad, slots, scalars, decay):
        if self.weight_decay:
            grad = grad + param * decay
        total = ops.add_scaled(slots["sum"], grad * grad, 1.0, out=slots["sum"])
        direction = grad / (ops.sqrt(total) + self.eps)
        return ops.add_scaled(param, direction, -scalars["lr"], out=param), {"sum": total}
