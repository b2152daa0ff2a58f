"""The contract of `Comm`, held against Horovod's torch and TensorFlow."""

from __future__ import annotations

import pytest

from tests.comm.contract import CHECKS


def contract(stage):
    """The names of the checks that held, in order."""
    held = []
    if stage.framework == "torch":
        import torch

        to, of = (lambda x: torch.from_numpy(x.copy())), (lambda x: x.numpy())
    else:
        import tensorflow as tf

        to, of = tf.constant, (lambda x: x.numpy())
    for name, check in CHECKS.items():
        check(stage.comm, to, of)
        held.append(name)
    return held


def contract_in_a_graph(stage):
    """TensorFlow's collectives as a step uses them: the order is the graph's to choose."""
    import numpy as np
    import tensorflow as tf

    comm = stage.comm

    @tf.function
    def step(x):
        handles = [comm.allreduce(x * i, name=f"graph.{i}") for i in range(1, 5)]
        gathered = comm.all_gather(x[: comm.rank + 1], name="graph.gather").wait()
        part = comm.reduce_scatter(x, name="graph.scatter").wait()
        return [handle.wait() for handle in reversed(handles)], gathered, part

    totals = []
    for number in range(3):
        sums, gathered, part = step(tf.constant(np.arange(7.0) * (comm.rank + 1) + number))
        totals.append([[x.numpy().tolist() for x in sums], len(gathered), len(part)])
    return totals


def messages(stage):
    """The size of messages that a strategy cuts large buckets into."""
    return stage.comm.message_mb


JOBS = [
    (framework, np, launcher)
    for framework in ("torch", "tensorflow")
    for np, launcher in ((2, "gloo"), (3, "mpirun"))
]


@pytest.mark.parametrize(("framework", "np", "launcher"), JOBS)
def test_horovod_keeps_the_contract(on_ranks, framework, np, launcher):
    cases = [contract, messages] + [contract_in_a_graph] * (framework == "tensorflow")
    results = on_ranks(*cases, framework=framework, np=np, launcher=launcher)
    assert [result["contract"] for result in results] == [list(CHECKS)] * np
    # Measured for MPI on one host, which all these jobs are on.
    assert [r["messages"] for r in results] == [None if launcher == "gloo" else 8.0] * np


@pytest.mark.parametrize(("framework", "np", "launcher"), JOBS[2:])
def test_collectives_in_a_graph_keep_it_too(on_ranks, framework, np, launcher):
    cases = (contract, contract_in_a_graph)
    results = on_ranks(*cases, framework=framework, np=np, launcher=launcher)
    ranks = sum(rank + 1 for rank in range(np))
    for rank, result in enumerate(results):
        for number, (sums, gathered, part) in enumerate(result["contract_in_a_graph"]):
            expected = [ranks * i + np * number for i in range(7)]
            assert sums == [[x * factor for x in expected] for factor in (4, 3, 2, 1)]
            assert gathered == ranks
            assert part == len(range(rank, 7, np))
