"""VGG networks in torch; keras_vgg.py is its twin.

Simonyan & Zisserman 2015 (arXiv:1409.1556): stages of 3x3 convolutions, a 2x2 max-pool after
each, two wide hidden layers. VGG-16 is their configuration D.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from hvdkit.models.initial import he_normal
from hvdkit.models.vision.sizes import require_halvings
from hvdkit.models.vision.torch_norm import norm


class VGG(nn.Module):
    """Images (N, C, H, W) to logits (N, classes).

    `widths` gives the channels of each stage and `blocks` how many convolutions each has. What
    the last stage leaves is averaged to `pooled` x `pooled` cells (which changes nothing at the
    published 7 and 224 x 224 images) for the layers of `hidden` widths, which `dropout` follows.
    Convolutions have a bias unless a norm comes after. Raises `HvdkitError` for images that the
    stages would halve to nothing.
    """

    initial_weight = staticmethod(he_normal)

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        classes: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        hidden: Sequence[int],
        pooled: int,
        dropout: float,
        norm_kind: str,
        norm_groups: int,
    ):
        super().__init__()
        require_halvings(input_shape[1:], len(widths))
        self.blocks, self.pooled = list(blocks), pooled
        convolutions, norms = [], []
        inputs = input_shape[0]
        for width, count in zip(widths, blocks, strict=True):
            for _ in range(count):
                bias = norm_kind == "none"
                convolutions.append(nn.Conv2d(inputs, width, 3, padding=1, bias=bias))
                norms.append(norm(norm_kind, width, norm_groups))
                inputs = width
        self.convolutions, self.norms = nn.ModuleList(convolutions), nn.ModuleList(norms)
        inputs *= pooled * pooled
        layers = []
        for width in hidden:
            layers.append(nn.Linear(inputs, width))
            inputs = width
        self.hidden = nn.ModuleList(layers)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pairs = iter(zip(self.convolutions, self.norms, strict=True))
        for count in self.blocks:
            for _ in range(count):
                convolution, norm = next(pairs)
                x = torch.relu(norm(convolution(x)))
            x = functional.max_pool2d(x, 2)
        x = functional.adaptive_avg_pool2d(x, self.pooled)
        x = x.movedim(1, -1).flatten(1)  # channels last, as the twin flattens
        for layer in self.hidden:
            x = self.drop(torch.relu(layer(x)))
        return self.head(x)
