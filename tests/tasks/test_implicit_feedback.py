"""Ranking one item among others: exact values, ties, and sums over any split."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdkit import metrics
from hvdkit.tasks import ImplicitFeedback
from hvdkit.tensors import NumpyOps

OPS = NumpyOps()


def records(scores: np.ndarray) -> dict[str, np.ndarray]:
    """Evaluation records whose items are numbered on, for `scores` (n, items)."""
    return {"user": np.arange(len(scores)), "items": np.arange(scores.size).reshape(scores.shape)}


def ranked(scores: Any, task: ImplicitFeedback | None = None, **more: Any) -> dict[str, float]:
    scores = np.asarray(scores, np.float32)
    task = task or ImplicitFeedback()
    batch = task.prepare({**records(scores), **more}, valid=True)
    return task.summarize(task.metrics(OPS, scores, batch))


def at_rank(rank: int, items: int = 101) -> np.ndarray:
    """Scores with the positive (the first) at `rank`."""
    scores = np.linspace(-1, 1, items - 1)[::-1]
    between = [2.0, *((scores[:-1] + scores[1:]) / 2), -2.0]
    return np.concatenate([[between[rank]], scores])


@pytest.mark.parametrize("rank", [0, 1, 2, 9, 10, 57, 100])
def test_one_record_by_its_rank(rank: int) -> None:
    found = ranked([at_rank(rank)])
    assert found["hit_rate_at_10"] == (rank < 10)
    assert found["ndcg_at_10"] == (1 / math.log2(rank + 2) if rank < 10 else 0)


def test_several_records_are_averaged_by_weight() -> None:
    scores = np.stack([at_rank(0), at_rank(2), at_rank(50), at_rank(0)])
    found = ranked(scores, weight=np.array([1, 1, 1, 0]))
    assert found["hit_rate_at_10"] == 2 / 3
    assert found["ndcg_at_10"] == pytest.approx((1 + 1 / 2) / 3, rel=1e-15)


def test_a_tie_counts_against_the_positive() -> None:
    assert ranked(np.zeros((1, 101)))["hit_rate_at_10"] == 0
    three_tied = np.zeros((1, 101)) - 1
    three_tied[0, :4] = 1
    assert ranked(three_tied)["ndcg_at_10"] == pytest.approx(1 / math.log2(5), rel=1e-15)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_score_that_is_no_number_never_hits() -> None:
    scores = np.stack([at_rank(0), at_rank(0)])
    scores[0, 0] = np.nan
    assert ranked(scores)["hit_rate_at_10"] == 0.5
    scores[1, :] = np.nan
    assert ranked(scores)["hit_rate_at_10"] == 0


def test_the_loss_is_the_mean_over_pairs() -> None:
    task = ImplicitFeedback()
    batch = task.prepare(
        {
            "user": np.array([[3, 3, 3], [4, 4, 4]]),
            "item": np.array([[0, 1, 2], [5, 6, 7]]),
            "label": np.array([[1, 0, 0], [1, 0, 0]]),
        },
        valid=True,
    )
    logits = np.log(np.array([[3, 1, 1], [1, 1 / 3, 3]], np.float64))
    expected = np.log([[4 / 3, 2, 2], [2, 4 / 3, 4]])
    np.testing.assert_allclose(task.losses(OPS, logits, batch), expected, rtol=1e-6)
    assert task.count(batch) == 6
    assert [x.tolist() for x in task.inputs(batch)] == [
        [[3, 3, 3], [4, 4, 4]],
        [[0, 1, 2], [5, 6, 7]],
    ]
    assert task.count({**batch, "weight": np.array([1.0, 0.0])}) == 3
    found = task.summarize(task.metrics(OPS, logits, batch))
    assert found["loss"] == pytest.approx(expected.mean(), rel=1e-6)


def test_a_batch_that_stands_in_weighs_nothing() -> None:
    task = ImplicitFeedback()
    batch = task.prepare(records(np.zeros((2, 5))), valid=False)
    sums = task.metrics(OPS, np.zeros((2, 5)), batch)
    assert task.count(batch) == 0
    assert all(not np.any(value) for value in sums.values())
    assert all(math.isnan(value) for value in task.summarize(sums).values())


def test_popularity_is_told_beside_the_model() -> None:
    popularity = np.zeros(10)
    popularity[[0, 5, 6]] = 5, 1, 7  # items 0 to 4 are the first record's, 5 to 9 the second's
    found = ranked(np.eye(5)[[4, 0]], ImplicitFeedback(popularity=popularity))
    assert found["popularity_ndcg_at_10"] == pytest.approx((1 + 1 / math.log2(3)) / 2, rel=1e-15)
    assert found["popularity_hit_rate_at_10"] == 1
    assert found["ndcg_at_10"] == pytest.approx((1 + 1 / math.log2(6)) / 2, rel=1e-15)
    assert not [name for name in ranked(np.eye(5)) if "popularity" in name]


@given(
    ranks=st.lists(st.integers(0, 30), min_size=2, max_size=12),
    cuts=st.sets(st.integers(1, 11), max_size=4),
)
def test_sums_do_not_depend_on_the_split(ranks: list[int], cuts: set[int]) -> None:
    task = ImplicitFeedback()
    scores = np.stack([at_rank(rank, items=31) for rank in ranks]).astype(np.float32)
    all_records = records(scores)
    edges = sorted({0, len(ranks), *(cut for cut in cuts if cut < len(ranks))})
    parts = []
    for lo, hi in pairwise(edges):
        part = {name: column[lo:hi] for name, column in all_records.items()}
        parts.append(task.metrics(OPS, scores[lo:hi], task.prepare(part, valid=True)))
    found, whole = task.summarize(metrics.add(parts)), ranked(scores)
    assert found.pop("loss") == pytest.approx(whole.pop("loss"), rel=1e-12)
    assert found == whole
