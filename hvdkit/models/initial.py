"""Initial weights in NumPy, keyed by (seed, canonical name): the same in both frameworks.

Canonical layout is torch's: kernels are (out, in, ...), so fan-in is the product of all
dimensions but the first.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np


def generator(seed: int, name: str) -> np.random.Generator:
    """Random numbers that depend on the seed and the parameter's name alone."""
    word = hashlib.sha256(name.encode()).digest()[:8]
    return np.random.default_rng([seed, int.from_bytes(word, "little")])


def he_normal(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """He et al. 2015 (arXiv:1502.01852) for kernels, 0 for biases, 1 for norm scales; float64."""
    if len(shape) > 1:
        deviation = math.sqrt(2 / math.prod(shape[1:]))
        return generator(seed, name).normal(0.0, deviation, shape)
    return np.zeros(shape) if name.endswith("bias") else np.ones(shape)


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
