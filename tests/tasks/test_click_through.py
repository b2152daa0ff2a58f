"""Click-through: log loss by hand, and the area under the ROC curve beside scikit-learn's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from hvdkit import metrics
from hvdkit.tasks import ClickThrough
from hvdkit.tasks.click_through import area
from hvdkit.tensors import NumpyOps

OPS, TASK = NumpyOps(), ClickThrough()


def sums(logits: np.ndarray, label: np.ndarray, *, valid: bool = True) -> dict[str, np.ndarray]:
    records: dict[str, np.ndarray] = {
        "dense": np.zeros((len(label), 2)),
        "categories": np.zeros((len(label), 3), np.int32),
        "label": label.astype(np.uint8),
    }
    return TASK.metrics(OPS, logits, TASK.prepare(records, valid=valid))


def summary(logits: np.ndarray, label: np.ndarray) -> dict[str, float]:
    return TASK.summarize(sums(logits, label))


def test_by_hand() -> None:
    logits = np.log(np.array([3, 1 / 3, 1 / 7, 3]))
    found = summary(logits, np.array([1, 1, 0, 0]))
    assert found["loss"] == pytest.approx(np.log([4 / 3, 4, 8 / 7, 4]).mean(), rel=1e-6)
    assert found["accuracy"] == 0.5
    assert found["auc"] == (1 + 0.5 + 1 + 0) / 4  # the click at log 3 ties with one of the rest


def test_an_area_counts_half_for_ties_in_a_bin() -> None:
    assert area(np.array([2.0, 1, 0]), np.array([0.0, 1, 3])) == (3 * 3 + 2.5) / 12
    assert math.isnan(area(np.zeros(3), np.ones(3)))


def sample(seed: int, centre: float, spread: float, share: float, gap: float) -> tuple:
    random = np.random.default_rng(seed)
    label = random.random(4000) < share
    label[:2] = 0, 1
    logits = centre + spread * (random.normal(size=4000) + gap * label)
    return logits.astype(np.float32), label.astype(int)


@given(
    seed=st.integers(0, 1000),
    centre=st.floats(-5, 5),
    spread=st.floats(-3, 1).map(lambda exponent: 10**exponent),
    share=st.floats(0.02, 0.9),
    gap=st.floats(0, 3),
)
def test_the_area_is_scikit_learns(
    seed: int, centre: float, spread: float, share: float, gap: float
) -> None:
    logits, label = sample(seed, centre, spread, share, gap)
    expected = roc_auc_score(label, logits.astype(np.float64))
    assert summary(logits, label)["auc"] == pytest.approx(expected, abs=1e-3)


def test_scores_beyond_all_bounds_keep_their_sides() -> None:
    logits = np.array([-1e30, 1e30, np.inf, -np.inf, 0.0])
    with np.errstate(invalid="ignore"):
        assert summary(logits, np.array([0, 1, 1, 0, 1]))["auc"] == 1
        found = summary(np.array([np.nan, 1.0, -1.0]), np.array([1, 1, 0]))
    assert found["auc"] == 1  # as 0, between the two
    assert math.isnan(found["loss"])


def test_sums_over_parts_give_the_whole() -> None:
    logits, label = sample(0, -1, 0.5, 0.3, 1)
    parts = [sums(logits[lo:hi], label[lo:hi]) for lo, hi in ((0, 7), (7, 3000), (3000, 4000))]
    parts.append(sums(logits[:5], label[:5], valid=False))
    found, whole = TASK.summarize(metrics.add(parts)), summary(logits, label)
    assert found.pop("loss") == pytest.approx(whole.pop("loss"), rel=1e-9)
    assert found == whole


def test_the_training_loss_is_weighed() -> None:
    records = {
        "dense": np.array([[1.0], [2.0]]),
        "categories": np.array([[5], [6]], np.int32),
        "label": np.array([1, 0], np.uint8),
        "weight": np.array([1, 0]),
    }
    batch = TASK.prepare(records, valid=True)
    losses = TASK.losses(OPS, np.zeros(2, np.float32), batch)
    assert losses.tolist() == pytest.approx([math.log(2), 0])
    assert TASK.count(batch) == 1
    dense, categories = TASK.inputs(batch)
    assert (dense.tolist(), categories.tolist()) == ([[1.0], [2.0]], [[5], [6]])
    assert categories.dtype == np.int64
