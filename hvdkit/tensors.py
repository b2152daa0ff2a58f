"""The tensor operations that framework-free code is written in, and their NumPy form.

Strategies, compressions, optimizers and tasks are written once, over `Ops`; each framework
implements it in `adapters/<framework>/ops.py`. Besides these calls they may use Python's
arithmetic and comparison operators and slices, which mean the same on a NumPy array, a torch
tensor and a TensorFlow tensor. `NumpyOps` is the reference that the fast tests run on.

Code over `Ops` may be traced into one graph: it takes no Python branch on a tensor, and what
has to change between steps lives in a `variable`.

This module imports NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
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

    def sum(self, x: Tensor) -> Tensor:
        """The sum of all elements, a scalar tensor."""

    def sqrt(self, x: Tensor) -> Tensor: ...

    def where(self, condition: Tensor, x: Tensor, y: Tensor) -> Tensor: ...

    def minimum(self, x: Tensor, y: Tensor) -> Tensor: ...

    def add_scaled(
        self, x: Tensor, y: Tensor, factor: Tensor | float, *, out: Tensor | None = None
    ) -> Tensor:
        """`x + y * factor`, in one pass. `out` may be overwritten with it, where that is
        faster: nothing else may still need it."""

    def argmax(self, x: Tensor) -> Tensor:
        """The index of the largest element along the last dimension."""

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Negative log-likelihood of integer `labels` (...) under `logits` (..., classes)."""

    def variable(self, value: np.ndarray, dtype: str | None = None) -> Variable:
        """A tensor that keeps its value from step to step."""

    def read(self, variable: Variable) -> Tensor: ...

    def assign(self, variable: Variable, value: Tensor) -> None: ...

    def assign_add(self, variable: Variable, value: Tensor) -> None: ...


class NumpyOps:
    """`Ops` on NumPy arrays: what every framework's own must agree with."""

    def array(self, value, dtype=None):
        return np.array(value, dtype=dtype)

    def numpy(self, x):
        return np.asarray(x)

    def dtype(self, x):
        return x.dtype.name

    def cast(self, x, dtype):
        return x.astype(dtype)

    def zeros(self, shape, dtype):
        return np.zeros(shape, dtype)

    def reshape(self, x, shape):
        return x.reshape(shape)

    def concat(self, parts):
        return np.concatenate(parts)

    def sum(self, x):
        return x.sum()

    def sqrt(self, x):
        return np.sqrt(x)

    def where(self, condition, x, y):
        return np.where(condition, x, y)

    def minimum(self, x, y):
        return np.minimum(x, y)

    def add_scaled(self, x, y, factor, *, out=None):
        return x + y * factor

    def argmax(self, x):
        return x.argmax(-1)

    def cross_entropy(self, logits, labels):
        shifted = logits - logits.max(-1, keepdims=True)
        log_total = np.log(np.exp(shifted).sum(-1))
        return log_total - np.take_along_axis(shifted, labels[..., None], -1)[..., 0]

    def variable(self, value, dtype=None):
        return np.array(value, dtype=dtype)

    def read(self, variable):
        return variable.copy()

    def assign(self, variable, value):
        variable[...] = value

    def assign_add(self, variable, value):
        variable += value
