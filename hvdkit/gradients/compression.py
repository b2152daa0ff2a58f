"""How a bucket is encoded for its collective, and which collective may then be used.

Written over `Ops`, so each encoding exists once for both frameworks. Imports comm and tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from hvdkit.comm import Comm, Handle
from hvdkit.tensors import Ops, Tensor


class Compression(Protocol):
    """An encoding of gradients."""

    def reduce(self, flat: Tensor, *, key: str, comm: Comm, ops: Ops) -> Handle:
        """Start summing `flat` over the ranks; the handle gives the sum in `flat`'s dtype.

        `key` names the bucket: the same on every rank, and at every step.
        """


@dataclass(frozen=True, kw_only=True)
class NoCompression:
    """Sum gradients in the precision they were computed in."""

    def reduce(self, flat: Tensor, *, key: str, comm: Comm, ops: Ops) -> Handle:
        return comm.allreduce(flat, name=key)


@dataclass(frozen=True, kw_only=True)
class FP16Compression:
    """Sum gradients in IEEE half precision: half the bytes of fp32.

    A sum beyond 65504 becomes infinite on every rank, as it would in mixed precision.
    """

    def reduce(self, flat: Tensor, *, key: str, comm: Comm, ops: Ops) -> Handle:
        handle = comm.allreduce(ops.cast(flat, "float16"), name=key)
        return _Decoded(handle, ops.dtype(flat), ops)


@dataclass(frozen=True)
class _Decoded:
    handle: Handle
    dtype: str
    ops: Ops

    def wait(self) -> Tensor:
        return self.ops.cast(self.handle.wait(), self.dtype)
