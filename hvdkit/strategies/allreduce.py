"""Synchronous data parallelism: every rank updates with the sum of all gradients.

Sergeev & Del Balso, "Horovod: fast and easy distributed deep learning in TensorFlow"
(arXiv:1802.05799), on buckets of our own.
"""

from __future__ import annotations

from typing import Any

from hvdkit.comm import Handle
from hvdkit.gradients.buckets import Bucket
from hvdkit.gradients.compression import Compression, NoCompression
from hvdkit.strategies.base import Parameter, Strategy
from hvdkit.tensors import Tensor


class AllReduce(Strategy):
    """Sum each bucket over all ranks as soon as it is complete.

    Of a table, the rows that a rank touched travel to all others, uncompressed.
    """

    def __init__(self, *, compression: Compression = NoCompression(), bucket_mb: float = 4.0):
        super().__init__(bucket_mb=bucket_mb)
        self.compression = compression
        self._under_way: dict[int, Handle] = {}
        self._rows: dict[str, tuple[Handle, Handle]] = {}

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "compression": type(self.compression).__name__}

    def bucket_ready(self, bucket: Bucket, flat: Tensor) -> None:
        self._under_way[bucket.index] = self.compression.reduce(
            flat, key=f"bucket.{bucket.index}", comm=self.comm, ops=self.ops
        )

    def gradient(self, bucket: Bucket) -> Tensor:
        return self._under_way.pop(bucket.index).wait()

    def rows_ready(self, table: Parameter, rows: Tensor, values: Tensor) -> None:
        rows, values = self.ops.sum_rows(rows, values)  # a popular row travels once
        name = table.spec.name
        self._rows[name] = (
            self.comm.all_gather(rows, name=f"rows.{name}"),
            self.comm.all_gather(values, name=f"values.{name}"),
        )

    def row_gradient(self, table: Parameter) -> tuple[Tensor, Tensor]:
        rows, values = (handle.wait() for handle in self._rows.pop(table.spec.name))
        return self.ops.drop_zero_rows(*self.ops.sum_rows(rows, values))
