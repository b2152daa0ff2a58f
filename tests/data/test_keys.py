"""A record's random numbers depend on the seed and its position alone, and are uniform."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdkit.data.keys import fractions, integers, position_keys, words


@given(seed=st.integers(0, 2**40), start=st.integers(0, 2**40), cut=st.integers(0, 8))
def test_a_key_does_not_depend_on_the_batch_it_is_in(seed: int, start: int, cut: int) -> None:
    whole = position_keys(seed, range(start, start + 8))
    parts = [
        position_keys(seed, range(start, start + cut)),
        position_keys(seed, range(start + cut, start + 8)),
    ]
    assert whole.tolist() == np.concatenate(parts).tolist()


def test_seeds_positions_streams_and_draws_all_differ() -> None:
    keys = np.concatenate([position_keys(seed, range(1000)) for seed in range(5)])
    assert len(np.unique(keys)) == 5000
    drawn = np.concatenate([words(keys, 3, stream=stream) for stream in range(3)])
    assert len(np.unique(drawn)) == drawn.size


def test_the_numbers_stay_the_same_from_version_to_version() -> None:
    # A checkpoint of today is resumed tomorrow: these may never change.
    assert position_keys(0, range(2)).tolist() == [12035550249420947055, 12935080325729570654]
    assert words(position_keys(0, range(1)), 2).tolist() == [
        [10042343417362734948, 3310683209968184829]
    ]


def test_they_are_uniform() -> None:
    keys = position_keys(1, range(20_000))
    drawn = fractions(keys, 3)
    assert drawn.shape == (20_000, 3)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert drawn.mean(0) == pytest.approx([0.5] * 3, abs=0.01)
    assert np.corrcoef(drawn.T)[0, 1:] == pytest.approx([0, 0], abs=0.02)
    counts = np.bincount(integers(keys, 1, 7)[:, 0], minlength=7)
    assert len(counts) == 7
    assert counts == pytest.approx(np.full(7, 20_000 / 7), rel=0.06)
