"""Initial weights of the recommender models in NumPy, keyed by (seed, canonical name).

All are drawn in single precision, whatever the run's: a table of ten million rows then takes
its own size and seconds, and a run in fp64 starts from the same numbers.
"""

from __future__ import annotations

import math

import numpy as np

from hvdkit.models.initial import generator


def normal(seed: int, name: str, shape: tuple[int, ...], deviation: float) -> np.ndarray:
    """Normal with mean 0, float32."""
    values = generator(seed, name).standard_normal(shape, np.float32)
    values *= np.float32(deviation)
    return values


def uniform(seed: int, name: str, shape: tuple[int, ...], limit: float) -> np.ndarray:
    """Uniform between -limit and limit, float32."""
    values = generator(seed, name).random(shape, np.float32)
    values -= np.float32(0.5)
    values *= np.float32(2 * limit)
    return values


def factors(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Matrix factorisation: vectors normal with deviation 0.01, biases 0."""
    if "bias" in name:
        return np.zeros(shape, np.float32)
    return normal(seed, name, shape, 0.01)


def neural_factors(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """NeuMF: embeddings as in `factors`; kernels by Glorot & Bengio 2010, equation 16; the last
    one by LeCun et al. 1998 (uniform, variance 1 / inputs), as the authors' program has it."""
    if name.startswith("hidden.") and len(shape) > 1:
        return uniform(seed, name, shape, math.sqrt(6 / sum(shape)))
    if name == "head.weight":
        return uniform(seed, name, shape, math.sqrt(3 / shape[1]))
    return factors(seed, name, shape)


def click_through(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """DLRM, as the authors' program has it: tables uniform within 1 / sqrt(rows), kernels normal
    with variance 2 / (inputs + outputs), biases normal with variance 1 / outputs."""
    if name.startswith("tables."):
        return uniform(seed, name, shape, 1 / math.sqrt(shape[0]))
    if len(shape) > 1:
        return normal(seed, name, shape, math.sqrt(2 / sum(shape)))
    return normal(seed, name, shape, math.sqrt(1 / shape[0]))
