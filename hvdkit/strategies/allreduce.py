"""Synchronous data parallelism: every rank updates with the sum of all gradients.

Sergeev & Del Balso, "Horovod: fast and easy distributed deep learning in TensorFlow"
(arXiv:1802.05799), on buckets of our own.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from hvdkit.comm import Handle, Staged, Stages, Together
from hvdkit.gradients.buckets import Bucket, ParamSpec
from hvdkit.gradients.compression import Compression, NoCompression, Part
from hvdkit.strategies.base import Parameter, Strategy
from hvdkit.tensors import Tensor


class AllReduce(Strategy):
    """Sum each bucket over all ranks as soon as it is complete.

    A bucket travels in messages of about `chunk_mb` (None: what `comm` sums fastest), counted
    before they are compressed, of which one is encoded while another is on its way. Of a table,
    the rows that a rank touched travel to all others, uncompressed.
    """

    def __init__(
        self,
        *,
        compression: Compression | None = None,
        bucket_mb: float = 4.0,
        chunk_mb: float | None = None,
        learn_order: bool = True,
    ):
        super().__init__(bucket_mb=bucket_mb, learn_order=learn_order)
        self._use(compression or NoCompression())
        self.plain = NoCompression()
        self.chunk_mb = chunk_mb
        self._parts: dict[int, list[Part]] = {}  # of each bucket
        self._under_way: dict[int, tuple[Together, Tensor]] = {}
        self._rows: dict[str, tuple[Handle, Handle]] = {}

    def _use(self, compression: Compression) -> None:
        self.compression, self.finite_below = compression, compression.finite_below

    def setup(self, params, comm, ops, *, plan=None):
        super().setup(params, comm, ops, plan=plan)
        self._set_up_compression()

    def take_over(self, buckets):
        state, (own, shared) = self.state_dict(), self.moving_state()
        super().take_over(buckets)
        self._set_up_compression()
        self.load_state_dict(state)
        self.load_own_state(own, shared=shared)

    def exchange(self, compression: Compression) -> None:
        """Go on with another compression, between two steps, on buckets that suit it: every rank
        calls it, and `Adapter.lay_out` next. What the one before has not sent yet is the new
        one's to send, if that keeps such a thing; else it is dropped."""
        own, shared = self.moving_state()
        self._use(compression)
        super().take_over(self._planned(self._dense))
        self._set_up_compression()
        self.load_own_state(own, shared=shared)

    def moving_state(self) -> tuple[dict[str, np.ndarray], bool]:
        """What `load_own_state` is to be given on other buckets: one's own, or the ranks' sum."""
        return self.own_state(), False

    def _set_up_compression(self) -> None:
        axes = {param.spec.name: param.axes for param in self._params if param.axes is not None}
        self._parts = {bucket.index: self._cut(bucket, axes) for bucket in self.buckets}
        for compression in (self.compression, self.plain):
            buckets = [b for b in self.buckets if self._compression(b) is compression]
            self.set_up(compression, [part for b in buckets for part in self._parts[b.index]])

    def set_up(self, compression: Compression, parts: Sequence[Part]) -> None:
        """Tell `compression` what it will be given to reduce, and over which ranks."""
        compression.setup(parts, self.traffic, self.ops)

    def _cut(self, bucket: Bucket, axes: Mapping[str, tuple[int, ...]]) -> list[Part]:
        size, step = bucket.size, bucket.size
        chunk_mb = self.message_mb(self.chunk_mb)
        if chunk_mb is not None and self._compression(bucket).divisible:
            elements = chunk_mb * 2**20 / np.dtype(bucket.dtype).itemsize
            step = max(1, round(elements / self.shards())) * self.shards()
        ends = [*range(step, size, step), size]
        keys = [f"bucket.{bucket.index}.{i}" for i in range(len(ends))]
        keys[0] = f"bucket.{bucket.index}"
        return [
            Part(key, bucket, start, stop, axes)
            for key, (start, stop) in zip(keys, itertools.pairwise([0, *ends]), strict=True)
        ]

    def message_mb(self, chunk_mb: float | None) -> float | None:
        """The size of messages where `chunk_mb` is asked for; None: whole buckets."""
        return chunk_mb or self.comm.message_mb

    def _compression(self, bucket: Bucket) -> Compression:
        if all(self.compression.takes(param) for param in bucket.params):
            return self.compression
        return self.plain

    def is_apart(self, spec: ParamSpec) -> bool:
        return not self.compression.takes(spec)

    def shards(self) -> int:
        return self.compression.multiple(self.comm.size)

    def reduction(self) -> str:
        return f"{super().reduction()} with {self.compression!r}"

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "chunk_mb": self.message_mb(self.chunk_mb)}

    # ---- the step ----------------------------------------------------------------------------

    def at_step(self, step: int) -> None:
        super().at_step(step)
        self.compression.at_step(step)

    def phase(self, step: int) -> Hashable:
        return self.compression.phase(step)

    def begin(self, *, unit: Tensor | float) -> None:
        self.compression.begin(unit=unit)

    def bucket_ready(self, bucket: Bucket, flat: Tensor) -> None:
        compression = self._compression(bucket)
        started: list[Staged] = []
        for part in self._parts[bucket.index]:
            here = flat if part.size == bucket.size else flat[part.start : part.stop]
            started.append(Staged(self.stages(part, here, compression)))
            self._go_on(started)
        self._under_way[bucket.index] = Together(started), flat

    def stages(self, part: Part, flat: Tensor, compression: Compression) -> Stages:
        """The collectives that sum `part` over the ranks, in order."""
        return compression.stages(flat, part.key)

    def _go_on(self, started: Sequence[Staged] = ()) -> None:
        """Send what earlier parts have to send next, where they need not wait for it."""
        for handle in started:
            handle.poll()
        for together, _ in self._under_way.values():
            together.poll()

    def gradient(self, bucket: Bucket) -> Tensor:
        together, flat = self._under_way.pop(bucket.index)
        while not together.poll():
            together.wait_for_one()
            self._go_on()
        sums = together.wait()
        return sums[0] if len(sums) == 1 else self.ops.join(sums, out=flat)

    def commit(self) -> None:
        self.compression.commit()

    def rollback(self) -> None:
        self.compression.rollback()

    def rows_ready(self, table: Parameter, rows: Tensor, values: Tensor) -> None:
        rows, values = self.ops.sum_rows(rows, values)  # a popular row travels once
        name = table.spec.name
        self._rows[name] = (
            self.row_traffic.all_gather(rows, name=f"rows.{name}"),
            self.row_traffic.all_gather(values, name=f"values.{name}"),
        )

    def row_gradient(self, table: Parameter) -> tuple[Tensor, Tensor]:
        rows, values = (handle.wait() for handle in self._rows.pop(table.spec.name))
        return self.ops.drop_zero_rows(*self.ops.sum_rows(rows, values))

    # ---- state -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, np.ndarray]:
        return {f"compression/{name}": x for name, x in self.compression.state().items()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        own = {k.removeprefix("compression/"): x for k, x in state.items()}
        self.compression.load_state(own)

    def own_state(self) -> dict[str, np.ndarray]:
        return {f"residual/{name}": x for name, x in self.compression.residuals().items()}

    def load_own_state(self, state: Mapping[str, np.ndarray], *, shared: bool) -> None:
        own = {k.removeprefix("residual/"): x for k, x in state.items()}
        self.compression.load_residuals(own, shared=shared)
