"""Making what differs by rank agree again."""

from __future__ import annotations

from collections.abc import Sequence

from hvdkit.comm import Comm
from hvdkit.strategies import Parameter
from hvdkit.tensors import Ops


def average(params: Sequence[Parameter], comm: Comm, ops: Ops) -> None:
    """Replace the floating-point ones of `params` by their means over the ranks.

    What is equal everywhere keeps its bits, as a mean of three would not.
    """
    if comm.size == 1:
        return
    for dtype in sorted({param.spec.dtype for param in params}):
        if dtype.startswith("float"):
            chosen = [param for param in params if param.spec.dtype == dtype]
            _average(chosen, comm, ops, f"average.{dtype}")


def _average(params: Sequence[Parameter], comm: Comm, ops: Ops, name: str) -> None:
    flat = ops.concat([ops.reshape(ops.read(param.variable), (-1,)) for param in params])
    # Each collective may work in place, so each gets a copy.
    low, high, total = (
        comm.allreduce(ops.concat([flat]), name=f"{name}.{op}", op=op).wait()
        for op in ("min", "max", "sum")
    )
    flat = ops.where(low == high, flat, total / comm.size)
    start = 0
    for param in params:
        part = flat[start : start + param.spec.numel]
        ops.assign(param.variable, ops.reshape(part, param.variable.shape))
        start += param.spec.numel
