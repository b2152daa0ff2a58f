"""PyTorch; imported only when it is the chosen framework."""

from hvdkit.adapters.torch.adapter import TorchAdapter
from hvdkit.adapters.torch.runtime import start

__all__ = ["TorchAdapter", "start"]
