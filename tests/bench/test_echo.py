"""A job of echoes is a job whose ranks all hold the same, as a real one shows."""

from __future__ import annotations

import numpy as np
import pytest

from hvdkit.bench.echo import EchoComm
from hvdkit.comm.threads import run_ranks
from hvdkit.tensors import NumpyOps


def collectives(comm, x):
    """What rank 0 gets of each, and what it brought."""
    parts = [len(x) // comm.size] * comm.size
    return {
        "allreduce": comm.allreduce(x.copy(), name="a", op="max").wait(),
        "reduce_scatter": comm.reduce_scatter(x.copy(), name="r", op="max").wait(),
        "all_gather": comm.all_gather(x, name="g").wait(),
        "all_to_all": comm.all_to_all(x, name="t", splits=parts).wait(),
    }


@pytest.mark.parametrize("size", [2, 4])
def test_each_collective_gives_what_real_ranks_with_equal_data_get(size):
    x = np.arange(8, dtype=np.float32)
    real = run_ranks(size, lambda comm: collectives(comm, x))[0]
    echo = EchoComm(size, NumpyOps())
    found = collectives(echo, x)
    assert found.keys() == real.keys()
    for name, value in real.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert echo.sent == [(name, x.nbytes) for name in found]
