"""Adam."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hvdkit.optimizers.base import Optimizer
from hvdkit.schema import at_least, between, check, positive


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Kingma & Ba 2015 (arXiv:1412.6980), algorithm 1, with L2 decay added to the gradient.

    The bias corrections are folded into two scalars: p -= step_size m / (sqrt(v) scale + eps).
    """

    lr: float = positive()
    beta1: float = between(0.0, 1.0, default=0.9)
    beta2: float = between(0.0, 1.0, default=0.999)
    eps: float = positive(default=1e-8)
    weight_decay: float = at_least(0.0, default=0.0)
    slots = ("m", "v")

    def __post_init__(self):
        check(self)

    def scalars(self, *, lr, step):
        t = step + 1
        return {
            "step_size": lr / (1 - self.beta1**t),
            "scale": 1 / math.sqrt(1 - self.beta2**t),
        }

    def update(self, ops, param, grad, slots, scalars, decay):
        if self.weight_decay:
            grad = grad + decay * param
        m = slots["m"] * self.beta1 + grad * (1 - self.beta1)
        v = slots["v"] * self.beta2 + grad * grad * (1 - self.beta2)
        param = param - m * scalars["step_size"] / (ops.sqrt(v) * scalars["scale"] + self.eps)
        return param, {"m": m, "v": v}
