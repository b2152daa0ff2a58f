"""The normalisations between convolutions, in torch; keras_norm.py is its twin."""

from __future__ import annotations

from torch import nn


def norm(kind: str, channels: int, groups: int) -> nn.Module:
    """`kind` is "group" (Wu & He 2018), "batch" (Ioffe & Szegedy 2015) or "none".

    Group norm has no statistics that differ by rank, and so is the default of our models.
    """
    if kind == "none":
        return nn.Identity()
    if kind == "group":
        return nn.GroupNorm(min(groups, channels), channels)
    return nn.BatchNorm2d(channels)
