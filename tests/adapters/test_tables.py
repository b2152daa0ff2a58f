"""Tables whose gradients travel as rows train as dense ones do, and touch those rows alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hvdkit.adapters.base import Adapter
from hvdkit.comm import Comm, Done, SoloComm
from hvdkit.comm.threads import run_ranks
from hvdkit.data import ArraySource, TrainData
from hvdkit.errors import HvdkitError
from hvdkit.gradients.buckets import ParamSpec
from hvdkit.optimizers import LAMB, SGD, Adam, Optimizer
from hvdkit.strategies import AllReduce, Parameter
from hvdkit.tasks import Classification
from hvdkit.tensors import NumpyOps

ROWS, WIDTH, CLASSES = 40, 3, 3
USED = 20  # the data names rows below this


class Lookup(Classification):
    """Records of four row numbers each, which stand in the place of pixels."""

    def prepare(self, records: Any, *, valid: bool) -> dict[str, np.ndarray]:
        batch = super().prepare(records, valid=valid)
        return {**batch, "image": records["image"].astype(np.int64)}


def source() -> ArraySource:
    random = np.random.default_rng(0)
    return ArraySource(
        image=random.integers(0, USED, (24, 4)), label=random.integers(0, CLASSES, 24)
    )


def torch_model(sparse: bool) -> Any:
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(ROWS, WIDTH, sparse=sparse)
            self.idle = nn.Embedding(5, WIDTH, sparse=sparse)
            self.head = nn.Linear(WIDTH, CLASSES)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.table(x).sum(1))

    return Model()


def keras_model(sparse: bool) -> Any:
    import hvdkit.adapters.tensorflow  # chooses Keras's backend

    assert hvdkit.adapters.tensorflow
    import keras
    import tensorflow as tf

    class Table(keras.layers.Layer):
        sparse_rows = sparse

        def __init__(self, rows: int, name: str) -> None:
            super().__init__(name=name)
            self.rows = rows

        def build(self, shape: Any) -> None:
            self.embeddings = self.add_weight(shape=(self.rows, WIDTH), name="embeddings")

        def call(self, x: Any) -> Any:
            return tf.gather(self.embeddings.value, x)

    class Model(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="model")
            self.table, self.idle = Table(ROWS, "table"), Table(5, "idle")
            self.head = keras.layers.Dense(CLASSES, name="head")

        def build(self, shape: Any) -> None:
            for layer, width in ((self.table, 4), (self.idle, 4), (self.head, WIDTH)):
                layer.build((None, width))

        def call(self, x: Any) -> Any:
            return self.head(keras.ops.sum(self.table(x), axis=1))

    return Model()


def initial_weight(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(len(name)).normal(size=shape)


def adapter(framework: str, *, sparse: bool, **options: Any) -> Adapter:
    chosen: dict[str, Any] = {"optimizer": SGD(lr=0.1, momentum=0.0), "comm": SoloComm(), **options}
    made: Any
    if framework == "torch":
        from hvdkit.adapters.torch import TorchAdapter as made

        model, layout = torch_model(sparse), "nchw"
        chosen["device"] = "cpu"
    else:
        from hvdkit.adapters.tensorflow import TensorFlowAdapter as made

        model, layout = keras_model(sparse), "nhwc"
    model.initial_weight = initial_weight
    task = Lookup(layout=layout)  # type: ignore[arg-type]
    result: Adapter = made(model=model, task=task, strategy=AllReduce(), **chosen)
    data = train_data(task)
    result.setup(seed=0, reference_count=data.usual_count(), example=data.example())
    return result


def train_data(task: Any, **options: Any) -> TrainData:
    return TrainData(source(), task, batch_size=8, seed=0, prefetch=0, **options)


def train(made: Adapter, *, steps: int = 5, **options: Any) -> dict[str, np.ndarray]:
    batches = train_data(made.task, **options).batches(start=0, stop=steps, replica=(0, 1))
    for step, microbatches in enumerate(batches):
        made.train_step(microbatches, step=step, lr=0.1)
    return {name: shard.array.copy() for name, shard in made.state().items()}


FRAMEWORKS = pytest.mark.parametrize("framework", ["torch", "tensorflow"])


@FRAMEWORKS
@pytest.mark.parametrize(
    ("accumulate", "clip_norm"),
    [(1, None), (2, None), (1, 0.1)],
    ids=["", "accumulated", "clipped"],
)
def test_rows_train_as_a_dense_table_does(framework: str, accumulate: int, clip_norm: Any) -> None:
    dense, sparse = (
        train(adapter(framework, sparse=sparse, clip_norm=clip_norm), accumulate=accumulate)
        for sparse in (False, True)
    )
    assert dense.keys() == sparse.keys()
    for name, expected in dense.items():
        np.testing.assert_allclose(sparse[name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", [SGD(lr=0.1), Adam(lr=0.1)], ids=["momentum", "adam"])
def test_both_frameworks_change_the_same_rows_and_slots(rule: Optimizer) -> None:
    states = [
        train(adapter(framework, sparse=True, optimizer=rule))
        for framework in ("torch", "tensorflow")
    ]
    assert states[0].keys() == states[1].keys()
    for name, expected in states[0].items():
        np.testing.assert_allclose(states[1][name], expected, rtol=2e-4, atol=1e-5)
    start = initial_weight(0, "table.weight", (ROWS, WIDTH)).astype(np.float32)
    changed = (states[0]["params/table.weight"] != start).any(1)
    assert changed[:USED].any()
    assert not changed[USED:].any()
    slot = states[0][f"optimizer/{rule.slots[0]}/table.weight"]
    assert ((slot != 0).any(1) == changed).all()


@FRAMEWORKS
def test_a_state_with_tables_is_taken_up_again(framework: str) -> None:
    first = adapter(framework, sparse=True, optimizer=Adam(lr=0.1))
    saved = train(first)
    second = adapter(framework, sparse=True, optimizer=Adam(lr=0.1))
    second.load_state(saved)
    after = [train(made, steps=3) for made in (first, second)]
    for name, expected in after[0].items():
        np.testing.assert_array_equal(after[1][name], expected)


@FRAMEWORKS
def test_an_average_of_a_table_is_swapped_in_and_out(framework: str) -> None:
    made = adapter(framework, sparse=True, ema_decay=0.5)
    saved = train(made)
    with made.averaged_weights():
        swapped = {name: shard.array.copy() for name, shard in made.state().items()}
    for name in ("table.weight", "head.weight", "head.bias"):
        np.testing.assert_array_equal(swapped[f"params/{name}"], saved[f"optimizer/average/{name}"])
        np.testing.assert_array_equal(swapped[f"optimizer/average/{name}"], saved[f"params/{name}"])
    after = {name: shard.array for name, shard in made.state().items()}
    for name, array in saved.items():
        np.testing.assert_array_equal(after[name], array)


@FRAMEWORKS
def test_a_rule_that_needs_whole_parameters_refuses_a_table(framework: str) -> None:
    with pytest.raises(HvdkitError, match=r"LAMB needs the norm .*table\.weight"):
        adapter(framework, sparse=True, optimizer=LAMB(lr=0.1))


def test_a_table_that_is_read_whole_is_refused() -> None:
    made = adapter("tensorflow", sparse=True)
    inner, table = made.model.call, made.model.table
    made.model.call = lambda x: inner(x) + table.embeddings.value[0, 0]
    type(table).call = lambda self, x: self.embeddings.value[None, : x.shape[1]]
    with pytest.raises(HvdkitError, match=r"table\.weight is marked sparse_rows"):
        train(made, steps=1)


# ---- the strategy ------------------------------------------------------------------------------


class Counted(SoloComm):
    """Counts what would be sent."""

    sent = 0

    def all_gather(self, x: Any, *, name: str, group: Any = None) -> Any:
        self.sent += x.nbytes
        return Done(x)


def table(rows: int) -> Parameter:
    spec = ParamSpec("table", (rows, 2), "float64")
    return Parameter(spec, np.zeros((rows, 2)), sparse=True)


def test_ranks_get_the_sum_of_their_rows() -> None:
    def body(comm: Comm) -> tuple[np.ndarray, np.ndarray]:
        strategy, mine = AllReduce(), table(10)
        strategy.setup([mine], comm, NumpyOps())
        assert strategy.buckets == ()
        # Row 7 twice on each rank, one of the rank's own, and one whose gradient is nothing.
        rows = np.array([7, comm.rank, 7, 9])
        values = np.array([[1.0, 0.0], [2.0, 2.0], [1.0, float(comm.rank)], [0.0, 0.0]])
        strategy.rows_ready(mine, rows, values)
        return strategy.row_gradient(mine)

    for rows, values in run_ranks(3, body):
        assert rows.tolist() == [0, 1, 2, 7]
        assert values.tolist() == [[2, 2], [2, 2], [2, 2], [6, 3]]


def test_a_rank_that_touched_nothing_joins_with_nothing() -> None:
    def body(comm: Comm) -> tuple[np.ndarray, np.ndarray]:
        strategy, mine = AllReduce(), table(4)
        strategy.setup([mine], comm, NumpyOps())
        count = 1 if comm.rank == 1 else 0
        strategy.rows_ready(mine, np.full(count, 3), np.ones((count, 2)))
        return strategy.row_gradient(mine)

    for rows, values in run_ranks(3, body):
        assert (rows.tolist(), values.tolist()) == ([3], [[1, 1]])


@pytest.mark.parametrize("rows", [10, 100_000])
def test_what_travels_does_not_grow_with_the_table(rows: int) -> None:
    comm, strategy, mine = Counted(), AllReduce(), table(rows)
    strategy.setup([mine], comm, NumpyOps())
    strategy.rows_ready(mine, np.array([1, 1, 5]), np.ones((3, 2)))
    strategy.row_gradient(mine)
    assert comm.sent == 2 * (8 + 2 * 8)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_row_is_not_lost(bad: float) -> None:
    strategy, mine = AllReduce(), table(4)
    strategy.setup([mine], SoloComm(), NumpyOps())
    strategy.rows_ready(mine, np.array([2]), np.array([[bad, 0.0]]))
    rows, values = strategy.row_gradient(mine)
    assert rows.tolist() == [2]
    assert not np.isfinite(values).all()
