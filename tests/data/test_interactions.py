"""Leave-one-out splits, sampled items, and the built-in set."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdkit.data import RankingDataset, tastes
from hvdkit.data.interactions import History, leave_one_out
from hvdkit.data.keys import position_keys
from hvdkit.data.sources import take
from hvdkit.errors import HvdkitError


def split(rows: list[tuple[int, int, int]], **options: Any) -> RankingDataset:
    """`rows` are (user, item, time)."""
    users, items, times = np.array(rows, np.int64).reshape(-1, 3).T
    return leave_one_out(
        users, items, times, **{"negatives": 2, "evaluation_negatives": 1} | options
    )


def trained(data: RankingDataset) -> set[tuple[int, int]]:
    records = take(data.train, range(len(data.train)))
    return set(zip(records["user"][:, 0].tolist(), records["item"][:, 0].tolist(), strict=True))


def held_out(data: RankingDataset) -> set[tuple[int, int]]:
    records = take(data.evaluation, range(len(data.evaluation)))
    return set(zip(records["user"].tolist(), records["items"][:, 0].tolist(), strict=True))


ROWS = [
    *((70, 100, 5), (70, 200, 9), (70, 300, 1)),
    *((-2, 400, 3), (-2, 300, 3), (-2, 100, 2)),  # a tie: the higher item is held out
    (9, 200, 4),  # one alone is trained on
    *((80, 100, 8), (80, 500, 1), (80, 100, 0)),  # the same item twice: the latest counts
]


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_the_latest_of_each_user_is_held_out_whatever_the_order(order: slice) -> None:
    data = split(ROWS[order])
    assert (data.users, data.items) == (4, 5)  # users -2 9 70 80, items 100 200 300 400 500
    assert held_out(data) == {(0, 3), (2, 1), (3, 0)}
    assert trained(data) == {(0, 2), (0, 0), (1, 1), (2, 0), (2, 2), (3, 4)}
    assert data.popularity.tolist() == [2, 1, 2, 0, 1]
    assert data.sizes == {"users": 4, "items": 5}


def test_identifiers_may_be_far_apart() -> None:
    data = split([(10**12, 10**15, 1), (10**12, 7, 2), (5, 8, 3), (5, 10**15, 1)])
    assert (data.users, data.items) == (2, 3)
    assert held_out(data) == {(1, 0), (0, 1)}


@given(
    seen=st.lists(st.sets(st.integers(0, 11), max_size=11), min_size=1, max_size=5),
    seed=st.integers(0, 99),
)
def test_sampled_items_are_unseen_and_each_can_come(seen: list[set[int]], seed: int) -> None:
    found = [(user, item) for user, own in enumerate(seen) for item in sorted(own)]
    pairs = np.array(found, np.int64).reshape(-1, 2)
    history = History(pairs[:, 0], pairs[:, 1], shape=(len(seen), 12))
    for user, own in enumerate(seen):
        unseen = sorted(set(range(12)) - own)
        numbers = np.arange(len(unseen))[None]
        assert history.pick(np.array([user]), numbers)[0].tolist() == unseen
    users = np.arange(len(seen)).repeat(40)
    drawn = history.sample(users, position_keys(seed, range(len(users))), 3)
    for user, own in enumerate(seen):
        assert not own & set(drawn[users == user].ravel().tolist())
    least = 12 - max(map(len, seen))
    distinct = history.sample_distinct(users, position_keys(seed, range(len(users))), least)
    for user, row in zip(users.tolist(), distinct.tolist(), strict=True):
        assert len(set(row)) == least
        assert not seen[user] & set(row)


def test_sampling_is_uniform() -> None:
    own = np.array([0, 3, 4, 9])
    history = History(np.zeros(4, np.int64), own, shape=(1, 10))
    users, keys = np.zeros(20_000, np.int64), position_keys(3, range(20_000))
    for drawn in (history.sample(users, keys, 2), history.sample_distinct(users, keys, 2)):
        counts = np.bincount(drawn.ravel(), minlength=10)
        assert counts[own].tolist() == [0] * 4
        assert np.delete(counts, own) == pytest.approx(np.full(6, 40_000 / 6), rel=0.05)


def test_training_records_depend_on_their_keys_alone() -> None:
    source = tastes(users=30, items=60, interactions=8, evaluation_negatives=20).train
    indices, keys = np.array([5, 17, 5]), position_keys(1, range(3))
    drawn = source.draw(indices, keys)  # type: ignore[attr-defined]
    for i in range(3):
        one = source.draw(indices[i : i + 1], keys[i : i + 1])  # type: ignore[attr-defined]
        for name, column in one.items():
            np.testing.assert_array_equal(column[0], drawn[name][i])
    assert drawn["label"].tolist() == [[1, 0, 0, 0, 0]] * 3
    assert drawn["item"][0, 0] == drawn["item"][2, 0]
    assert drawn["item"][0, 1:].tolist() != drawn["item"][2, 1:].tolist()
    assert (drawn["user"] == drawn["user"][:, :1]).all()


def test_evaluation_records_are_fixed_and_hold_what_no_one_saw() -> None:
    options: dict[str, Any] = {"users": 30, "items": 60, "interactions": 8, "negatives": 1}
    data = tastes(**options, evaluation_negatives=20)
    again = tastes(**options, evaluation_negatives=20)
    every = range(len(data.evaluation))
    records, same = take(data.evaluation, every), take(again.evaluation, every)
    np.testing.assert_array_equal(records["items"], same["items"])
    assert records["items"].shape == (len(data.evaluation), 21)
    np.testing.assert_array_equal(data.evaluation[3]["items"], records["items"][3])
    seen = trained(data) | held_out(data)
    for user, items in zip(records["user"].tolist(), records["items"].tolist(), strict=True):
        assert len(set(items)) == 21
        assert not {(user, item) for item in items[1:]} & seen


def test_what_cannot_be_split_or_ranked_is_refused() -> None:
    with pytest.raises(HvdkitError, match="no user has two interactions"):
        split([(1, 1, 1), (2, 2, 2)])
    with pytest.raises(HvdkitError, match="there is no interaction"):
        split([])
    rows = [(1, 1, 1), (1, 2, 2), (7, 1, 1), (7, 2, 5), (7, 3, 1)]
    with pytest.raises(HvdkitError, match=r"user 7 did not come to 0 of the items.*=1"):
        split(rows)
    with pytest.raises(HvdkitError, match=r"user 1 did not come to 2 .*evaluation_negatives=5"):
        split([(1, 1, 1), (1, 2, 2), (2, 3, 1), (2, 4, 5)], evaluation_negatives=5)


def test_a_batch_is_drawn_in_milliseconds() -> None:
    data = tastes()
    indices, keys = np.arange(2048), position_keys(0, range(2048))
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        data.train.draw(indices, keys)  # type: ignore[attr-defined]
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.03


def test_the_built_in_set_has_both_popularity_and_taste() -> None:
    data = tastes(users=300, items=200)
    counts = np.sort(data.popularity)[::-1]
    assert counts[:20].sum() > 3 * counts[100:120].sum() > 0
    histories = np.zeros((300, 200))
    users, items = np.array(sorted(trained(data))).T
    histories[users, items] = 1
    # Two users' items go together beyond what popularity makes them: some tastes are alike.
    expected = np.outer(histories.sum(1), histories.sum(0)) / histories.sum()
    strength = np.linalg.svd(histories - expected, compute_uv=False)
    shuffled = np.random.default_rng(0).permuted(histories - expected, axis=0)
    assert strength[0] > 1.3 * np.linalg.svd(shuffled, compute_uv=False)[0]
    assert data.users == 300
