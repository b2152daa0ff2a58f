"""The order of a run is a pure function of (seed, position)."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hvdkit.data.order import Order, slice_of

lengths, seeds = st.integers(2, 40), st.integers(0, 1000)


def epoch(order: Order, length: int, number: int) -> list[int]:
    return order[range(number * length, (number + 1) * length)].tolist()


@given(length=lengths, seed=seeds, shuffle=st.booleans())
@settings(max_examples=20)
def test_every_epoch_holds_each_record_once(length: int, seed: int, shuffle: bool) -> None:
    order = Order(length, seed=seed, shuffle=shuffle)
    for number in range(3):
        assert sorted(epoch(order, length, number)) == list(range(length))


@given(length=lengths, seed=seeds, data=st.data())
@settings(max_examples=10)
def test_a_position_alone_says_which_record(length: int, seed: int, data: st.DataObject) -> None:
    positions = data.draw(st.lists(st.integers(0, 2 * length), min_size=1, max_size=3))
    in_a_row = Order(length, seed=seed, shuffle=True)[range(2 * length + 1)]
    for position in positions:
        assert Order(length, seed=seed, shuffle=True)[range(position, position + 1)] == [
            in_a_row[position]
        ]


def test_epochs_and_seeds_differ() -> None:
    orders = {
        tuple(epoch(Order(50, seed=seed, shuffle=True), 50, number))
        for seed in range(3)
        for number in range(3)
    }
    assert len(orders) == 9


def test_unshuffled_is_the_sources_order() -> None:
    assert epoch(Order(7, seed=3, shuffle=False), 7, 1) == list(range(7))


@given(start=st.integers(0, 100), length=st.integers(0, 50), count=st.integers(1, 9))
def test_slices_join_to_the_whole_and_are_as_even_as_can_be(
    start: Any, length: Any, count: Any
) -> None:
    parts = [slice_of(start, start + length, i, count) for i in range(count)]
    assert [position for part in parts for position in part] == list(range(start, start + length))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
