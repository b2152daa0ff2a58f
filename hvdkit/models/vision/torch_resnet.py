"""Residual networks in torch; keras_resnet.py is its twin.

He et al. 2015 (arXiv:1512.03385): basic blocks (ResNet-18, 34) and bottlenecks (50, 101), the
latter as version 1.5, with the stride in the 3x3 convolution (Goyal et al. 2017, section 5.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from hvdkit.models.initial import he_normal
from hvdkit.models.vision.torch_norm import norm


class Basic(nn.Module):
    """Two 3x3 convolutions around a shortcut, which is a 1x1 one where shapes change."""

    last_norm = "norm2.weight"

    def __init__(self, inputs: int, width: int, *, stride: int, kind: str, groups: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.norm1 = norm(kind, width, groups)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = norm(kind, width, groups)
        self.shortcut = None
        if stride != 1 or inputs != width:
            self.shortcut = nn.Conv2d(inputs, width, 1, stride, bias=False)
            self.shortcut_norm = norm(kind, width, groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        if self.shortcut is not None:
            x = self.shortcut_norm(self.shortcut(x))
        return torch.relu(x + y)


class Bottleneck(nn.Module):
    """1x1 down to `width`, 3x3, 1x1 up to four times it, around the same kind of shortcut."""

    last_norm = "norm3.weight"

    def __init__(self, inputs: int, width: int, *, stride: int, kind: str, groups: int):
        super().__init__()
        outputs = 4 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.norm1 = norm(kind, width, groups)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.norm2 = norm(kind, width, groups)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.norm3 = norm(kind, outputs, groups)
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut_norm = norm(kind, outputs, groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        y = torch.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        if self.shortcut is not None:
            x = self.shortcut_norm(self.shortcut(x))
        return torch.relu(x + y)


class ResNet(nn.Module):
    """Images (N, C, H, W) to logits (N, classes).

    `widths` gives the width of each stage and `blocks` how many blocks each has; every stage but
    the first halves the image. `block` is "basic", as wide as its stage, or "bottleneck", whose
    output is four times as wide. `stem` is "small", a 3x3 convolution that keeps the image's
    size, or "imagenet", 7x7 at stride 2 and a 3x3 max-pool at stride 2. With `zero_last_norm`
    each block starts as its shortcut alone (Goyal et al. 2017, section 5.1).
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        classes: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        block: str = "basic",
        stem: str = "small",
        norm_kind: str = "group",
        norm_groups: int = 8,
        zero_last_norm: bool = False,
    ):
        super().__init__()
        kind: Any = {"basic": Basic, "bottleneck": Bottleneck}[block]
        self.zero = kind.last_norm if zero_last_norm else None
        size, stride = (7, 2) if stem == "imagenet" else (3, 1)
        self.conv = nn.Conv2d(
            input_shape[0], widths[0], size, stride, padding=size // 2, bias=False
        )
        self.norm = norm(norm_kind, widths[0], norm_groups)
        self.pool = nn.MaxPool2d(3, 2, padding=1) if stem == "imagenet" else nn.Identity()
        stages = []
        inputs = widths[0]
        for s, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            for b in range(count):
                stride = 2 if s and not b else 1
                stages.append(
                    kind(inputs, width, stride=stride, kind=norm_kind, groups=norm_groups)
                )
                inputs = 4 * width if block == "bottleneck" else width
        self.blocks = nn.ModuleList(stages)
        self.head = nn.Linear(inputs, classes)

    def initial_weight(self, seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """He's (2015), but for the last norm of each block where that is to be zero."""
        if self.zero and name.startswith("blocks.") and name.endswith(f".{self.zero}"):
            return np.zeros(shape)
        return he_normal(seed, name, shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(torch.relu(self.norm(self.conv(x))))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))
