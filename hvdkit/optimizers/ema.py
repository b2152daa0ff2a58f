"""An exponential moving average of the weights, kept beside any rule."""

from __future__ import annotations

from hvdkit.errors import HvdkitError
from hvdkit.optimizers.base import LayerwiseOptimizer, Optimizer

AVERAGE = "average"


class Averaged(LayerwiseOptimizer):
    """`optimizer`, with one slot more: average += (1 - decay) (param - average) after each update.

    The average starts as the parameter, so it needs no correction for bias (Polyak & Juditsky
    1992; with this decay, Tarvainen & Valpola 2017). All else is the optimizer's own:
    `layerwise` is true for an average over a layerwise rule alone.
    """

    def __init__(self, optimizer: Optimizer, decay: float):
        if not 0.0 <= decay < 1.0:
            raise HvdkitError(f"ema_decay={decay} must be at least 0 and below 1")
        if AVERAGE in optimizer.slots:
            raise HvdkitError("these weights are averaged already: give the optimizer itself")
        self.optimizer, self.decay = optimizer, decay
        self.lr, self.weight_decay = optimizer.lr, optimizer.weight_decay
        self.layerwise = optimizer.layerwise

    def __repr__(self) -> str:
        return f"Averaged({self.optimizer!r}, {self.decay})"

    @property
    def slots(self):
        return (*self.optimizer.slots, AVERAGE)

    @property
    def name(self):
        return self.optimizer.name

    def slot_start(self, slot):
        return "parameter" if slot == AVERAGE else self.optimizer.slot_start(slot)

    def scalars(self, *, lr, step):
        return self.optimizer.scalars(lr=lr, step=step)

    def update(self, ops, param, grad, slots, scalars, decay):
        param, new = self.optimizer.update(ops, param, grad, slots, scalars, decay)
        return self._average(ops, param, slots, new)

    def prepare(self, ops, param, grad, slots, scalars, decay):
        return self._layerwise.prepare(ops, param, grad, slots, scalars, decay)

    def ratio(self, ops, param_norm, direction_norm, decay):
        return self._layerwise.ratio(ops, param_norm, direction_norm, decay)

    def apply(self, ops, param, direction, slots, scalars, ratio, decay):
        param, new = self._layerwise.apply(ops, param, direction, slots, scalars, ratio, decay)
        return self._average(ops, param, slots, new)

    @property
    def _layerwise(self) -> LayerwiseOptimizer:
        if not isinstance(self.optimizer, LayerwiseOptimizer):
            raise TypeError(f"{self.optimizer!r} is not layerwise: call update")
        return self.optimizer

    def _average(self, ops, param, slots, new):
        before = slots[AVERAGE]
        average = ops.add_scaled(before, param - before, 1 - self.decay, out=before)
        return param, {**new, AVERAGE: average}
