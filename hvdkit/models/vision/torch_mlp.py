"""A multilayer perceptron in torch; keras_mlp.py is its twin."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn

from hvdkit.models.initial import he_normal


class MLP(nn.Module):
    """Images (N, C, H, W) to logits (N, classes) through ReLU layers of the given widths."""

    initial_weight = staticmethod(he_normal)

    def __init__(self, *, input_shape: Sequence[int], classes: int, hidden: Sequence[int]):
        super().__init__()
        channels, height, width = input_shape
        widths = [channels * height * width, *hidden]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(widths))
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.movedim(1, -1).flatten(1)  # channels last, as the twin flattens
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.head(x)
