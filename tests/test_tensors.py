"""NumPy, torch and TensorFlow mean the same by every tensor operation."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvdkit.tensors import NumpyOps, Ops


@pytest.fixture(scope="module")
def frameworks() -> list[Ops]:
    import torch

    from hvdkit.adapters.tensorflow.ops import TensorFlowOps
    from hvdkit.adapters.torch.ops import TorchOps

    return [TorchOps(torch.device("cpu")), TensorFlowOps()]


def variable(change: Callable) -> Callable:
    """An operation that makes a variable of x, changes it by y, and reads it."""

    def run(ops: Ops, x: Any, y: Any) -> Any:
        kept = ops.variable(ops.numpy(x))
        change(ops, kept, y)
        return ops.read(kept)

    return run


def sum_rows(ops: Ops, x: Any, y: Any) -> Any:
    """Rows come in any order: sorted here by summing them into a table."""
    rows, values = ops.sum_rows(ops.argmax(x), y)
    places = [ops.histogram(rows, values[:, i], 6) for i in range(y.shape[1])]
    return ops.histogram(rows, ops.cast(rows, "float64"), 6), ops.concat(places)


def dropped(ops: Ops, x: Any, y: Any) -> Any:
    """Rows of y without those where x begins with a negative number."""
    kept = ops.cast(x[:, :1] > 0, ops.dtype(y))
    return ops.drop_zero_rows(ops.argmax(x), y * kept)


# Each over x, y: (rows, columns); labels are x's own largest column, so that they are in range.
OPERATIONS: dict[str, Callable] = {
    "array": lambda ops, x, y: ops.array(ops.numpy(x), "float32"),
    "cast": lambda ops, x, y: ops.cast(x, "float32"),
    "cast to half": lambda ops, x, y: ops.cast(x, "float16"),
    "cast to whole numbers": lambda ops, x, y: ops.cast(x, "int64"),
    "zeros": lambda ops, x, y: ops.zeros(x.shape, ops.dtype(x)),
    "reshape": lambda ops, x, y: ops.reshape(x, (-1,)),
    "concat": lambda ops, x, y: ops.concat([x, y, x]),
    "sum": lambda ops, x, y: ops.sum(x),
    "sum_of_squares": lambda ops, x, y: ops.sum_of_squares(x),
    "sum over columns": lambda ops, x, y: ops.sum(x, -1),
    "exp": lambda ops, x, y: ops.exp(x / 10),
    "log": lambda ops, x, y: ops.log(x * x + 1.0),
    "is_finite": lambda ops, x, y: ops.cast(
        ops.is_finite(ops.where(x > 0, x, ops.array(np.array(np.inf, ops.dtype(x))))), "int64"
    ),
    "maximum": lambda ops, x, y: ops.maximum(x, y),
    "maximum with a number": lambda ops, x, y: ops.maximum(x, 0.5),
    "take_last": lambda ops, x, y: ops.take_last(y, ops.argmax(x)),
    "cross_entropy, smoothed": lambda ops, x, y: ops.cross_entropy(y, ops.argmax(x), smoothing=0.1),
    "cross_entropy of half precision": lambda ops, x, y: ops.cross_entropy(
        ops.cast(y, "float16"), ops.argmax(x)
    ),
    "binary_cross_entropy": lambda ops, x, y: ops.binary_cross_entropy(
        y, ops.cast(x > 0, ops.dtype(x))
    ),
    "histogram": lambda ops, x, y: ops.histogram(ops.argmax(x), y[:, 0], 6),
    "sum_rows, rows": lambda ops, x, y: sum_rows(ops, x, y)[0],
    "sum_rows": lambda ops, x, y: sum_rows(ops, x, y)[1],
    "drop_zero_rows, rows": lambda ops, x, y: dropped(ops, x, y)[0],
    "drop_zero_rows": lambda ops, x, y: dropped(ops, x, y)[1],
    "take_rows": lambda ops, x, y: ops.take_rows(ops.variable(ops.numpy(y)), ops.argmax(x) * 0),
    "put_rows": variable(
        lambda ops, kept, y: ops.put_rows(kept, ops.argmax(y[:1]) * 0, y[:1] * 2.0)
    ),
    "when": variable(
        lambda ops, kept, y: ops.when(
            ops.sum(y) > 0,
            lambda: ops.assign(kept, y),
            lambda: ops.assign_add(kept, y),
        )
    ),
    "copy": lambda ops, x, y: ops.copy(ops.variable(ops.numpy(x))),
    "sqrt": lambda ops, x, y: ops.sqrt(x * x),
    "abs": lambda ops, x, y: ops.abs(x),
    "round": lambda ops, x, y: ops.round(x * 2.0) + ops.round(y - y + 2.5),
    "round in place": lambda ops, x, y: ops.round(x, out=y * 1.0),
    "multiply": lambda ops, x, y: ops.multiply(x, ops.sum(y, -1)[:, None]),
    "multiply in place": lambda ops, x, y: ops.multiply(x, y, out=y * 1.0),
    "max": lambda ops, x, y: ops.max(x, 0),
    "matmul": lambda ops, x, y: ops.matmul(x, y, transpose_y=True),
    "matmul, turned": lambda ops, x, y: ops.matmul(x, y, transpose_x=True),
    "kth_largest": lambda ops, x, y: ops.kth_largest(x[0], (x.shape[1] + 1) // 2),
    "nonzero": lambda ops, x, y: ops.nonzero(x[0] > 0),
    "zero_at": lambda ops, x, y: ops.zero_at(y[0] * 1.0, ops.nonzero(x[0] > 0)),
    "add_rows": lambda ops, x, y: ops.add_rows(x * 1.0, 1, y[1:]),
    "bfloat16_bits": lambda ops, x, y: ops.bfloat16_bits(x),
    "from_bfloat16_bits": lambda ops, x, y: ops.from_bfloat16_bits(ops.bfloat16_bits(x), "float32"),
    "in_pieces": lambda ops, x, y: ops.concat(ops.in_pieces(lambda a, b: (a - b, a * b), x, y)),
    "in_pieces, out": lambda ops, x, y: ops.in_pieces(
        lambda a, b: (a - b, ops.sum(b, -1)), x, y, out=y * 1.0
    )[0],
    "join": lambda ops, x, y: ops.join([x, y[1:]], out=x),
    "replace": variable(lambda ops, kept, y: ops.replace(kept, y * 1.0)),
    "nbytes": lambda ops, x, y: ops.array(np.array(float(ops.nbytes(x)))),
    "where": lambda ops, x, y: ops.where(x < y, x, y * 2.0),
    "minimum": lambda ops, x, y: ops.minimum(x, y),
    "minimum with a number": lambda ops, x, y: ops.minimum(ops.sum(x), 1.0),
    "add_scaled": lambda ops, x, y: ops.add_scaled(x, y, 0.25),
    "add_scaled in place": lambda ops, x, y: ops.add_scaled(x, y, 0.25, out=y * 1.0),
    "argmax": lambda ops, x, y: ops.argmax(x),
    "cross_entropy": lambda ops, x, y: ops.cross_entropy(y, ops.argmax(x)),
    "variable": variable(lambda ops, kept, y: None),
    "assign": variable(lambda ops, kept, y: ops.assign(kept, y)),
    "assign_add": variable(lambda ops, kept, y: ops.assign_add(kept, y)),
    "arithmetic": lambda ops, x, y: (x - 2.0 * y) / (x * x + 1.0),
    "comparison": lambda ops, x, y: ops.cast(x < y, "float32"),
    "slice": lambda ops, x, y: x[1:],
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(rows=st.integers(1, 5), columns=st.integers(1, 5), seed=st.integers(0, 2**32))
@settings(max_examples=8)
def test_the_three_agree(
    frameworks: Any, name: str, dtype: str, rows: Any, columns: Any, seed: Any
) -> None:
    random = np.random.default_rng(seed)
    x, y = (10 * random.normal(size=(2, rows, columns))).astype(dtype)
    reference = NumpyOps()
    expected = OPERATIONS[name](reference, reference.array(x), reference.array(y))
    for ops in frameworks:
        result = OPERATIONS[name](ops, ops.array(x), ops.array(y))
        value = ops.numpy(result)
        assert ops.dtype(result) == value.dtype.name == expected.dtype.name
        assert value.shape == expected.shape
        bound = 1e-5 if expected.dtype == np.float32 else 1e-12
        np.testing.assert_allclose(value, expected, rtol=bound, atol=bound)


def test_each_is_an_ops(frameworks: Any) -> None:
    for ops in [NumpyOps(), *frameworks]:
        assert isinstance(ops, Ops)


def test_every_operation_is_compared() -> None:
    declared = {name for name, value in vars(Ops).items() if callable(value) and name[0] != "_"}
    compared = set(OPERATIONS) | {"numpy", "dtype", "read"}  # these carry every comparison
    assert declared <= compared | {"clock"}


def test_every_clock_is_the_same_and_goes_on(frameworks: Any) -> None:
    all_ops = [NumpyOps(), *frameworks]
    after = [(ops, ops.array(np.ones(3))) for ops in all_ops]
    before = time.time()
    for ops, x in after:
        now = ops.clock([x])
        assert ops.dtype(now) == "float64"
        assert ops.numpy(now).shape == ()
        assert before - 1e-4 <= float(ops.numpy(now)) <= time.time() + 1e-4
        before = float(ops.numpy(now))


def test_a_copy_keeps_the_value_a_variable_had(frameworks: Any) -> None:
    for ops in [NumpyOps(), *frameworks]:
        kept = ops.variable(np.ones(3))
        before = ops.copy(kept)
        ops.assign_add(kept, ops.array(np.ones(3)))
        assert ops.numpy(before).tolist() == [1.0] * 3
        assert ops.numpy(kept).tolist() == [2.0] * 3


@pytest.mark.parametrize("change", ["assign", "assign_add"])
def test_a_variable_shares_no_memory_with_its_first_value(frameworks: Any, change: str) -> None:
    for ops in [NumpyOps(), *frameworks]:
        started_from, added = np.ones(3), np.full(3, 5.0)
        kept = ops.variable(started_from)
        getattr(ops, change)(kept, ops.array(added))
        assert started_from.tolist() == [1.0] * 3
        assert added.tolist() == [5.0] * 3


def test_numbers_that_are_none_keep_being_so_in_two_bytes(frameworks: Any) -> None:
    odd = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 3.4e38], np.float32)
    odd = np.append(odd, np.array([0x7F800001], np.uint32).view(np.float32))  # NaN by its last bit
    for ops in [NumpyOps(), *frameworks]:
        back = ops.numpy(ops.from_bfloat16_bits(ops.bfloat16_bits(ops.array(odd)), "float32"))
        np.testing.assert_array_equal(np.isnan(back), np.isnan(odd))
        np.testing.assert_array_equal(back[1:5], odd[1:5])


def test_the_largest_of_what_holds_no_number_is_none(frameworks: Any) -> None:
    x = np.array([[1.0, np.nan, 2.0], [np.nan, np.inf, 0.0], [3.0, -np.inf, 1.0]])
    for ops in [NumpyOps(), *frameworks]:
        np.testing.assert_array_equal(ops.numpy(ops.max(ops.array(x), -1)), [np.nan, np.nan, 3.0])


def test_torch_works_in_many_pieces_and_takes_its_own_parts_for_the_whole() -> None:
    import torch

    from hvdkit.adapters.torch import ops as torch_ops

    ops, reference = torch_ops.TorchOps(torch.device("cpu")), NumpyOps()
    rows = torch_ops._PIECE // 8 + 100
    x = np.random.default_rng(0).normal(size=(rows, 32))

    def function(a: Any) -> tuple[Any, Any]:
        return a * 2.0, a[:, 0] * 3.0

    place = torch.zeros(rows, 32, dtype=torch.float64)
    found = ops.in_pieces(function, torch.from_numpy(x), out=place)
    assert found[0] is place
    for result, expected in zip(found, reference.in_pieces(function, x), strict=True):
        np.testing.assert_array_equal(result.numpy(), expected)
    assert ops.join([place[:5], place[5:]], out=place) is place
    parts = [place[:5] + 1.0, place[5:]]
    np.testing.assert_array_equal(ops.join(parts, out=place).numpy(), np.concatenate(parts))
