"""LARS and LAMB: steps in proportion to each layer's weights, for large batches."""

from __future__ import annotations

from dataclasses import dataclass

from hvdkit.optimizers.adam import corrections, moments
from hvdkit.optimizers.base import LayerwiseOptimizer
from hvdkit.schema import at_least, between, check, positive
from hvdkit.tensors import Ops, Tensor


@dataclass(frozen=True, kw_only=True)
class LARS(LayerwiseOptimizer):
    """You et al. 2017 (arXiv:1708.03888), algorithm 1.

    v = momentum v + lr ratio (g + decay p); p -= v, where the ratio is
    `trust_coefficient` |p| / (|g| + decay |p|). The rate is inside the velocity, as in the
    paper: after a change of rate the velocity follows within 1 / (1 - momentum) steps.

    Biases and norms have ratio 1, and so take `lr` itself.
    """

    lr: float = positive()
    momentum: float = between(0.0, 1.0, default=0.9)
    trust_coefficient: float = positive(default=0.001)
    weight_decay: float = at_least(0.0, default=0.0)
    slots = ("velocity",)

    def __post_init__(self):
        check(self)

    def prepare(self, ops, param, grad, slots, scalars, decay):
        return grad, dict(slots)

    def ratio(self, ops, param_norm, direction_norm, decay):
        regular = ops.minimum(param_norm, direction_norm) > 0.0
        against = direction_norm + param_norm * decay
        return _quotient(ops, regular, param_norm * self.trust_coefficient, against)

    def apply(self, ops, param, direction, slots, scalars, ratio, decay):
        if decay:
            direction = direction + param * decay
        before = slots["velocity"]
        step = direction * (scalars["lr"] * ratio)
        velocity = ops.add_scaled(step, before, self.momentum, out=before)
        param = ops.add_scaled(param, velocity, -1.0, out=param)
        return param, {**slots, "velocity": velocity}


@dataclass(frozen=True, kw_only=True)
class LAMB(LayerwiseOptimizer):
    """You et al. 2020 (arXiv:1904.00962), algorithm 2, with the identity as its phi.

    r = m' / (sqrt(v') + eps) + decay p for the unbiased means m' and v' of g and g^2;
    p -= lr ratio r, where the ratio is |p| / |r|.
    """

    lr: float = positive()
    beta1: float = between(0.0, 1.0, default=0.9)
    beta2: float = between(0.0, 1.0, default=0.999)
    eps: float = positive(default=1e-6)
    weight_decay: float = at_least(0.0, default=0.01)
    slots = ("m", "v")

    def __post_init__(self):
        check(self)

    def scalars(self, *, lr, step):
        return {"lr": lr, **corrections(self.beta1, self.beta2, self.eps, step)}

    def prepare(self, ops, param, grad, slots, scalars, decay):
        m, v = moments(ops, grad, slots, self.beta1, self.beta2)
        direction = m / (ops.sqrt(v) + scalars["eps"]) * scalars["scale"]
        if decay:
            direction = ops.add_scaled(direction, param, decay, out=direction)
        return direction, {**slots, "m": m, "v": v}

    def ratio(self, ops, param_norm, direction_norm, decay):
        regular = ops.minimum(param_norm, direction_norm) > 0.0
        return _quotient(ops, regular, param_norm, direction_norm)

    def apply(self, ops, param, direction, slots, scalars, ratio, decay):
        step = direction * (scalars["lr"] * ratio)
        return ops.add_scaled(param, step, -1.0, out=param), dict(slots)


def _quotient(ops: Ops, regular: Tensor, above: Tensor, below: Tensor) -> Tensor:
    """above / below, but 1 where not `regular`: a layer of zeros must be able to leave them."""
    return ops.where(regular, above / ops.where(regular, below, 1.0), 1.0)
