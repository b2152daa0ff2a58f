"""Synchronous data parallelism: every rank updates with the sum of all gradients.

Sergeev & Del Balso, "Horovod: fast and easy distributed deep learning in TensorFlow"
(arXiv:1802.05799), on buckets of our own.
"""

from __future__ import annotations

from typing import Any

from hvdkit.comm import Handle
from hvdkit.gradients.buckets import Bucket
from hvdkit.gradients.compression import Compression, NoCompression
from hvdkit.strategies.base import Strategy
from hvdkit.tensors import Tensor


class AllReduce(Strategy):
    """Sum each bucket over all ranks as soon as it is complete."""

    def __init__(self, *, compression: Compression = NoCompression(), bucket_mb: float = 4.0):
        super().__init__(bucket_mb=bucket_mb)
        self.compression = compression
        self._under_way: dict[int, Handle] = {}

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "compression": type(self.compression).__name__}

    def bucket_ready(self, bucket: Bucket, flat: Tensor) -> None:
        self._under_way[bucket.index] = self.compression.reduce(
            flat, key=f"bucket.{bucket.index}", comm=self.comm, ops=self.ops
        )

    def gradient(self, bucket: Bucket) -> Tensor:
        return self._under_way.pop(bucket.index).wait()
