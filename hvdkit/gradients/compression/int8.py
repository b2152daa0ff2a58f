"""One byte a number, and one scale a block of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hvdkit.gradients.compression.base import ErrorFeedback
from hvdkit.gradients.compression.exchange import exchange
from hvdkit.schema import at_least, check
from hvdkit.tensors import Ops, Tensor

_LEVELS = 127.0


@dataclass(kw_only=True)
class Int8Compression(ErrorFeedback):
    """Send each gradient as a whole number of 1/127 of the largest of its `block`.

    Rounding goes to the nearest level, so an element is off by at most half of one, and what it
    is off by is added to the next step's gradient. Blocks as in Dettmers, "8-bit approximations
    for parallelism in deep learning" (ICLR 2016), both ways as in Tang et al., "DoubleSqueeze"
    (ICML 2019), but that the error of a part's sum goes into the residual of its owner.

    Parameters of one dimension, or of fewer than `min_size` elements, are sent as they are.
    """

    block: int = at_least(8, default=256)
    min_size: int = at_least(1, default=1024)

    def __post_init__(self):
        check(self)

    def takes(self, param):
        return len(param.shape) > 1 and param.numel >= self.min_size

    def multiple(self, ranks):
        return self.block * ranks

    def stages(self, flat, key):
        ops, block = self.ops, self.block
        rows = (flat.shape[0] // block, block)
        residual = self._residual[key]

        def encode_owed(grads, left):
            return encode_blocks(ops, self._owed(grads, left))

        whole, scales, left = ops.in_pieces(
            encode_owed, ops.reshape(flat, rows), ops.reshape(ops.read(residual), rows)
        )

        def encode(total, start):
            nonlocal left
            again, new_scales, error = ops.in_pieces(lambda x: encode_blocks(ops, x), total)
            left = ops.add_rows(left, start, error)
            return again, new_scales

        def add(messages, last):
            unit = self._typed(self._unit, flat)

            def decoded(*tensors):
                pairs = list(zip(tensors[::2], tensors[1::2], strict=True))
                parts = [decode_blocks(ops, x, s * unit if last else s) for x, s in pairs]
                total = parts[0]
                for part in parts[1:]:
                    total = ops.add_scaled(total, part, 1.0, out=total)
                return (total,)

            out = ops.reshape(flat, rows) if last else None
            return ops.in_pieces(decoded, *[x for m in messages for x in m], out=out)[0]

        total = yield from exchange(
            (whole, scales), key=key, comm=self.comm, ops=ops, add=add, encode=encode
        )
        self._keep(residual, ops.reshape(left, (-1,)))
        return ops.reshape(total, (-1,))


def encode_blocks(ops: Ops, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each row of `x` as int8, its scale, and what they fall short of it; may overwrite `x`.

    No scale is so small that its reciprocal overflows. A row with an element that is not finite
    has a scale that is not, and so has what it decodes to.
    """
    limits = np.finfo(ops.dtype(x))
    # What is overwritten stays in the cache, and new memory does not: that halves the time.
    scratch = ops.abs(x)
    top = ops.max(scratch, -1)
    # Rounded down: 127 times the scale of the largest numbers there are must not overflow.
    scales = ops.maximum(top * ((1 - 4 * float(limits.eps)) / _LEVELS), float(limits.tiny) * 2**7)
    levels = ops.multiply(x, (1.0 / scales)[:, None], out=scratch)
    levels = ops.round(levels, out=levels)
    whole = ops.cast(levels, "int8")
    decoded = ops.multiply(levels, scales[:, None], out=levels)
    return whole, scales, ops.add_scaled(x, decoded, -1.0, out=x)


def decode_blocks(ops: Ops, levels: Tensor, scales: Tensor) -> Tensor:
    """The rows that `encode_blocks` gave `levels` and `scales` of."""
    numbers = ops.cast(levels, ops.dtype(scales))
    return ops.multiply(numbers, scales[:, None], out=numbers)
