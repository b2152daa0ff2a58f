"""The tensor operations that framework-free code is written in, and their NumPy form.

Strategies, compressions, optimizers and tasks are written once, over `Ops`; each framework
implements it in `adapters/<framework>/ops.py`. Besides these calls they may use Python's
arithmetic and comparison operators and slices, which mean the same on a NumPy array, a torch
tensor and a TensorFlow tensor. `NumpyOps` is the reference that the fast tests run on.

Code over `Ops` may be traced into one graph: it takes no Python branch on a tensor, and what
has to change between steps lives in a `variable`.

This module imports NumPy and the standard library only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

Tensor = Any
Variable = Any


@runtime_checkable
class Ops(Protocol):
    """Tensor operations of one framework. dtypes are NumPy's names, such as "float32"."""

    def array(self, value: np.ndarray, dtype: str | None = None) -> Tensor:
        """A tensor holding a copy of `value`."""

    def numpy(self, x: Tensor) -> np.ndarray:
        """The value of a tensor or a variable (never inside a traced step)."""

    def dtype(self, x: Tensor) -> str: ...

    def cast(self, x: Tensor, dtype: str) -> Tensor: ...

    def zeros(self, shape: Sequence[int], dtype: str) -> Tensor: ...

    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor: ...

    def concat(self, parts: Sequence[Tensor]) -> Tensor:
        """Join along the first dimension."""

    def sum(self, x: Tensor, axis: int | None = None) -> Tensor:
        """The sum over one dimension, or of all elements (a scalar tensor)."""

    def max(self, x: Tensor, axis: int) -> Tensor:
        """The largest element along one dimension; NaN where there is one."""

    def abs(self, x: Tensor) -> Tensor: ...

    def round(self, x: Tensor, *, out: Tensor | None = None) -> Tensor:
        """To the nearest whole number, and to the even one from half way; `out` as elsewhere."""

    def multiply(self, x: Tensor, y: Tensor, *, out: Tensor | None = None) -> Tensor:
        """`x * y`, whose shape is that of `x`; `out` as in `add_scaled`."""

    def sum_of_squares(self, x: Tensor) -> Tensor:
        """The sum of all elements' squares, in one pass: a scalar tensor."""

    def sqrt(self, x: Tensor) -> Tensor: ...

    def exp(self, x: Tensor) -> Tensor: ...

    def log(self, x: Tensor) -> Tensor: ...

    def where(self, condition: Tensor, x: Tensor, y: Tensor | float) -> Tensor: ...

    def minimum(self, x: Tensor, y: Tensor | float) -> Tensor: ...

    def maximum(self, x: Tensor, y: Tensor | float) -> Tensor: ...

    def is_finite(self, x: Tensor) -> Tensor:
        """Element by element: neither infinite nor NaN."""

    def add_scaled(
        self, x: Tensor, y: Tensor, factor: Tensor | float, *, out: Tensor | None = None
    ) -> Tensor:
        """`x + y * factor`, in one pass. `out` may be overwritten with it, where that is
        faster: nothing else may still need it."""

    def matmul(
        self, x: Tensor, y: Tensor, *, transpose_x: bool = False, transpose_y: bool = False
    ) -> Tensor:
        """The product of two matrices, either of them transposed on the way, at no cost."""

    def argmax(self, x: Tensor) -> Tensor:
        """The index of the largest element along the last dimension."""

    def kth_largest(self, x: Tensor, k: int) -> Tensor:
        """The k-th largest element (1: the largest) of a vector without NaN, as a scalar."""

    def nonzero(self, mask: Tensor) -> Tensor:
        """Where a vector of booleans is true, in ascending order: int64."""

    def zero_at(self, x: Tensor, index: Tensor) -> Tensor:
        """The vector `x` with zeros at `index` (each given once). May work in place."""

    def add_rows(self, x: Tensor, start: int, values: Tensor) -> Tensor:
        """`x` with `values` added to its rows from `start` on. May work in place."""

    def bfloat16_bits(self, x: Tensor) -> Tensor:
        """`x` rounded to bfloat16 (to the nearest, half way to even), as int16, which any
        collective carries."""

    def from_bfloat16_bits(self, bits: Tensor, dtype: str) -> Tensor:
        """The numbers that `bfloat16_bits` gave the bits of."""

    def in_pieces(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        *tensors: Tensor,
        out: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """`function(*tensors)`, which works row by row, called on runs of rows that fit a cache.

        All tensors, and all that it returns, have the same first dimension. The first result is
        written to `out` (of its shape and dtype) where that saves memory traffic: nothing else
        may still need it.
        """

    def join(self, parts: Sequence[Tensor], *, out: Tensor) -> Tensor:
        """`parts` along the first dimension; `out` if they are its consecutive parts."""

    def take_last(self, x: Tensor, index: Tensor) -> Tensor:
        """Element `index` (...) of the last dimension of `x` (..., n): shape (...)."""

    def cross_entropy(self, logits: Tensor, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
        """Negative log-likelihood of integer `labels` (...) under `logits` (..., classes).

        With `smoothing` the target is mixed with the uniform distribution, weighing that much
        (Szegedy et al. 2016, section 7). Half-precision logits are taken in fp32.
        """

    def binary_cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Negative log-likelihood of `labels` (0 or 1, as floats) under sigmoid(`logits`)."""

    def histogram(self, index: Tensor, weights: Tensor, size: int) -> Tensor:
        """The sum of `weights` (n,) for each value 0 .. size - 1 of the integer `index` (n,)."""

    def sum_rows(self, rows: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Each row number of `rows` (n,) once, with the sum of its `values` (n, ...)."""

    def drop_zero_rows(self, rows: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The rows whose values (n, ...) are not all zero; one with a NaN is kept."""

    def take_rows(self, variable: Variable, rows: Tensor) -> Tensor:
        """Rows of a variable, at a cost that does not depend on how many it has."""

    def put_rows(self, variable: Variable, rows: Tensor, values: Tensor) -> None:
        """Overwrite rows (each given once) of a variable, at the cost of those alone."""

    def when(
        self, condition: Tensor, then: Callable[[], None], otherwise: Callable[[], None]
    ) -> None:
        """Call `then` if the scalar `condition` is true, else `otherwise`; both change variables
        and nothing else."""

    def copy(self, variable: Variable) -> Tensor:
        """The value of a variable, which later changes of it leave alone."""

    def variable(self, value: np.ndarray, dtype: str | None = None) -> Variable:
        """A tensor that keeps its value from step to step."""

    def read(self, variable: Variable) -> Tensor: ...

    def assign(self, variable: Variable, value: Tensor) -> None: ...

    def assign_add(self, variable: Variable, value: Tensor) -> None: ...

    def clock(self, after: Sequence[Tensor]) -> Tensor:
        """Seconds since the epoch (a float64 scalar) once the tensors of `after` are computed.

        Outside a graph that is now. Of work that a GPU has yet to do it knows nothing.
        """

    def replace(self, variable: Variable, value: Tensor) -> None:
        """`assign` that may take over the memory of `value`, which then nobody else may use."""

    def nbytes(self, x: Tensor) -> Tensor | float:
        """The bytes of `x`: a number, or a float64 scalar tensor where a graph must ask."""


class NumpyOps:
    """`Ops` on NumPy arrays: what every framework's own must agree with."""

    def array(self, value, dtype=None):
        return np.array(value, dtype=dtype)

    def numpy(self, x):
        return np.asarray(x)

    def dtype(self, x):
        return x.dtype.name

    def cast(self, x, dtype):
        with np.errstate(invalid="ignore"):  # a NaN as a whole number is anything, as elsewhere
            return x.astype(dtype)

    def zeros(self, shape, dtype):
        return np.zeros(shape, dtype)

    def reshape(self, x, shape):
        return x.reshape(shape)

    def concat(self, parts):
        return np.concatenate(parts)

    def sum(self, x, axis=None):
        return x.sum(axis)

    def max(self, x, axis):
        return x.max(axis)

    def abs(self, x):
        return np.abs(x)

    def round(self, x, *, out=None):
        return np.rint(x)

    def multiply(self, x, y, *, out=None):
        return x * y

    def sum_of_squares(self, x):
        return np.vdot(x, x)

    def sqrt(self, x):
        return np.sqrt(x)

    def exp(self, x):
        return np.exp(x)

    def log(self, x):
        return np.log(x)

    def where(self, condition, x, y):
        return np.where(condition, x, y)

    def minimum(self, x, y):
        return np.minimum(x, y)

    def maximum(self, x, y):
        return np.maximum(x, y)

    def is_finite(self, x):
        return np.isfinite(x)

    def add_scaled(self, x, y, factor, *, out=None):
        return x + y * factor

    def matmul(self, x, y, *, transpose_x=False, transpose_y=False):
        return (x.T if transpose_x else x) @ (y.T if transpose_y else y)

    def argmax(self, x):
        return x.argmax(-1)

    def kth_largest(self, x, k):
        return np.partition(x, len(x) - k)[len(x) - k]

    def nonzero(self, mask):
        return np.flatnonzero(mask)

    def zero_at(self, x, index):
        x[index] = 0
        return x

    def add_rows(self, x, start, values):
        x[start : start + len(values)] += values
        return x

    def bfloat16_bits(self, x):
        bits = x.astype(np.float32).view(np.uint32)
        odd = (bits >> 16) & 1
        rounded = (bits + np.uint32(0x7FFF) + odd) >> 16
        quiet = (bits >> 16) | 0x40  # rounding could carry a NaN over into an infinity
        return np.where(np.isnan(x), quiet, rounded).astype(np.uint16).view(np.int16)

    def from_bfloat16_bits(self, bits, dtype):
        return (bits.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(dtype)

    def in_pieces(self, function, *tensors, out=None):
        half = (len(tensors[0]) + 1) // 2  # two pieces show what does not work row by row
        runs = [slice(0, half), slice(half, None)] if half < len(tensors[0]) else [slice(None)]
        results = [function(*(x[run] for x in tensors)) for run in runs]
        return tuple(np.concatenate(parts) for parts in zip(*results, strict=True))

    def join(self, parts, *, out):
        return np.concatenate(parts)

    def take_last(self, x, index):
        return np.take_along_axis(x, index[..., None], -1)[..., 0]

    def cross_entropy(self, logits, labels, *, smoothing=0.0):
        if logits.dtype == np.float16:
            logits = logits.astype(np.float32)
        shifted = logits - logits.max(-1, keepdims=True)
        log_total = np.log(np.exp(shifted).sum(-1))
        likely = self.take_last(shifted, labels)
        if smoothing:
            likely = (1 - smoothing) * likely + smoothing * shifted.mean(-1)
        return log_total - likely

    def binary_cross_entropy(self, logits, labels):
        return np.maximum(logits, 0) - logits * labels + np.log1p(np.exp(-np.abs(logits)))

    def histogram(self, index, weights, size):
        return np.bincount(index, weights, size).astype(weights.dtype)

    def sum_rows(self, rows, values):
        unique, place = np.unique(rows, return_inverse=True)
        total = np.zeros((len(unique), *values.shape[1:]), values.dtype)
        np.add.at(total, place, values)
        return unique, total

    def drop_zero_rows(self, rows, values):
        kept = (values != 0).reshape(len(values), -1).any(1)
        return rows[kept], values[kept]

    def take_rows(self, variable, rows):
        return variable[rows]

    def put_rows(self, variable, rows, values):
        variable[rows] = values

    def when(self, condition, then, otherwise):
        (then if condition else otherwise)()

    def copy(self, variable):
        return variable.copy()

    def variable(self, value, dtype=None):
        return np.array(value, dtype=dtype)

    def read(self, variable):
        return variable.copy()

    def assign(self, variable, value):
        variable[...] = value

    def assign_add(self, variable, value):
        variable += value

    def clock(self, after):
        return np.array(time.time())

    def replace(self, variable, value):
        variable[...] = value

    def nbytes(self, x):
        return float(x.nbytes)
