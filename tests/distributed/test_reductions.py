"""Adasum and the hierarchy under real ranks: four of them, told that they are on two hosts."""

from __future__ import annotations

import numpy as np
import pytest

from hvdkit.gradients.compression import Int8Compression
from hvdkit.strategies import Adasum, AllReduce, Hierarchical

RANKS, STEPS = 4, 10


def reductions(stage):
    stage.comm.host = stage.rank // 2
    strategies = {
        "allreduce": AllReduce(bucket_mb=0.01),
        "adasum": Adasum(bucket_mb=0.01),
        "hierarchical": Hierarchical(bucket_mb=0.01, chunk_mb=0.004),
        "hierarchical, int8": Hierarchical(
            bucket_mb=0.01, compression=Int8Compression(block=32, min_size=1)
        ),
    }
    found = {}
    for name, strategy in strategies.items():
        run = stage.train(steps=STEPS, strategy=strategy)
        found[name] = {"losses": run.losses, "weights": run.digest}
    return found


def ring(stage):
    """What 1e8 + 1 - 1e8 + 1 is in fp32, at every place of a message of 1 MB less 4 and of 1 MB.

    A tree adds in one order, a ring each quarter in another.
    """
    ops = stage.adapter().ops
    value = (1e8, 1.0, -1e8, 1.0)[stage.rank]
    found = []
    for size in (2**18 - 1, 2**18):
        message = ops.array(np.full(size, value), "float32")
        total = ops.numpy(stage.comm.allreduce(message, name=f"ring.{size}").wait())
        found.append(np.unique(total).tolist())
    return found


@pytest.fixture(scope="module", params=["torch", "tensorflow"])
def both(request, on_ranks):
    return on_ranks(reductions, ring, framework=request.param, np=RANKS)


@pytest.fixture
def results(both):
    return [r["reductions"] for r in both]


def test_a_large_message_goes_round_a_ring(both):
    """The rules that Open MPI is given are read, and begin where they say."""
    for result in both:
        assert result["ring"] == [[0], [0, 1]]


def test_all_ranks_train_alike(results):
    for name in results[0]:
        assert {result[name]["weights"] for result in results} == {results[0][name]["weights"]}


def test_a_hierarchy_sums_what_a_ring_sums(results):
    losses = results[0]["allreduce"]["losses"]
    assert results[0]["hierarchical"]["losses"] == pytest.approx(losses, rel=1e-9)
    compressed = results[0]["hierarchical, int8"]["losses"]
    assert compressed == pytest.approx(losses, rel=1e-2)
    assert compressed != losses


def test_adasum_goes_further_than_the_mean(results):
    """At this rate of learning: it adds what the ranks' gradients do not have in common."""
    summed, mean = (results[0][name]["losses"] for name in ("adasum", "allreduce"))
    assert summed[-1] < mean[-1] < mean[0]


def test_the_frameworks_agree_on_adasum(on_ranks):
    torch, tensorflow = (
        on_ranks(reductions, ring, framework=framework, np=RANKS)[0]["reductions"]
        for framework in ("torch", "tensorflow")
    )
    for name in ("allreduce", "adasum", "hierarchical"):
        assert tensorflow[name]["losses"] == pytest.approx(torch[name]["losses"], rel=1e-8)
