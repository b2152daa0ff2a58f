"""The vision transformer in torch; keras_vit.py is its twin.

Dosovitskiy et al. 2021 (arXiv:2010.11929): an image is a sequence of square patches, each
projected to the model's width, for pre-norm transformer blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from hvdkit.models.initial import transformer_normal
from hvdkit.models.torch_transformer import Block
from hvdkit.models.vision.sizes import patches


class ViT(nn.Module):
    """Images (N, C, H, W) to logits (N, classes).

    `patch` is a patch's side, which divides the image's; `pooling` says what the head sees:
    "class", a token of its own, or "mean", the mean of all patches (their appendix D.3).
    `dropout` acts on the patches with their positions, attention weights and branches. Raises
    `HvdkitError` for images that are not whole numbers of patches.
    """

    initial_weight = staticmethod(transformer_normal)

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        classes: int,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        hidden: int,
        pooling: str,
        dropout: float,
    ):
        super().__init__()
        channels, *size = input_shape
        tokens = patches(size, patch) + (pooling == "class")
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.class_token = None
        if pooling == "class":
            self.class_token = nn.Parameter(torch.empty(1, width))
        self.positions = nn.Parameter(torch.empty(tokens, width))
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(
                width=width,
                heads=heads,
                hidden=hidden,
                causal=False,
                norm_first=True,
                dropout=dropout,
                epsilon=1e-6,
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(x), 1, -1), x], 1)
        x = self.drop(x + self.positions)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x.mean(1) if self.class_token is None else x[:, 0])
