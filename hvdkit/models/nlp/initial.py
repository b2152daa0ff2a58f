"""How transformers start: one rule for both of a twin's frameworks."""

from __future__ import annotations

import math

import numpy as np

from hvdkit.models.initial import generator

# Each block adds two branches to the residual stream; these are their last kernels.
_RESIDUAL = ("attention.out.weight", "mlp.out.weight")


def transformer_normal(
    seed: int,
    name: str,
    shape: tuple[int, ...],
    *,
    deviation: float = 0.02,
    depth: int | None = None,
) -> np.ndarray:
    """N(0, 0.02) for kernels and embeddings, 0 for biases, 1 for norm scales; float64.

    With `depth` (blocks) the kernels that end a residual branch are scaled by 1 / sqrt(2 depth),
    as in GPT-2 (Radford et al. 2019, section 2.3).
    """
    if len(shape) < 2:
        return np.zeros(shape) if name.endswith("bias") else np.ones(shape)
    if depth and name.endswith(_RESIDUAL):
        deviation /= math.sqrt(2 * depth)
    return generator(seed, name).normal(0.0, deviation, shape)
