"""Batches: the global batch is the same whatever the workers and microbatches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvdkit.data import ArraySource
from hvdkit.data.order import Order
from hvdkit.errors import HvdkitError
from tests.numpy_adapter import eval_data, train_data

RECORDS = 13


def numbered(count: int = RECORDS) -> ArraySource:
    """Records whose label is their number."""
    return ArraySource(image=np.zeros((count, 1, 1, 1), np.float32), label=np.arange(count))


class Plain:
    """A user's own source: nothing but a length and records."""

    def __len__(self) -> int:
        return RECORDS

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": np.zeros((1, 1, 1), np.float32), "label": np.int64(index)}


def labels(batch: dict[str, np.ndarray]) -> list[int]:
    """The records of a batch that count."""
    assert set(batch["weight"].tolist()) <= {0.0, 1.0}
    return batch["label"][batch["weight"] > 0].tolist()


def seen(data: Any, *, start: int, stop: int, count: int, samples: int | None = None) -> list:
    """For each step, the records of all replicas' microbatches, joined."""
    replicas = [
        list(data.batches(start=start, stop=stop, replica=(i, count), samples=samples))
        for i in range(count)
    ]
    return [
        [label for micro in step for batch in micro for label in labels(batch)]
        for step in zip(*replicas, strict=True)
    ]


@given(
    batch_size=st.integers(1, 9),
    count=st.integers(1, 5),
    accumulate=st.integers(1, 3),
    start=st.integers(0, 4),
    seed=st.integers(0, 99),
)
@settings(max_examples=25)
def test_replicas_and_microbatches_join_to_the_orders_next_samples(
    batch_size: Any, count: Any, accumulate: Any, start: Any, seed: Any
) -> None:
    data = train_data(numbered(), batch_size=batch_size, accumulate=accumulate, seed=seed)
    order = Order(RECORDS, seed=seed, shuffle=True)
    found = seen(data, start=start, stop=start + 3, count=count)
    for step, records in enumerate(found, start=start):
        expected = order[range(step * batch_size, (step + 1) * batch_size)]
        assert records == expected.tolist()


def test_batches_straddle_epochs() -> None:
    data = train_data(numbered(), batch_size=5, shuffle=False)
    found = seen(data, start=2, stop=3, count=2)
    assert found == [[10, 11, 12, 0, 1]]


@pytest.mark.parametrize("count", range(1, 6))
def test_a_run_of_whole_epochs_ends_in_a_short_batch(count: int) -> None:
    data = train_data(numbered(), batch_size=5)
    samples = data.samples_in(2)
    found = seen(data, start=0, stop=6, count=count, samples=samples)
    assert [len(step) for step in found] == [5, 5, 5, 5, 5, 1]
    assert sorted(label for step in found for label in step) == sorted(2 * list(range(RECORDS)))


def test_an_empty_slice_stands_in_with_weight_nothing() -> None:
    data = train_data(numbered(), batch_size=2, accumulate=2)
    (microbatches,) = data.batches(start=0, stop=1, replica=(2, 3))
    assert len(microbatches) == 2
    for batch in microbatches:
        assert len(batch["label"]) > 0
        assert batch["weight"].sum() == 0
        assert data.task.count(batch) == 0


@pytest.mark.parametrize("prefetch", [0, 3])
def test_making_batches_ahead_changes_none(prefetch: int) -> None:
    data = train_data(numbered(), batch_size=4, prefetch=prefetch)
    plain = train_data(numbered(), batch_size=4)
    assert seen(data, start=3, stop=9, count=2) == seen(plain, start=3, stop=9, count=2)


@given(batch_size=st.integers(1, 9), count=st.integers(1, 5), length=st.integers(1, 13))
def test_evaluation_covers_each_record_once(batch_size: int, count: int, length: int) -> None:
    data = eval_data(numbered(length), batch_size=batch_size)
    batches = [batch for i in range(count) for batch in data.batches((i, count))]
    assert [label for batch in batches for label in labels(batch)] == list(range(length))
    assert all(1 <= len(batch["label"]) <= batch_size for batch in batches)


def test_a_source_needs_no_take() -> None:
    taken = train_data(numbered(), batch_size=4)
    plain = train_data(Plain(), batch_size=4)
    assert seen(plain, start=0, stop=8, count=3) == seen(taken, start=0, stop=8, count=3)
    (batch,) = eval_data(Plain()).batches((0, 1))
    assert labels(batch) == list(range(RECORDS))


def test_empty_data_is_refused() -> None:
    with pytest.raises(HvdkitError, match="training data is empty"):
        train_data(numbered(0))
    with pytest.raises(HvdkitError, match="evaluation data is empty"):
        eval_data(numbered(0))
