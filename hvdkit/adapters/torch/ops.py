"""`Ops` on torch tensors."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch.nn import functional


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
        return torch.add(x, y, alpha=factor, out=out)

    def argmax(self, x):
        return x.argmax(-1)

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
