"""When each message of a step was ready, waited for and agreed on, whatever the strategy.

`Recorded` stands in for a strategy and passes everything on. What it notes are `Ops.clock`s kept
in a variable, so that a compiled step is seen from inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from hvdkit.gradients.buckets import Bucket
from hvdkit.strategies.base import Parameter, Strategy
from hvdkit.tensors import Tensor

if TYPE_CHECKING:
    from hvdkit.adapters.base import Adapter


@dataclass(frozen=True)
class Message:
    """What travels together: a bucket, or a table's rows (whose `nbytes` vary: None)."""

    name: str
    nbytes: int | None


class Stamps(NamedTuple):
    """Seconds since the epoch, one a message, in the order of `Recorded.messages`.

    `ready`: this rank had its gradient. `asked`: it had nothing else to do than wait for the
    others'. `agreed`: it had the sum.
    """

    ready: np.ndarray
    asked: np.ndarray
    agreed: np.ndarray


class Recorded:
    """`inner`, with stamps of the last step. Not a `Strategy` by inheritance, so that
    whatever a strategy may have is the inner one's.

    With `silent` nothing travels: each rank goes on with its own gradient. Steps are then what
    they would be without communication, and ranks drift apart: for measurements only.
    """

    def __init__(self, inner: Strategy):
        self.inner, self.silent, self.on = inner, False, True
        self._set_up()

    def _set_up(self) -> None:
        inner = self.inner
        buckets = [Message(f"bucket {b.index}", _nbytes(b)) for b in inner.buckets]
        self.messages = [*buckets, *(Message(t.spec.name, None) for t in inner.tables)]
        self._kept = inner.ops.variable(np.zeros((3, len(self.messages))), "float64")
        self._place = {message.name: i for i, message in enumerate(self.messages)}
        self._ready: dict[int, Tensor] = {}
        self._asked: dict[int, Tensor] = {}
        self._agreed: dict[int, Tensor] = {}
        self._own: dict[str, Any] = {}  # what did not travel in a silent step

    # Every bucket is waited for before any is updated, so that waiting shows where it happens.
    finite_below: float | None = None

    def take_over(self, buckets: Sequence[Bucket]) -> None:
        self.inner.take_over(buckets)
        self._set_up()

    @classmethod
    def of(cls, adapter: Adapter) -> Recorded:
        """Have an adapter that is set up work through a `Recorded`, or say through which."""
        if not isinstance(adapter.strategy, cls):
            adapter.strategy = cast("Strategy", cls(adapter.strategy))
        return cast("Recorded", adapter.strategy)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def stamps(self) -> Stamps:
        """Those of the last step that was recorded."""
        return Stamps(*self.inner.ops.numpy(self._kept).copy())

    def phase(self, step: int) -> Any:
        return (self.inner.phase(step), self.silent)

    def bucket_ready(self, bucket: Bucket, flat: Tensor) -> None:
        name = f"bucket {bucket.index}"
        self._note_ready(name, flat)
        if self.silent:
            self._own[name] = flat
        else:
            self.inner.bucket_ready(bucket, flat)

    def gradient(self, bucket: Bucket) -> Tensor:
        name = f"bucket {bucket.index}"
        self._note_asked(name)
        gradient = self._own.pop(name) if self.silent else self.inner.gradient(bucket)
        self._note_agreed(name, gradient)
        return gradient

    def rows_ready(self, table: Parameter, rows: Tensor, values: Tensor) -> None:
        self._note_ready(table.spec.name, values)
        if self.silent:
            self._own[table.spec.name] = (rows, values)
        else:
            self.inner.rows_ready(table, rows, values)

    def row_gradient(self, table: Parameter) -> tuple[Tensor, Tensor]:
        name, ops = table.spec.name, self.inner.ops
        self._note_asked(name)
        if self.silent:
            gradient = ops.drop_zero_rows(*ops.sum_rows(*self._own.pop(name)))
        else:
            gradient = self.inner.row_gradient(table)
        self._note_agreed(name, gradient[1])
        return gradient

    def after_update(self) -> None:
        if not self.silent:
            self.inner.after_update()

    def _note_ready(self, name: str, gradient: Tensor) -> None:
        if self.on:
            self._ready[self._place[name]] = self.inner.ops.clock([gradient])

    def _note_asked(self, name: str) -> None:
        # In a graph nobody asks: all gradients ready, and the one before agreed on, come
        # closest. Only clocks are named, so that no gradient is kept alive by this.
        if self.on:
            before = [*self._ready.values(), *list(self._agreed.values())[-1:]]
            self._asked[self._place[name]] = self.inner.ops.clock(before)

    def _note_agreed(self, name: str, gradient: Tensor) -> None:
        if not self.on:
            return
        ops, count = self.inner.ops, len(self.messages)
        self._agreed[self._place[name]] = ops.clock([gradient])
        if len(self._agreed) == count:
            found = [kind[i] for kind in self._kinds for i in range(count)]
            flat = ops.concat([ops.reshape(stamp, (1,)) for stamp in found])
            ops.assign(self._kept, ops.reshape(flat, (3, count)))
            for kind in self._kinds:
                kind.clear()

    @property
    def _kinds(self) -> tuple[dict[int, Tensor], ...]:
        return self._ready, self._asked, self._agreed


def _nbytes(bucket: Bucket) -> int:
    return bucket.size * np.dtype(bucket.dtype).itemsize
