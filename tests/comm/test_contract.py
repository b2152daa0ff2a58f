"""The contract of `Comm`, held against the implementations that need no launch."""

from __future__ import annotations

import numpy as np
import pytest

from hvdkit.comm import SoloComm
from hvdkit.comm.threads import run_ranks
from tests.comm.contract import CHECKS


@pytest.mark.parametrize("name", CHECKS)
def test_solo(name):
    CHECKS[name](SoloComm(), np.array, np.asarray)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("name", CHECKS)
def test_threads(name, size):
    run_ranks(size, lambda comm: CHECKS[name](comm, np.array, np.asarray))
