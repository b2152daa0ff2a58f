"""`Ops` on torch tensors."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch.nn import functional

# Elements of a piece: a few arrays of it fit a core's L2 cache.
_PIECE = 128 * 1024


class TorchOps:
    """Tensor operations on one device; variables are tensors or parameters."""

    def __init__(self, device: torch.device):
        self.device = device

    def array(self, value, dtype=None):
        return torch.from_numpy(np.array(value, dtype=dtype)).to(self.device)

    def numpy(self, x):
        return x.detach().cpu().numpy()

    def dtype(self, x):
        return str(x.dtype).removeprefix("torch.")

    def cast(self, x, dtype):
        return x.to(getattr(torch, dtype))

    def zeros(self, shape, dtype):
        return torch.zeros(tuple(shape), dtype=getattr(torch, dtype), device=self.device)

    def reshape(self, x, shape):
        return x.reshape(tuple(shape))

    def concat(self, parts):
        return torch.cat(list(parts))

    def sum(self, x, axis=None):
        return x.sum() if axis is None else x.sum(axis)

    def max(self, x, axis):
        return x.amax(axis)

    def abs(self, x):
        return torch.abs(x)

    def round(self, x, *, out=None):
        return torch.round(x, out=out)

    def multiply(self, x, y, *, out=None):
        return torch.mul(x, y, out=out)

    def sum_of_squares(self, x):
        flat = x.reshape(-1)
        return torch.dot(flat, flat)

    def sqrt(self, x):
        return torch.sqrt(x)

    def exp(self, x):
        return torch.exp(x)

    def log(self, x):
        return torch.log(x)

    def where(self, condition, x, y):
        return torch.where(condition, x, y)

    def minimum(self, x, y):
        return torch.clamp(x, max=y)

    def maximum(self, x, y):
        return torch.clamp(x, min=y)

    def is_finite(self, x):
        return torch.isfinite(x)

    def add_scaled(self, x, y, factor, *, out=None):
        if isinstance(factor, torch.Tensor):
            if factor.is_cuda:
                return torch.add(x, y * factor, out=out)
            factor = float(factor)
        return torch.add(x, y, alpha=factor, out=out)

    def matmul(self, x, y, *, transpose_x=False, transpose_y=False):
        return (x.t() if transpose_x else x) @ (y.t() if transpose_y else y)

    def argmax(self, x):
        return x.argmax(-1)

    def kth_largest(self, x, k):
        return torch.topk(x, k, sorted=False).values.min()

    def nonzero(self, mask):
        return torch.nonzero(mask).squeeze(1)

    def zero_at(self, x, index):
        return x.index_fill_(0, index, 0)

    def add_rows(self, x, start, values):
        x[start : start + len(values)] += values
        return x

    def bfloat16_bits(self, x):
        return x.to(torch.bfloat16).view(torch.int16)

    def from_bfloat16_bits(self, bits, dtype):
        return bits.view(torch.bfloat16).to(getattr(torch, dtype))

    def in_pieces(self, function, *tensors, out=None):
        rows = len(tensors[0])
        step = max(1, _PIECE * rows // max(1, tensors[0].numel()))
        if self.device.type != "cpu":
            step = rows
        if out is None and step >= rows:
            return function(*tensors)
        results: list[torch.Tensor] = []
        for start in range(0, rows, step):
            run = slice(start, start + step)
            got = function(*(x[run] for x in tensors))
            if not results:
                results = [x.new_empty((rows, *x.shape[1:])) for x in got]
                if out is not None:
                    results[0] = out
            for whole, part in zip(results, got, strict=True):
                whole[run] = part
        return tuple(results)

    def join(self, parts, *, out):
        place = out.data_ptr()
        for part in parts:
            if part.data_ptr() != place or not part.is_contiguous():
                return torch.cat(list(parts), out=None)
            place += part.nbytes
        return out

    def take_last(self, x, index):
        return x.gather(-1, index.long().unsqueeze(-1)).squeeze(-1)

    def cross_entropy(self, logits, labels, *, smoothing=0.0):
        logits = logits.reshape(-1, logits.shape[-1])
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        flat = functional.cross_entropy(
            logits, labels.reshape(-1).long(), reduction="none", label_smoothing=smoothing
        )
        return flat.reshape(labels.shape)

    def binary_cross_entropy(self, logits, labels):
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        return functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")

    def histogram(self, index, weights, size):
        if weights.is_cuda:  # bincount adds in any order there, and ranks would differ
            place = (index.reshape(-1).long(),)
            return weights.new_zeros(size).index_put_(place, weights.reshape(-1), accumulate=True)
        return torch.bincount(index.reshape(-1), weights.reshape(-1), size)

    def sum_rows(self, rows, values):
        unique, place = torch.unique(rows, return_inverse=True)
        total = values.new_zeros((len(unique), *values.shape[1:]))
        if values.is_cuda:  # sorts first: index_add_ adds in any order, and ranks would differ
            return unique, total.index_put_((place,), values, accumulate=True)
        return unique, total.index_add_(0, place, values)

    def drop_zero_rows(self, rows, values):
        kept = (values != 0).flatten(1).any(1)
        return rows[kept], values[kept]

    def take_rows(self, variable, rows):
        return variable.detach()[rows]

    def put_rows(self, variable, rows, values):
        with torch.no_grad():
            variable.index_copy_(0, rows, values)

    def when(self, condition, then, otherwise):
        (then if bool(condition) else otherwise)()

    def copy(self, variable):
        return variable.detach().clone()

    def variable(self, value, dtype=None):
        return self.array(value, dtype)

    def read(self, variable):
        return variable.detach()

    def assign(self, variable, value):
        with torch.no_grad():
            variable.copy_(value)

    def assign_add(self, variable, value):
        with torch.no_grad():
            variable.add_(value)

    def clock(self, after):
        return torch.tensor(time.time(), dtype=torch.float64)

    def replace(self, variable, value):
        with torch.no_grad():
            variable.set_(value)

    def nbytes(self, x):
        return float(x.nbytes)
