"""A matrix as the product of two thin ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hvdkit.gradients.buckets import ParamSpec
from hvdkit.gradients.compression.base import ErrorFeedback
from hvdkit.schema import at_least, check, positive
from hvdkit.tensors import Ops, Tensor, Variable


@dataclass(frozen=True)
class _Matrix:
    """Where a parameter lies in its bucket, as a matrix of (rows, columns) of its canonical
    shape; `turned` if memory holds that matrix transposed."""

    name: str
    start: int
    rows: int
    columns: int
    turned: bool

    def of(self, flat: Tensor, ops: Ops) -> Tensor:
        shape = (self.columns, self.rows) if self.turned else (self.rows, self.columns)
        return ops.reshape(flat[self.start : self.start + self.rows * self.columns], shape)


@dataclass(kw_only=True)
class PowerSGDCompression(ErrorFeedback):
    """Approximate each gradient matrix M by P Q' of rank `rank`, and sum P and Q over the ranks.

    Vogels et al., "PowerSGD: practical low-rank gradient compression for distributed
    optimization" (NeurIPS 2019): one step of subspace iteration a training step, beginning with
    the last one's Q, P made orthonormal between its two halves. Everything is a sum over ranks,
    so all hold the same P and Q, and what they compute of it is the same on equal processors.

    A convolution is a matrix of one row an output channel. Parameters of one dimension, and
    those that a factor of `min_saving` or more cannot be saved on, are sent as they are.
    """

    rank: int = at_least(1, default=4)
    min_saving: float = positive(default=2.0)

    divisible = False  # half a matrix is another matrix

    def __post_init__(self):
        check(self)

    def takes(self, param):
        if len(param.shape) < 2 or 0 in param.shape:
            return False
        rows, columns = param.shape[0], param.numel // param.shape[0]
        return self.min_saving * self.rank * (rows + columns) <= rows * columns

    def setup(self, parts, comm, ops):
        super().setup(parts, comm, ops)
        self._matrices = {
            part.key: [
                _matrix(param, offset, part.axes.get(param.name))
                for param, offset in zip(part.bucket.params, part.bucket.offsets, strict=True)
            ]
            for part in parts
        }
        self._start: dict[str, np.ndarray] = {}
        self._q: dict[str, Variable] = {}
        for part in parts:
            for matrix in self._matrices[part.key]:
                seed = [len(matrix.name), *matrix.name.encode()]
                start = np.random.default_rng(seed).standard_normal((self.rank, matrix.columns))
                self._start[matrix.name] = start.astype(part.bucket.dtype)
                self._q[matrix.name] = ops.variable(self._start[matrix.name])

    def stages(self, flat, key):
        ops, comm, matrices = self.ops, self.comm, self._matrices[key]
        unit = self._typed(self._unit, flat)
        owed = self._owed(flat, ops.read(self._residual[key]))
        wholes = [matrix.of(owed, ops) for matrix in matrices]
        # Both are kept as rows, each of which is a column of the paper's.
        qs = [self._direction(matrix, flat) for matrix in matrices]
        ps = [
            ops.matmul(q, m, transpose_y=not matrix.turned)
            for matrix, q, m in zip(matrices, qs, wholes, strict=True)
        ]
        summed = yield comm.allreduce(_together(ops, ps), name=f"{key}.p")
        shapes = [(self.rank, matrix.rows) for matrix in matrices]
        ps = [orthonormal(ops, p) for p in _apart(ops, summed, shapes)]
        qs = [
            ops.matmul(p, m, transpose_y=matrix.turned)
            for matrix, p, m in zip(matrices, ps, wholes, strict=True)
        ]
        summed = yield comm.allreduce(_together(ops, qs), name=f"{key}.q")
        qs = _apart(ops, summed, [(self.rank, matrix.columns) for matrix in matrices])
        products = []
        for matrix, p, q in zip(matrices, ps, qs, strict=True):
            self._keep(self._q[matrix.name], q)
            left, right = (q * unit, p) if matrix.turned else (p, q * unit)
            products.append(ops.reshape(ops.matmul(left, right, transpose_x=True), (-1,)))
        padding = flat.shape[0] - sum(matrix.rows * matrix.columns for matrix in matrices)
        if padding:
            products.append(ops.zeros((padding,), ops.dtype(flat)))
        total = products[0] if len(products) == 1 else ops.concat(products)
        applied = self._typed(-1 / (comm.size * self._unit), flat)
        self._keep(self._residual[key], ops.add_scaled(owed, total, applied, out=owed))
        return total

    def _direction(self, matrix: _Matrix, like: Tensor) -> Tensor:
        """The last step's Q, of no particular size; a direction that died out begins anew."""
        ops = self.ops
        q = ops.copy(self._q[matrix.name])
        top = ops.max(ops.abs(q), -1)
        alive = top > 0
        scaled = q * ops.where(alive, 1.0 / ops.where(alive, top, top + 1.0), 0.0)[:, None]
        fresh = ops.array(self._start[matrix.name])
        return ops.where(alive[:, None], scaled, fresh)

    def state(self):
        return {name: self.ops.numpy(self.ops.read(q)).copy() for name, q in self._q.items()}

    def load_state(self, state):
        for name, q in self._q.items():
            before = state.get(name)
            if before is not None and before.shape == self._start[name].shape:
                self.ops.assign(q, self.ops.array(before, self._start[name].dtype.name))


def orthonormal(ops: Ops, rows: Tensor) -> Tensor:
    """Gram-Schmidt, twice over, on a few long rows.

    A row that the ones before it explain to the last digits becomes zero: normalised, what
    rounding left of it would point anywhere, along them too.
    """
    rest = 8 * float(np.finfo(ops.dtype(rows)).eps)
    done: list[Tensor] = []
    for i in range(rows.shape[0]):
        row = _unit(ops, rows[i : i + 1], 0.0)
        for _ in range(2):
            for other in done:
                row = row - other * ops.sum(row * other)
        done.append(_unit(ops, row, rest))
    return ops.concat(done)


def _unit(ops: Ops, row: Tensor, least: float) -> Tensor:
    """`row` with norm 1, or zero if it is no longer than `least`."""
    top = ops.max(ops.abs(row), -1)[:, None]
    short = top <= 0.0
    row = row / ops.where(short, top + 1.0, top)  # else squares might overflow
    norm = ops.sqrt(ops.sum(row * row))
    length = norm * ops.max(top, -1)  # of what was given
    gone = length <= least
    return row * ops.where(gone, length * 0.0, 1.0 / ops.maximum(norm, 1.0))[:, None]


def _matrix(param: ParamSpec, start: int, axes: Sequence[int] | None) -> _Matrix:
    rows = param.shape[0]
    # Turned where the first canonical axis is the last in memory, as in Keras's kernels.
    turned = axes is not None and axes[0] == len(axes) - 1
    return _Matrix(param.name, start, rows, param.numel // rows, turned)


def _together(ops: Ops, tensors: Sequence[Tensor]) -> Tensor:
    return ops.concat([ops.reshape(x, (-1,)) for x in tensors])


def _apart(ops: Ops, flat: Tensor, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
    parts, start = [], 0
    for shape in shapes:
        size = math.prod(shape)
        parts.append(ops.reshape(flat[start : start + size], shape))
        start += size
    return parts
