"""The normalisations between convolutions, in Keras; torch_norm.py is its twin."""

from __future__ import annotations

from keras import layers


def norm(kind: str, channels: int, groups: int, name: str) -> layers.Layer:
    """`kind` is "group", "batch" or "none"; constants as in torch."""
    if kind == "none":
        return layers.Identity(name=name)
    if kind == "group":
        return layers.GroupNormalization(min(groups, channels), epsilon=1e-5, name=name)
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)
