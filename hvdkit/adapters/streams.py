"""Where the random generators of a step begin. Imports NumPy only."""

from __future__ import annotations

import numpy as np


def stream_words(seed: int, step: int, rank: int, generator: int = 0) -> np.ndarray:
    """Two 32-bit words that begin a generator's stream for one rank's step: the same on a
    resume, different everywhere else."""
    return np.random.SeedSequence([seed, step, rank, generator]).generate_state(2)
