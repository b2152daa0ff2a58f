"""What all compressions keep: equal bits on all ranks, errors fed back, bad gradients shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.gradients.encodings import FEEDBACK, MAKE, Ranked, gradients, on_ranks

pytestmark = pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
NUMEL = 9 * 7 + 4 * 3 * 2
seeds = st.integers(0, 2**32)
# Numbers of every size that matters: zeros, the smallest, the largest and what lies between.
numbers = st.one_of(
    st.just(0.0),
    st.floats(-100, 100, width=32),
    st.floats(-(2.0**-126), 2.0**-126, width=32),
    st.floats(-(2.0**90), 2.0**90, width=32),
)
arrays = st.lists(numbers, min_size=NUMEL, max_size=NUMEL)


@pytest.mark.parametrize("name", MAKE)
@given(values=st.lists(arrays, min_size=1, max_size=3), steps=st.integers(1, 2))
@settings(max_examples=8)
def test_all_ranks_hold_equal_bits_whatever_comes(name: str, values: Any, steps: int) -> None:
    def body(rank: Ranked) -> list[np.ndarray]:
        gradient = np.array(values[rank.comm.rank], np.float32)
        return [rank.reduce(gradient) for _ in range(steps)]

    first, *others = on_ranks(name, len(values), body)
    for other in others:
        np.testing.assert_array_equal(np.array(other), np.array(first))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MAKE)
@given(seed=seeds, ranks=st.integers(1, 5))
@settings(max_examples=5)
def test_all_ranks_hold_equal_bits_of_the_gradients_dtype(
    name: str, dtype: str, seed: int, ranks: int
) -> None:
    values = gradients(seed, ranks, NUMEL, dtype)
    first, *others = on_ranks(
        name, ranks, lambda r: [r.reduce(values[r.comm.rank]) for _ in range(3)], dtype=dtype
    )
    assert first[0].dtype == dtype
    for other in others:
        np.testing.assert_array_equal(np.array(other), np.array(first))


@pytest.mark.parametrize("name", FEEDBACK)
@given(seed=seeds, ranks=st.integers(1, 4), unit=st.sampled_from([1.0, 2.0**-5, 1024.0, 0.3]))
@settings(max_examples=10)
def test_what_is_applied_and_what_is_held_back_are_all_gradients(
    name: str, seed: int, ranks: int, unit: float
) -> None:
    """In units of the true gradient, at any step, whatever the gradients are multiplied by."""
    steps = 4
    values = np.stack([gradients(seed + i, ranks, NUMEL, "float64") for i in range(steps)])

    def body(rank: Ranked) -> tuple[np.ndarray, np.ndarray]:
        mine = values[:, rank.comm.rank]
        units = [unit * 2**i for i in range(steps)]
        applied = [rank.reduce(g * u, unit=u) / u for g, u in zip(mine, units, strict=True)]
        return np.sum(applied, 0), rank.residual()

    results = on_ranks(name, ranks, body, dtype="float64")
    applied = results[0][0]
    held_back = np.sum([residual for _, residual in results], 0)
    bound = 1e-12 * np.abs(values).max()
    # The bucket's order of parameters is the model's reversed, and so is everything here.
    np.testing.assert_allclose(applied + held_back, values.sum((0, 1)), rtol=0, atol=bound)
    assert np.abs(held_back).max() > 1e3 * bound, "nothing was held back"


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("name", MAKE)
@given(place=st.integers(0, NUMEL - 1), ranks=st.integers(1, 4), seed=seeds)
@settings(max_examples=5)
def test_one_ranks_bad_number_shows_on_all_and_leaves_no_trace(
    name: str, bad: float, place: int, ranks: int, seed: int
) -> None:
    values = gradients(seed, ranks, NUMEL)

    def body(rank: Ranked) -> tuple[Any, ...]:
        gradient = values[rank.comm.rank]
        rank.reduce(gradient)
        broken = gradient.copy()
        if rank.comm.rank == ranks - 1:
            broken[place] = bad
        with np.errstate(all="ignore"):
            skipped = rank.reduce(broken, count=False)
        return skipped, rank.reduce(gradient), rank.reduce(gradient)

    def undisturbed(rank: Ranked) -> list[np.ndarray]:
        return [rank.reduce(values[rank.comm.rank]) for _ in range(3)]

    expected = on_ranks(name, ranks, undisturbed)[0][1:]
    for skipped, *after in on_ranks(name, ranks, body):
        assert not np.isfinite(skipped.sum())
        np.testing.assert_array_equal(after, expected)


@pytest.mark.parametrize("name", FEEDBACK)
@pytest.mark.parametrize("ranks", [1, 3])
def test_a_state_taken_up_goes_on_to_the_bit(name: str, ranks: int) -> None:
    values = np.stack([gradients(i, ranks, NUMEL) for i in range(6)])

    def whole(rank: Ranked) -> list[np.ndarray]:
        return [rank.reduce(g) for g in values[:, rank.comm.rank]]

    def resumed(rank: Ranked) -> list[np.ndarray]:
        mine = values[:, rank.comm.rank]
        before = [rank.reduce(g) for g in mine[:3]]
        again = Ranked(MAKE[name](), rank.comm)
        again.compression.load_state(rank.compression.state())
        again.compression.load_residuals(rank.compression.residuals(), shared=False)
        return before + [again.reduce(g) for g in mine[3:]]

    for first, second in zip(
        on_ranks(name, ranks, whole), on_ranks(name, ranks, resumed), strict=True
    ):
        np.testing.assert_array_equal(np.array(first), np.array(second))


@pytest.mark.parametrize("name", FEEDBACK)
@pytest.mark.parametrize(("before", "after"), [(3, 2), (1, 4), (4, 1)])
def test_on_another_number_of_ranks_the_residuals_keep_their_sum(
    name: str, before: int, after: int
) -> None:
    values = gradients(0, before, NUMEL)

    def first(rank: Ranked) -> dict[str, np.ndarray]:
        rank.reduce(values[rank.comm.rank])
        return rank.compression.residuals()

    kept = on_ranks(name, before, first)
    total = {key: sum(each[key] for each in kept) for key in kept[0]}

    def then(rank: Ranked) -> dict[str, np.ndarray]:
        rank.compression.load_residuals(total, shared=True)
        return rank.compression.residuals()

    shares = on_ranks(name, after, then)
    for key, expected in total.items():
        assert np.abs(expected).max() > 0
        np.testing.assert_array_equal(sum(share[key] for share in shares), expected)
    if after > 1:  # no rank is left with all of it
        assert all(any(x.any() for x in share.values()) for share in shares)
