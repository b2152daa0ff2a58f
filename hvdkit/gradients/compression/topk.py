"""The largest gradients only, as pairs of place and value."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hvdkit.gradients.compression.base import ErrorFeedback
from hvdkit.schema import at_least, between, check
from hvdkit.tensors import Tensor

# A prime, so that no row length of a matrix has the sample see the same columns again and again.
_STRIDE = 97
_SMALL = 20_000  # elements of which all are looked at
_WARM_UP_STEP = 0.25


@dataclass(kw_only=True)
class TopKCompression(ErrorFeedback):
    """Send the share `ratio` of each bucket's gradients that is largest, and keep the rest back.

    Stich et al., "Sparsified SGD with memory" (NeurIPS 2018); Lin et al., "Deep gradient
    compression" (ICLR 2018), whose two devices these are: what counts as large is taken from a
    sample (so somewhat more or less than `ratio` is sent, twice as much at most), and in the
    first `warmup_steps` the share falls to `ratio` by a quarter at a time. Their momentum
    correction and factor masking are left out: the momentum stays the optimizer's, which any
    optimizer then may be, and what is applied stays the sum of the gradients.

    Parameters of one dimension, or of fewer than `min_size` elements, are sent as they are.
    """

    ratio: float = between(1e-6, 0.5, default=0.01)
    warmup_steps: int = at_least(0, default=0)
    min_size: int = at_least(1, default=1024)

    def __post_init__(self):
        check(self)
        self._share = self.share(0)

    def takes(self, param):
        return len(param.shape) > 1 and param.numel >= self.min_size

    def share(self, step: int) -> float:
        """The share of gradients that step number `step` sends."""
        shares = [self.ratio]
        while shares[0] < _WARM_UP_STEP * 0.99:
            shares.insert(0, shares[0] / _WARM_UP_STEP)
        if step >= self.warmup_steps or len(shares) == 1:
            return self.ratio
        return min(0.5, shares[step * (len(shares) - 1) // self.warmup_steps])

    def at_step(self, step):
        self._share = self.share(step)

    def phase(self, step):
        return self.share(step)

    def stages(self, flat, key):
        ops, comm, size = self.ops, self.comm, flat.shape[0]
        owed = self._owed(flat, ops.read(self._residual[key]))
        index, values = self._largest(owed)
        places = comm.all_gather(ops.cast(index, "int32"), name=f"{key}.places")
        sent = comm.all_gather(values * self._typed(self._unit, flat), name=f"{key}.values")
        self._keep(self._residual[key], ops.zero_at(owed, index))
        places = yield places
        return ops.histogram(places, (yield sent), size)

    def _largest(self, owed: Tensor) -> tuple[Tensor, Tensor]:
        """Places and values of about the chosen share of the elements, by magnitude.

        If any element is not finite, no value is a number.
        """
        ops, size = self.ops, owed.shape[0]
        sample = owed[::_STRIDE] if size > _SMALL else owed
        seen = sample.shape[0]
        level = ops.kth_largest(ops.abs(sample), max(1, round(self._share * seen)))
        # Zeros are never sent.
        level = ops.maximum(level, float(np.finfo(ops.dtype(owed)).tiny))

        def large(x: Tensor) -> tuple[Tensor]:
            return (~(ops.abs(x) < level),)  # what is no number is large

        index = ops.nonzero(ops.in_pieces(large, owed)[0])
        values = ops.take_rows(owed, index)
        poison = ops.sum(values * 0.0)  # nothing, or not a number
        # Of many equal gradients, the first: the others' turn comes.
        most = math.ceil(2 * self._share * size)
        return index[:most], values[:most] + poison
