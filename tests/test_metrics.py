"""Means over batches and ranks are the mean over all samples, whoever held them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdkit import metrics
from hvdkit.comm import Comm
from hvdkit.comm.threads import run_ranks
from hvdkit.data.order import slice_of
from hvdkit.tensors import NumpyOps

values = st.lists(st.floats(-1e3, 1e3), max_size=12)


@given(values=values, ranks=st.integers(1, 4))
def test_the_mean_does_not_depend_on_who_counted(values: list[float], ranks: int) -> None:
    def body(comm: Comm) -> dict[str, float]:
        mine = [values[i] for i in slice_of(0, len(values), comm.rank, comm.size)]
        sums = metrics.add(({"loss": (value, 1.0)} for value in mine), ["loss"])
        return metrics.mean_over_ranks(sums, comm, NumpyOps(), name="evaluate")

    results = run_ranks(ranks, body)
    for result in results:
        if values:
            assert result["loss"] == pytest.approx(float(np.mean(values)), abs=1e-9)
            assert result == results[0]
        else:
            assert math.isnan(result["loss"])


def test_each_metric_has_its_own_count() -> None:
    sums = metrics.add(
        [{"loss": (6.0, 3.0), "accuracy": (1.0, 1.0)}, {"loss": (2.0, 1.0)}],
        ["loss", "accuracy", "top5"],
    )
    (result,) = run_ranks(
        1, lambda comm: metrics.mean_over_ranks(sums, comm, NumpyOps(), name="evaluate")
    )
    assert result["loss"] == 2.0
    assert result["accuracy"] == 1.0
    assert math.isnan(result["top5"])
