"""A hierarchy of hosts sums what one ring sums, and sends less over the links between them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hvdkit.comm import Comm, SoloComm
from hvdkit.comm.threads import run_ranks
from hvdkit.errors import HvdkitError
from hvdkit.gradients.compression import Int8Compression, PowerSGDCompression, TopKCompression
from hvdkit.strategies import AllReduce, Hierarchical
from tests.numpy_adapter import adapter, train_data
from tests.strategies.test_allreduce import trained

LAYOUTS = [(4, 2), (6, 2), (6, 3), (4, 4 // 2)]  # ranks, and how many of them a host has


@pytest.mark.parametrize(("ranks", "per_host"), LAYOUTS)
@pytest.mark.parametrize("chunk_mb", [None, 40 / 2**20])
def test_it_is_one_big_batch(ranks: int, per_host: int, chunk_mb: float | None) -> None:
    alone = trained(SoloComm())

    def body(comm: Comm) -> dict:
        return trained(comm, strategy=Hierarchical(bucket_mb=1e-4, chunk_mb=chunk_mb))

    first, *others = run_ranks(ranks, body, per_host=per_host)
    for name in ("params/head.weight", "params/head.bias"):
        np.testing.assert_allclose(first[name], alone[name], rtol=1e-10, atol=1e-12)
        for other in others:
            np.testing.assert_array_equal(other[name], first[name])


@pytest.mark.parametrize(
    "make", [lambda: Int8Compression(block=8, min_size=1), lambda: TopKCompression(min_size=1)]
)
def test_between_hosts_gradients_go_compressed(make: Any) -> None:
    def body(comm: Comm) -> tuple[dict, dict]:
        strategy = Hierarchical(compression=make(), bucket_mb=1e-4)
        return trained(comm, strategy=strategy), strategy.own_state()

    results = run_ranks(4, body, per_host=2)
    first = results[0][0]
    for arrays, _ in results[1:]:
        np.testing.assert_array_equal(arrays["params/head.weight"], first["params/head.weight"])
    left = [np.abs(state["residual/head.weight"]) for _, state in results]
    # Each rank keeps the residual of its own part of the bucket alone.
    assert all(x.any() for x in left)
    assert not ((left[0] > 0) & (left[1] > 0)).any()


def test_a_state_of_one_layout_goes_on_in_another() -> None:
    total = {"residual/head.weight": np.arange(18.0).reshape(3, 6)}

    def body(comm: Comm) -> np.ndarray:
        compression = Int8Compression(block=8, min_size=1)
        made = adapter(comm, strategy=Hierarchical(compression=compression, bucket_mb=1e-4))
        made.setup(seed=0, reference_count=8, example=train_data().example())
        made.strategy.load_own_state(total, shared=True)
        return made.strategy.own_state()["residual/head.weight"]

    shares = run_ranks(4, body, per_host=2)
    np.testing.assert_array_equal(sum(shares), total["residual/head.weight"])


@pytest.mark.parametrize(
    ("ranks", "per_host", "words"),
    [
        (3, 2, "as many ranks on each host, and there are 1 on one, 2 on another"),
        (2, 2, "several hosts, and all 2 ranks are on one"),
        (3, 1, "several ranks on each host, and there is one on each of 3"),
    ],
)
def test_where_it_makes_no_sense_it_is_refused(ranks: int, per_host: int, words: str) -> None:
    def body(comm: Comm) -> str:
        with pytest.raises(HvdkitError) as caught:
            trained(comm, strategy=Hierarchical())
        return str(caught.value)

    for message in run_ranks(ranks, body, per_host=per_host):
        assert words in message
        assert "strategy=allreduce" in message


def test_a_compression_of_whole_matrices_is_refused() -> None:
    with pytest.raises(HvdkitError, match="PowerSGDCompression needs whole matrices"):
        Hierarchical(compression=PowerSGDCompression())


@pytest.mark.parametrize("per_host", [2, 4])
def test_other_buckets_take_over_what_is_held_back(per_host: int) -> None:
    """As when the order of gradients has been learnt: in a hierarchy, and in one ring."""
    held = {"residual/head.weight": np.arange(18.0).reshape(3, 6)}

    def body(comm: Comm) -> dict[str, np.ndarray]:
        kind = Hierarchical if per_host < comm.size else AllReduce
        strategy = kind(compression=Int8Compression(block=8, min_size=1), bucket_mb=1e-4)
        made = adapter(comm, strategy=strategy)
        made.setup(seed=0, reference_count=8, example=train_data().example())
        strategy.load_own_state(held, shared=True)
        strategy.take_over(strategy.planned_with(bucket_mb=1e-6))
        return strategy.own_state()

    shares = run_ranks(4, body, per_host=per_host)
    for name, expected in held.items():
        np.testing.assert_array_equal(sum(share[name] for share in shares), expected)
