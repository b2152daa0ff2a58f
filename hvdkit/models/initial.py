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
