"""Classification against values worked out by hand, on NumPy and in both frameworks."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
import pytest

from hvdkit.tasks import Classification
from hvdkit.tensors import NumpyOps

TASK = Classification(layout="nhwc")
OPS = ["numpy", "torch", "tensorflow"]


def ops_of(framework: str) -> Any:
    if framework == "numpy":
        return NumpyOps()
    module = importlib.import_module(f"hvdkit.adapters.{framework}.ops")
    if framework == "torch":
        import torch

        return module.TorchOps(torch.device("cpu"))
    return module.TensorFlowOps()


@pytest.fixture(params=OPS)
def ops(request: pytest.FixtureRequest) -> Any:
    return ops_of(request.param)


def batch_of(ops: Any, labels: list[int], weights: list[float] | None = None) -> dict[str, Any]:
    weights = [1.0] * len(labels) if weights is None else weights
    return {
        "label": ops.array(np.array(labels)),
        "weight": ops.array(np.array(weights, np.float32)),
    }


def metrics(
    ops: Any, logits: list[list[float]], labels: list[int], weights: list[float] | None = None
) -> dict[str, float]:
    outputs = ops.array(np.array(logits, np.float32))
    sums = TASK.metrics(ops, outputs, batch_of(ops, labels, weights))
    return TASK.summarize({name: ops.numpy(value) for name, value in sums.items()})


def test_a_loss_is_the_labels_negative_log_likelihood_times_its_weight(ops: Any) -> None:
    # softmax of (0, log 3) is (1/4, 3/4).
    logits = ops.array(np.array([[0, math.log(3)]] * 3, np.float64))
    batch = batch_of(ops, [0, 1, 1], [1.0, 1.0, 0.0])
    batch["weight"] = ops.cast(batch["weight"], "float64")
    losses = ops.numpy(TASK.losses(ops, logits, batch))
    np.testing.assert_allclose(losses, [math.log(4), math.log(4 / 3), 0], rtol=1e-12)


def test_smoothing_mixes_the_target_with_the_uniform_distribution(ops: Any) -> None:
    task = Classification(layout="nhwc", label_smoothing=0.2)
    logits = ops.array(np.array([[0, math.log(3)]], np.float64))
    batch = batch_of(ops, [1])
    batch["weight"] = ops.cast(batch["weight"], "float64")
    # The target is (0.1, 0.9).
    expected = 0.1 * math.log(4) + 0.9 * math.log(4 / 3)
    np.testing.assert_allclose(ops.numpy(task.losses(ops, logits, batch)), [expected], rtol=1e-12)
    # What is reported of an evaluation is not smoothed.
    sums = task.metrics(ops, logits, batch)
    assert float(ops.numpy(sums["loss"])) == pytest.approx(math.log(4 / 3), rel=1e-12)


def test_metrics_are_means_over_what_records_weigh(ops: Any) -> None:
    rows = [[0.0, 1, 2, 3, 4, 5, 6]] * 4
    # Label 6 is first, 2 is fifth, 1 is sixth; the last record weighs nothing.
    found = metrics(ops, rows, [6, 2, 1, 6], [1, 1, 1, 0])
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["top5"] == pytest.approx(2 / 3)
    total = math.log(sum(math.exp(x) for x in range(7)))
    assert found["loss"] == pytest.approx(((total - 6) + (total - 2) + (total - 1)) / 3)
    assert set(found) == {"loss", "accuracy", "top5"}


def test_among_equals_the_first_classes_win(ops: Any) -> None:
    same = [[0.5] * 10] * 10
    found = metrics(ops, same, list(range(10)))
    assert found["accuracy"] == pytest.approx(0.1)
    assert found["top5"] == pytest.approx(0.5)
    # Four are ahead of class 4 and its equal 5: only one of the two has the fifth place.
    row = [9.0, 8, 7, 6, 1, 1, 0, 0]
    assert metrics(ops, [row, row], [4, 5])["top5"] == pytest.approx(0.5)


def test_with_five_classes_or_fewer_every_label_is_among_them(ops: Any) -> None:
    for classes in (2, 5):
        row = list(map(float, range(classes)))
        assert metrics(ops, [row] * classes, list(range(classes)))["top5"] == 1
    assert metrics(ops, [[0, 1, 2, 3, 4, 5.0]] * 6, list(range(6)))["top5"] == pytest.approx(5 / 6)


def test_what_is_no_number_is_not_among_the_first_five(ops: Any) -> None:
    assert metrics(ops, [[math.nan] * 10] * 10, list(range(10)))["top5"] == 0


def test_sums_of_parts_add_up_to_the_whole() -> None:
    ops = NumpyOps()
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(30, 12)), random.integers(0, 12, 30)

    def sums(rows: slice) -> dict[str, Any]:
        return TASK.metrics(ops, logits[rows], batch_of(ops, labels[rows].tolist()))

    whole, first, second = sums(slice(30)), sums(slice(11)), sums(slice(11, 30))
    for name, value in whole.items():
        assert first[name] + second[name] == pytest.approx(value)
    order = np.argsort(-logits, 1, kind="stable")
    found = TASK.summarize(whole)
    assert found["accuracy"] == np.mean(order[:, 0] == labels)
    assert found["top5"] == pytest.approx(np.mean((order[:, :5] == labels[:, None]).any(1)))


def test_a_traced_step_gives_the_same_sums() -> None:
    import tensorflow as tf

    ops = ops_of("tensorflow")
    logits = np.random.default_rng(1).normal(size=(9, 7)).astype(np.float32)
    labels = np.arange(9) % 7
    traced = tf.function(lambda outputs, batch: TASK.metrics(ops, outputs, batch))
    found = traced(tf.constant(logits), batch_of(ops, labels.tolist()))
    expected = TASK.metrics(NumpyOps(), logits, batch_of(NumpyOps(), labels.tolist()))
    for name, value in expected.items():
        assert found[name].numpy() == pytest.approx(value, rel=1e-5)


# ---- batches -----------------------------------------------------------------------------------


def records(**changed: Any) -> dict[str, np.ndarray]:
    image = np.arange(2 * 3 * 4 * 2, dtype=np.uint8).reshape(2, 3, 4, 2)
    return {"image": image, "label": np.array([1, 0], np.uint8), **changed}


def test_bytes_become_fractions_in_the_models_layout() -> None:
    for layout, axes in (("nhwc", (0, 1, 2, 3)), ("nchw", (0, 3, 1, 2))):
        task = Classification(layout=layout)  # type: ignore[arg-type]
        batch = task.prepare(records(), valid=True)
        image = records()["image"].transpose(axes) / 255
        np.testing.assert_allclose(batch["image"], image, rtol=1e-6)
        assert batch["image"].dtype == np.float32
        assert batch["image"].shape[1:] == task.input_shape((3, 4, 2))
        assert batch["label"].dtype == np.int64
        assert (batch["weight"].tolist(), task.count(batch)) == ([1, 1], 2)


def test_a_record_may_weigh_nothing_and_a_stand_in_always_does() -> None:
    weight = np.array([0, 1], np.float32)
    batch = TASK.prepare(records(weight=weight), valid=True)
    assert (batch["weight"].tolist(), TASK.count(batch)) == ([0, 1], 1)
    assert TASK.count(TASK.prepare(records(weight=weight), valid=False)) == 0
