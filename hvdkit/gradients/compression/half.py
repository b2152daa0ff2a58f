"""Two bytes a number. Neither keeps a residual: what rounding loses is noise that averages out."""

from __future__ import annotations

from dataclasses import dataclass

from hvdkit.gradients.compression.base import Compression
from hvdkit.gradients.compression.exchange import exchange


@dataclass(kw_only=True)
class FP16Compression(Compression):
    """Sum gradients in IEEE half precision: half the bytes of fp32.

    A sum beyond 65504 becomes infinite on every rank, as it would in mixed precision.
    """

    finite_below = 6e4

    def stages(self, flat, key):
        ops = self.ops
        total = yield self.comm.allreduce(ops.cast(flat, "float16"), name=key)
        return ops.cast(total, ops.dtype(flat))


@dataclass(kw_only=True)
class BF16Compression(Compression):
    """Send gradients as bfloat16, half the bytes of fp32 with its range, and sum them in full.

    Horovod has no bfloat16 sum, so the bits travel as whole numbers and each sum is taken where
    they arrive, in the gradient's own precision: it is rounded once a rank, and once at the end.
    """

    finite_below = 3e38

    def multiple(self, ranks):
        return ranks

    def stages(self, flat, key):
        ops, dtype = self.ops, self.ops.dtype(flat)

        def encode(x, start=0):
            return ops.in_pieces(lambda piece: (ops.bfloat16_bits(piece),), x)

        def add(messages, last):
            bits = [message[0] for message in messages]
            (total,) = ops.in_pieces(
                lambda *rows: (_sum([ops.from_bfloat16_bits(x, dtype) for x in rows]),),
                *bits,
                out=flat if last else None,
            )
            return total

        message = encode(flat)
        return (
            yield from exchange(message, key=key, comm=self.comm, ops=ops, add=add, encode=encode)
        )


def _sum(tensors):
    return sum(tensors[1:], tensors[0])
