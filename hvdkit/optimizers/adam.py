"""Adam and AdamW."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from hvdkit.optimizers.base import Optimizer
from hvdkit.schema import at_least, between, check, positive
from hvdkit.tensors import Ops, Tensor


def moments(
    ops: Ops, grad: Tensor, slots: Mapping[str, Tensor], beta1: float, beta2: float
) -> tuple[Tensor, Tensor]:
    """The running means of the gradient and of its square, one step on; over the slots' own."""
    m = ops.add_scaled(slots["m"], grad - slots["m"], 1 - beta1, out=slots["m"])
    v = ops.add_scaled(slots["v"] * beta2, grad * grad, 1 - beta2, out=slots["v"])
    return m, v


def corrections(beta1: float, beta2: float, eps: float, step: int) -> dict[str, float]:
    """Scalars for which m / (sqrt(v) + eps) * scale is the ratio of the unbiased means.

    The corrections of m and v are folded into the scale and eps, which saves two passes:
    m / a / (sqrt(v) / b + e) = (b / a) m / (sqrt(v) + b e).
    """
    a, b = 1 - beta1 ** (step + 1), math.sqrt(1 - beta2 ** (step + 1))
    return {"scale": b / a, "eps": b * eps}


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Kingma & Ba 2015 (arXiv:1412.6980), algorithm 1, with L2 decay added to the gradient."""

    lr: float = positive()
    beta1: float = between(0.0, 1.0, default=0.9)
    beta2: float = between(0.0, 1.0, default=0.999)
    eps: float = positive(default=1e-8)
    weight_decay: float = at_least(0.0, default=0.0)
    slots = ("m", "v")

    def __post_init__(self):
        check(self)

    def scalars(self, *, lr, step):
        folded = corrections(self.beta1, self.beta2, self.eps, step)
        return {"step_size": lr * folded["scale"], "eps": folded["eps"]}

    def update(self, ops, param, grad, slots, scalars, decay):
        if self.weight_decay:
            grad = grad + param * decay
        return self._step(ops, param, grad, slots, scalars)

    def _step(self, ops, param, grad, slots, scalars):
        m, v = moments(ops, grad, slots, self.beta1, self.beta2)
        direction = m / (ops.sqrt(v) + scalars["eps"])
        param = ops.add_scaled(param, direction, -scalars["step_size"], out=param)
        return param, {"m": m, "v": v}


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Loshchilov & Hutter 2019 (arXiv:1711.05101), algorithm 2: p -= lr decay p, then Adam's
    step without decay. The schedule's factor applies to both."""

    weight_decay: float = at_least(0.0, default=0.01)

    def scalars(self, *, lr, step):
        return {**super().scalars(lr=lr, step=step), "lr": lr}

    def update(self, ops, param, grad, slots, scalars, decay):
        if self.weight_decay:
            param = ops.add_scaled(param, param * decay, -scalars["lr"], out=param)
        return self._step(ops, param, grad, slots, scalars)
