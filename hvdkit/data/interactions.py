"""Who came to which item: implicit feedback, split, sampled and ranked as in He et al. 2017.

Of each user the latest interaction is kept for evaluation, to be ranked among items the user
never came to; the others are trained on, each beside items sampled anew every time ("Neural
collaborative filtering", arXiv:1708.05031, section 4.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hvdkit.data.keys import fractions, integers, position_keys
from hvdkit.data.sources import BatchSource, Dataset
from hvdkit.errors import HvdkitError

_EVALUATION_SEED = 1  # of the items that positives are ranked among: fixed, whatever the run's


@dataclass(frozen=True, kw_only=True)
class RankingDataset(Dataset):
    """Interactions of users and items; `popularity` (items,) counts those trained on."""

    users: int
    items: int
    popularity: np.ndarray

    @property
    def sizes(self) -> dict[str, Any]:
        """What a model for it is made of."""
        return {"users": self.users, "items": self.items}


class History:
    """The items each user came to, for drawing ones that the user did not.

    `users` and `items` (int64) are the interactions, in ascending order of users and then of
    items, none twice. What is not among a user's items is numbered 0, 1, 2 ... in ascending
    order, and number m is found by bisection in what the user's own items leave out below them:
    a uniform draw takes one number, and no trial and error.
    """

    def __init__(self, users: np.ndarray, items: np.ndarray, *, shape: tuple[int, int]):
        self.users, self.items = shape
        counts = np.bincount(users, minlength=self.users)
        self.starts = np.concatenate([[0], np.cumsum(counts)])
        self.unseen = self.items - counts
        # How many unseen items are below each interaction's, in one ascending array of all users.
        below = items - (np.arange(len(users)) - self.starts[users])
        self._below = users * (self.items + 1) + below

    def pick(self, users: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Items number `numbers` (n, k) among those that `users` (n,) did not come to."""
        wanted = users[:, None] * (self.items + 1) + numbers
        passed = np.searchsorted(self._below, wanted, side="right")
        return numbers + passed - self.starts[users][:, None]

    def sample(self, users: np.ndarray, keys: np.ndarray, count: int) -> np.ndarray:
        """`count` items (n, count) that each user did not come to, uniform and independent."""
        numbers = fractions(keys, count) * self.unseen[users][:, None]
        return self.pick(users, numbers.astype(np.int64))

    def sample_distinct(self, users: np.ndarray, keys: np.ndarray, count: int) -> np.ndarray:
        """The same, none twice: Floyd's algorithm (Bentley & Floyd 1987, CACM 30:9), a column
        at a time. Every user must have `count` such items."""
        unseen = self.unseen[users]
        drawn = fractions(keys, count)
        chosen = np.full((len(users), count), -1, np.int64)
        for column in range(count):
            last = unseen - count + column
            number = (drawn[:, column] * (last + 1)).astype(np.int64)
            taken = (chosen[:, :column] == number[:, None]).any(1)
            chosen[:, column] = np.where(taken, last, number)
        return self.pick(users, chosen)


class TrainPairs(BatchSource):
    """An interaction beside `negatives` items that the user did not come to in training:
    {"user", "item", "label"}, each (1 + negatives,)."""

    def __init__(self, users: np.ndarray, items: np.ndarray, history: History, *, negatives: int):
        self._users, self._items = users, items
        self._history, self._negatives = history, negatives
        self._label = np.zeros(1 + negatives, np.float32)
        self._label[0] = 1

    def __len__(self) -> int:
        return len(self._users)

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return self.draw(indices, position_keys(0, indices))

    def draw(self, indices: np.ndarray, keys: np.ndarray) -> dict[str, np.ndarray]:
        users = self._users[indices].astype(np.int64)
        sampled = self._history.sample(users, keys, self._negatives)
        return {
            "user": np.repeat(users[:, None], 1 + self._negatives, 1),
            "item": np.concatenate([self._items[indices][:, None], sampled], 1),
            "label": np.repeat(self._label[None], len(users), 0),
        }


class HeldOut(BatchSource):
    """A user's held-out item, then `negatives` distinct others that the user never came to:
    {"user": (), "items": (1 + negatives,)}. They are the same at every evaluation and run."""

    def __init__(self, users: np.ndarray, items: np.ndarray, history: History, *, negatives: int):
        self._users, self._items = users, items
        self._history, self._negatives = history, negatives

    def __len__(self) -> int:
        return len(self._users)

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        users = self._users[indices].astype(np.int64)
        keys = position_keys(_EVALUATION_SEED, users)
        others = self._history.sample_distinct(users, keys, self._negatives)
        return {"user": users, "items": np.concatenate([self._items[indices][:, None], others], 1)}


def leave_one_out(
    users: np.ndarray,
    items: np.ndarray,
    times: np.ndarray,
    *,
    negatives: int,
    evaluation_negatives: int,
    **more: Any,
) -> RankingDataset:
    """A ranking dataset of interactions (n,): identifiers are any integers, and so are times.

    Of several interactions of a user with an item the latest counts. A user's interaction with
    the latest time is held out, that with the highest item identifier where times are equal; a
    user with one alone is only trained on. Items sampled in training may be the held-out one,
    as far as the model can know: leaving it out would tell the model which it is.

    `more` goes to the dataset. Raises `HvdkitError` if there is nothing to train on or to hold
    out, or too few other items to draw from.
    """
    if not len(users):
        raise HvdkitError("there is no interaction: nothing to train on")
    user_names, users = _numbered(users)
    item_names, items = _numbered(items)
    shape = (len(user_names), len(item_names))
    users, items, times = _latest_of_each_pair(users, items, times)
    counts = np.bincount(users, minlength=shape[0])
    held = np.zeros(len(users), bool)
    held[_latest_of_each_user(times, counts)] = True
    held &= counts[users] > 1
    if not held.any():
        raise HvdkitError("no user has two interactions: there is nothing to hold out and rank")
    history = History(users[~held], items[~held], shape=shape)
    everything = History(users, items, shape=shape)
    _check_enough(history.unseen, 1, user_names, "data.source.negatives to be drawn")
    _check_enough(
        everything.unseen[users[held]],
        evaluation_negatives,
        user_names[users[held]],
        f"data.source.evaluation_negatives={evaluation_negatives}",
    )
    return RankingDataset(
        train=TrainPairs(
            users[~held].astype(np.int32),
            items[~held].astype(np.int32),
            history,
            negatives=negatives,
        ),
        evaluation=HeldOut(users[held], items[held], everything, negatives=evaluation_negatives),
        users=shape[0],
        items=shape[1],
        popularity=np.bincount(items[~held], minlength=shape[1]),
        **more,
    )


def _numbered(names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct `names` (integers) in ascending order, and the number of each given one."""
    if len(names) and names.min() >= 0 and names.max() <= 4 * len(names):
        present = np.bincount(names) > 0  # a look-up is ten times as fast as the general way
        return np.flatnonzero(present), (np.cumsum(present) - 1)[names]
    return np.unique(names, return_inverse=True)


def _latest_of_each_pair(
    users: np.ndarray, items: np.ndarray, times: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The interactions in ascending order of users and items, of equal pairs the latest."""
    pairs = users * (items.max(initial=0) + 1) + items
    order = np.argsort(pairs, kind="stable")
    if (np.diff(pairs[order]) == 0).any():
        order = np.lexsort((times, pairs))
        order = order[np.append(np.diff(pairs[order]) != 0, True)]
    return users[order], items[order], times[order]


def _latest_of_each_user(times: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Where each user's latest interaction is, of equal ones the last; `times` holds `counts`
    of them for one user after the other, 1 at least."""
    ends = np.cumsum(counts)
    latest = np.repeat(np.maximum.reduceat(times, ends - counts), counts)
    where = np.flatnonzero(times == latest)
    owner = np.searchsorted(ends, where, side="right")
    return where[np.append(np.diff(owner) != 0, True)]


def _check_enough(unseen: np.ndarray, needed: int, names: np.ndarray, what: str) -> None:
    if unseen.min() < needed:
        worst = int(unseen.argmin())
        raise HvdkitError(
            f"user {names[worst]} did not come to {unseen[worst]} of the items, too few for "
            f"{what}: lower it, or give data with more items"
        )


def tastes(
    *,
    users: int = 2000,
    items: int = 1000,
    factors: int = 8,
    interactions: int = 30,
    taste: float = 2.0,
    popularity: float = 1.0,
    seed: int = 0,
    negatives: int = 4,
    evaluation_negatives: int = 100,
) -> RankingDataset:
    """Made-up users with tastes, and items of unlike popularity: the built-in set.

    Users and items are random directions in `factors` dimensions. A user's liking of an item is
    `taste` times the product of theirs, scaled to variance 1, plus the item's log popularity,
    which falls off as rank to the power -`popularity` (Zipf). Each user comes to `interactions`
    items on average, at least 5, drawn without replacement with odds that are the exponential
    of the liking (Gumbel's maxima: Kool et al. 2019, arXiv:1903.06059), in random order of time.

    So popularity alone tells much, a user's tastes tell more, and chance keeps even one who
    knows all of these numbers well below 1.
    """
    normals = _normals(seed, (users + items) * factors).reshape(-1, factors)
    directions = normals / np.linalg.norm(normals, axis=1, keepdims=True)
    liking = directions[:users] @ directions[users:].T * (taste * np.sqrt(factors))
    ranks = np.argsort(np.argsort(fractions(position_keys(seed, range(items)), 1, stream=2)[:, 0]))
    liking -= popularity * np.log(ranks + 1)
    keys = position_keys(seed, range(users))
    gumbel = -np.log(-np.log(fractions(keys, items, stream=3) + 2.0**-54))
    # A user's number of items is 5 and a geometric number on top, as few have very many.
    spare = np.log1p(-fractions(keys, 1, stream=4)[:, 0]) * -max(interactions - 5, 0)
    counts = np.minimum(5 + spare.astype(np.int64), items // 2)
    best = np.argsort(-(liking + gumbel), axis=1, kind="stable")
    chosen = np.arange(items) < counts[:, None]
    who = np.repeat(np.arange(users), counts)
    times = integers(keys, items, 2**31, stream=5)
    return leave_one_out(
        who,
        best[chosen],
        times[chosen],
        negatives=negatives,
        evaluation_negatives=evaluation_negatives,
    )


def _normals(seed: int, count: int) -> np.ndarray:
    """Normal numbers by Box & Muller's transform."""
    radius, angle = fractions(position_keys(seed, range(count)), 2, stream=1).T
    return np.sqrt(-2 * np.log1p(-radius)) * np.cos(2 * np.pi * angle)
