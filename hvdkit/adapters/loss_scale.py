"""The factor that keeps small gradients alive in half precision."""

from __future__ import annotations

import numpy as np

from hvdkit.tensors import Ops, Tensor


class LossScale:
    """The dynamic loss scale of fp16: halved when a gradient overflows, doubled after
    `patience` updates that did not (Micikevicius et al. 2018, section 3.2)."""

    start, patience = 2.0**15, 2000

    def __init__(self, ops: Ops):
        self._ops = ops
        self._state = ops.variable(np.array([self.start, 0.0]), "float64")

    @property
    def value(self) -> Tensor:
        return self._ops.read(self._state)[0]

    def adjust(self, finite: Tensor) -> None:
        """Take note of one step's outcome."""
        ops = self._ops
        state = ops.read(self._state)
        scale, good = state[0], state[1]
        grown = good + 1 >= self.patience
        ok = (ops.where(grown, scale * 2, scale), ops.where(grown, good * 0, good + 1))
        halved = ops.maximum(scale / 2, 1.0)
        new = [ops.where(finite, ok[0], halved), ops.where(finite, ok[1], good * 0)]
        ops.assign(self._state, ops.concat([ops.reshape(x, (1,)) for x in new]))

    @property
    def at_floor(self) -> bool:
        """Whether it cannot be halved any more (never inside a traced step)."""
        return bool(self.read()[0] <= 1.0)

    def read(self) -> np.ndarray:
        """(scale, updates since it changed), for a checkpoint."""
        return self._ops.numpy(self._state).copy()

    def write(self, state: np.ndarray) -> None:
        self._ops.assign(self._state, self._ops.array(state, "float64"))
