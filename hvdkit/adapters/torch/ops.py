"""`Ops` on torch tensors."""

from __future__ import annotations

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

    def sum(self, x):
        return x.sum()

    def sqrt(self, x):
        return torch.sqrt(x)

    def where(self, condition, x, y):
        return torch.where(condition, x, y)

    def minimum(self, x, y):
        return torch.clamp(x, max=y)

    def add_scaled(self, x, y, factor, *, out=None):
        return torch.add(x, y, alpha=factor, out=out)

    def argmax(self, x):
        return x.argmax(-1)

    def cross_entropy(self, logits, labels):
        flat = functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]), labels.reshape(-1).long(), reduction="none"
        )
        return flat.reshape(labels.shape)

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
