"""Compressions on N ranks of one process: what the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hvdkit.comm import Comm
from hvdkit.comm.threads import run_ranks
from hvdkit.gradients.buckets import ParamSpec, plan_buckets
from hvdkit.gradients.compression import (
    BF16Compression,
    Compression,
    FP16Compression,
    Int8Compression,
    NoCompression,
    Part,
    PowerSGDCompression,
    TopKCompression,
)
from hvdkit.tensors import NumpyOps, Ops

MAKE: dict[str, Callable[[], Compression]] = {
    "none": NoCompression,
    "fp16": FP16Compression,
    "bf16": BF16Compression,
    "int8": lambda: Int8Compression(block=8),
    "topk": lambda: TopKCompression(ratio=0.1),
    "powersgd": lambda: PowerSGDCompression(rank=2, min_saving=1e-6),
}
FEEDBACK = ("int8", "topk", "powersgd")
SHAPES = [(9, 7), (4, 3, 2)]  # of two parameters in one bucket


class Ranked:
    """A compression on one rank, with a bucket of `shapes`, fed with arrays of that size."""

    def __init__(
        self,
        compression: Compression,
        comm: Comm,
        *,
        shapes: Sequence[tuple[int, ...]] = SHAPES,
        dtype: str = "float32",
        ops: Ops | None = None,
    ):
        self.compression, self.comm, self.ops = compression, comm, ops or NumpyOps()
        specs = [ParamSpec(f"p{i}", shape, dtype) for i, shape in enumerate(shapes)]
        multiple = compression.multiple(comm.size)
        (self.bucket,) = plan_buckets(specs, cap_mb=64, world_size=multiple)
        self.numel = self.bucket.numel
        part = Part("bucket.0", self.bucket, 0, self.bucket.size)
        compression.setup([part], comm, self.ops)

    def reduce(self, gradient: np.ndarray, *, unit: float = 1.0, count: bool = True) -> np.ndarray:
        """One step: the sum over ranks; then it counts, or is skipped."""
        self.compression.begin(unit=unit)
        padding = np.zeros(self.bucket.size - self.numel, gradient.dtype)
        flat = self.ops.array(np.concatenate([gradient, padding]))
        total = self.ops.numpy(self.compression.reduce(flat, key="bucket.0").wait())
        (self.compression.commit if count else self.compression.rollback)()
        assert total.shape == flat.shape
        assert not total[self.numel :].any() or not np.isfinite(total).all()
        return np.array(total[: self.numel])

    def residual(self) -> np.ndarray:
        """What this rank holds back, in the order of the bucket."""
        found = self.compression.residuals()
        return np.concatenate([found[name].reshape(-1) for name in self.bucket.names])


def on_ranks(name: str, ranks: int, body: Callable[[Ranked], Any], **options: Any) -> list[Any]:
    """`body` of each rank's `Ranked`, in rank order."""
    return run_ranks(ranks, lambda comm: body(Ranked(MAKE[name](), comm, **options)))


def gradients(seed: int, ranks: int, numel: int, dtype: str = "float32") -> np.ndarray:
    """A gradient a rank, of very different sizes."""
    random = np.random.default_rng(seed)
    sizes = 10.0 ** random.uniform(-3, 2, (ranks, numel))
    return (random.normal(size=(ranks, numel)) * sizes).astype(dtype)
