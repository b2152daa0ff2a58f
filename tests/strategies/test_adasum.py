"""Adasum is the paper's formula, parameter by parameter, on any power of two of ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvdkit.comm import Comm
from hvdkit.comm.threads import run_ranks
from hvdkit.errors import HvdkitError
from hvdkit.gradients.buckets import ParamSpec
from hvdkit.gradients.compression import FP16Compression
from hvdkit.strategies import Adasum, Parameter
from hvdkit.tensors import NumpyOps
from tests.strategies.test_allreduce import trained

SHAPES = {"a": (5, 3), "b": (7,), "c": (2, 2)}


def combined(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Equation 3 of the paper."""
    xx, yy, xy = (x * x).sum(), (y * y).sum(), (x * y).sum()
    return (1 - xy / (2 * xx)) * x + (1 - xy / (2 * yy)) * y


def expected(vectors: list[np.ndarray]) -> np.ndarray:
    while len(vectors) > 1:
        vectors = [combined(*vectors[i : i + 2]) for i in range(0, len(vectors), 2)]
    return vectors[0]


def reduced(values: list[dict[str, np.ndarray]], **options: Any) -> list[dict[str, np.ndarray]]:
    """What each rank gets of its gradients, by parameter."""

    def body(comm: Comm) -> dict[str, np.ndarray]:
        comm.message_mb = 1e-5  # which would cut a parameter, and must not
        mine = values[comm.rank]
        params = [
            Parameter(ParamSpec(name, x.shape, x.dtype.name), np.zeros_like(x))
            for name, x in mine.items()
        ]
        strategy = Adasum(**options)
        strategy.setup(params, comm, NumpyOps())
        for bucket in strategy.buckets:
            flat = np.zeros(bucket.size, bucket.dtype)
            for param, start in zip(bucket.params, bucket.offsets, strict=True):
                flat[start : start + param.numel] = mine[param.name].reshape(-1)
            strategy.bucket_ready(bucket, flat)
        found = {}
        for bucket in strategy.buckets:
            flat = strategy.gradient(bucket)
            for param, start in zip(bucket.params, bucket.offsets, strict=True):
                found[param.name] = flat[start : start + param.numel].reshape(param.shape)
        return found

    return run_ranks(len(values), body)


@given(seed=st.integers(0, 2**32), ranks=st.sampled_from([1, 2, 4, 8]), small=st.booleans())
@settings(max_examples=12)
def test_it_is_the_papers_formula_for_each_parameter(seed: int, ranks: int, small: bool) -> None:
    random = np.random.default_rng(seed)
    values = [
        {name: random.normal(size=shape) for name, shape in SHAPES.items()} for _ in range(ranks)
    ]
    first, *others = reduced(values, bucket_mb=1e-5 if small else 4.0)
    for name in SHAPES:
        # Each rank brings its share of the mean: of four equal gradients, a quarter of one.
        wanted = ranks * expected([value[name] for value in values])
        np.testing.assert_allclose(first[name], wanted, rtol=1e-10, atol=1e-12)
        for other in others:
            np.testing.assert_array_equal(other[name], first[name])


def test_equal_gradients_are_averaged_and_orthogonal_ones_added() -> None:
    one = {"w": np.array([[3.0, 0.0], [4.0, 0.0]])}
    other = {"w": np.array([[0.0, 1.0], [0.0, 2.0]])}
    for result in reduced([one, one]):
        np.testing.assert_allclose(result["w"], 2 * one["w"])  # in all, the mean of whole ones
    for result in reduced([one, other]):
        np.testing.assert_allclose(result["w"], 2 * (one["w"] + other["w"]))


def test_an_empty_share_changes_nothing_and_a_bad_one_shows_on_all() -> None:
    one = {"w": np.array([[3.0, 0.0], [4.0, 0.0]])}
    for result in reduced([one, {"w": 0 * one["w"]}]):
        np.testing.assert_allclose(result["w"], 2 * one["w"])
    with np.errstate(all="ignore"):
        bad = {"w": np.array([[np.nan, 0.0], [0.0, 0.0]])}
    for result in reduced([one, one, bad, one]):
        assert not np.isfinite(result["w"].sum())


def test_it_trains_all_ranks_alike() -> None:
    first, *others = run_ranks(4, lambda comm: trained(comm, strategy=Adasum()))
    assert np.abs(first["params/head.weight"]).max() > 0
    for other in others:
        np.testing.assert_array_equal(other["params/head.weight"], first["params/head.weight"])


@pytest.mark.parametrize("ranks", [3, 6])
def test_other_numbers_of_ranks_are_refused(ranks: int) -> None:
    def body(comm: Comm) -> str:
        with pytest.raises(HvdkitError) as caught:
            trained(comm, strategy=Adasum())
        return str(caught.value)

    for message in run_ranks(ranks, body):
        assert f"it needs 2, 4, 8, 16 ... of them, not {ranks}" in message


def test_a_compression_is_refused() -> None:
    with pytest.raises(HvdkitError, match="leave compression=none"):
        Adasum(compression=FP16Compression())
