"""A compressed sum is near the exact one, in the gradient's dtype, and the same on all ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvdkit.comm import Comm
from hvdkit.comm.threads import run_ranks
from hvdkit.gradients.compression import FP16Compression, NoCompression
from hvdkit.tensors import NumpyOps


def gradients(seed: int, ranks: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    sizes = 10.0 ** random.uniform(-3, 2, (ranks, 200))
    return (random.normal(size=(ranks, 200)) * sizes).astype(np.float32)


def reduced(compression: Any, values: np.ndarray) -> list[np.ndarray]:
    def body(comm: Comm) -> np.ndarray:
        flat = values[comm.rank].copy()
        return compression.reduce(flat, key="bucket.0", comm=comm, ops=NumpyOps()).wait()

    return run_ranks(len(values), body)


@given(seed=st.integers(0, 2**32), ranks=st.integers(1, 4))
@settings(max_examples=20)
def test_no_compression_is_the_sum(seed: int, ranks: int) -> None:
    values = gradients(seed, ranks)
    expected = values[0]
    for value in values[1:]:
        expected = expected + value
    for result in reduced(NoCompression(), values):
        np.testing.assert_array_equal(result, expected)


@given(seed=st.integers(0, 2**32), ranks=st.integers(1, 4))
@settings(max_examples=20)
def test_half_precision_stays_within_its_bound(seed: int, ranks: int) -> None:
    values = gradients(seed, ranks)
    results = reduced(FP16Compression(), values)
    # One rounding a rank on the way in and one an addition, each half a unit in the last of
    # 11 places, or half the smallest subnormal number.
    bound = np.abs(values).sum(0) * (2 * ranks) * 2**-11 + 2 * ranks * 2**-25
    for result in results:
        assert result.dtype == np.float32
        assert (np.abs(result.astype(np.float64) - values.sum(0, np.float64)) <= bound).all()
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("compression", [NoCompression(), FP16Compression()])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_sum_has_the_gradients_dtype(compression: Any, dtype: str) -> None:
    (result, _) = reduced(compression, np.ones((2, 3), dtype))
    assert result.dtype == dtype


@pytest.mark.filterwarnings("ignore:overflow")
def test_half_precision_overflows_to_infinity_on_every_rank() -> None:
    for result in reduced(FP16Compression(), np.full((2, 3), 40000.0, np.float32)):
        assert np.isposinf(result).all()
