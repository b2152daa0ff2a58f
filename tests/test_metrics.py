"""Sums over batches and ranks are sums over all samples, whoever held them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdkit import metrics
from hvdkit.comm import Comm
from hvdkit.comm.threads import run_ranks
from hvdkit.data.order import slice_of
from hvdkit.tasks.base import means
from hvdkit.tensors import NumpyOps

values = st.lists(st.floats(-1e3, 1e3), max_size=12)
NOTHING: Any = {"loss": np.float32(0), "count": np.float32(0), "bins": np.zeros((2, 2))}


@given(values=values, ranks=st.integers(1, 4))
def test_the_total_does_not_depend_on_who_counted(values: list[float], ranks: int) -> None:
    def body(comm: Comm) -> dict[str, np.ndarray]:
        mine = [values[i] for i in slice_of(0, len(values), comm.rank, comm.size)]
        parts: list[Any] = [
            {"loss": np.float64(value), "count": np.float32(1), "bins": np.full((2, 2), value)}
            for value in mine
        ]
        return metrics.sum_over_ranks(
            metrics.add([NOTHING, *parts]), comm, NumpyOps(), name="evaluate"
        )

    for result in run_ranks(ranks, body):
        assert result["count"] == len(values)
        assert result["loss"] == pytest.approx(sum(values), abs=1e-9)
        assert result["bins"] == pytest.approx(np.full((2, 2), sum(values)), abs=1e-9)


def test_means_divide_by_the_count_and_leave_it_out() -> None:
    sums = {"loss": np.array(6.0), "accuracy": np.array(3.0), "count": np.array(4.0)}
    assert means(sums) == {"loss": 1.5, "accuracy": 0.75}


def test_the_mean_of_nothing_is_not_a_number() -> None:
    assert np.isnan(means({"loss": np.array(0.0), "count": np.array(0.0)})["loss"])
