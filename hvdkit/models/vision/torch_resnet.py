"""A small residual network in torch; keras_resnet.py is its twin.

He et al. 2016 (arXiv:1603.05027), basic blocks with the small-image stem, and group norm
(Wu & He 2018) by default: it has no statistics that differ by rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from hvdkit.models.initial import he_normal


def norm(kind: str, channels: int, groups: int) -> nn.Module:
    """`kind` is "group" or "batch"."""
    if kind == "group":
        return nn.GroupNorm(min(groups, channels), channels)
    return nn.BatchNorm2d(channels)


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut, which is a 1x1 one where shapes change."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, kind: str, groups: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = norm(kind, outputs, groups)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = norm(kind, outputs, groups)
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut_norm = norm(kind, outputs, groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        if self.shortcut is not None:
            x = self.shortcut_norm(self.shortcut(x))
        return torch.relu(x + y)


class ResNet(nn.Module):
    """Images (N, C, H, W) to logits (N, classes).

    `widths` gives the channels of each stage and `blocks` how many blocks each has; every
    stage but the first halves the image.
    """

    initial_weight = staticmethod(he_normal)

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        classes: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        norm_kind: str = "group",
        norm_groups: int = 8,
    ):
        super().__init__()
        self.conv = nn.Conv2d(input_shape[0], widths[0], 3, padding=1, bias=False)
        self.norm = norm(norm_kind, widths[0], norm_groups)
        stages = []
        inputs = widths[0]
        for s, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            for b in range(count):
                stride = 2 if s and not b else 1
                stages.append(
                    Block(inputs, width, stride=stride, kind=norm_kind, groups=norm_groups)
                )
                inputs = width
        self.blocks = nn.ModuleList(stages)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))
