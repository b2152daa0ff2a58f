"""The rank that the others wait for is named, whatever noise all ranks have."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdkit.callbacks import Log, Stragglers
from hvdkit.callbacks.stragglers import find, line
from hvdkit.comm import Comm
from hvdkit.comm.threads import run_ranks
from hvdkit.trainer import Every, Trainer
from tests.numpy_adapter import adapter, train_data


def noise(ranks: int, steps: int, seed: int) -> np.ndarray:
    """Steps of 10 ms, a tenth of noise."""
    return np.random.default_rng(seed).normal(0.010, 0.001, (ranks, steps)).clip(0.005)


@given(ranks=st.integers(2, 9), late=st.integers(0, 8), seed=st.integers(0, 1000))
def test_a_rank_that_is_always_late_is_named_with_its_cost(ranks, late, seed):
    late %= ranks
    busy = noise(ranks, 40, seed)
    busy[late] += 0.020
    found = find(busy)
    assert found.stands_out
    assert found.slowest == late
    assert found.last[late] == 40
    assert found.cost[late] == pytest.approx(0.020, rel=0.1)
    assert line(found).startswith(f"stragglers: rank {late} is slowest")


@given(ranks=st.integers(3, 9), seed=st.integers(0, 1000))
def test_a_pause_now_and_then_counts_with_its_mean(ranks, seed):
    busy = noise(ranks, 40, seed)
    busy[1, ::10] += 0.100
    assert find(busy).slowest == 1
    assert find(busy).cost[1] == pytest.approx(0.010, rel=0.15)


def test_two_slow_ranks_do_not_hide_one_another():
    busy = noise(8, 40, 0)
    busy[[2, 5]] += 0.020
    assert find(busy).stands_out
    assert find(busy).slowest in (2, 5)


@given(ranks=st.integers(2, 9), seed=st.integers(0, 1000))
def test_even_ranks_have_no_straggler(ranks, seed):
    busy = np.full((ranks, 30), 0.010)
    busy += np.random.default_rng(seed).uniform(0, 0.0002, busy.shape)
    assert not find(busy).stands_out
    assert "none" in line(find(busy))


def test_its_numbers_are_in_the_metrics(tmp_path: Path) -> None:
    def rank(comm: Comm) -> None:
        Trainer(
            adapter(comm),
            train_data(),
            num_steps=8,
            folder=tmp_path,
            every=Every(log=4),
            callbacks=[Stragglers(), Log()],
        ).fit()

    run_ranks(3, rank)
    records = list(map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines()))
    assert len(records) == 2
    names = {"straggler/rank", "straggler/cost_ms"}
    names |= {f"straggler/busy_ms_rank_{rank}" for rank in range(3)}
    for record in records:
        assert {name for name in record if name.startswith("straggler/")} == names
        assert all(record[name] >= 0 for name in names - {"straggler/rank"})
        assert record["straggler/rank"] in (-1, 0, 1, 2)
