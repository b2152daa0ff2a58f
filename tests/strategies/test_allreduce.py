"""N ranks with AllReduce are one rank with the whole batch."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest

from hvdkit.comm import Comm, SoloComm
from hvdkit.comm.threads import run_ranks
from hvdkit.gradients.buckets import ParamSpec
from hvdkit.gradients.compression import FP16Compression, NoCompression
from hvdkit.optimizers import SGD, Adam
from hvdkit.strategies import AllReduce, Parameter
from hvdkit.tensors import NumpyOps
from tests.numpy_adapter import CLASSES, FEATURES, Linear, NumpyAdapter, adapter, train_data

STEPS = 12


def trained(comm: Comm, *, accumulate: int = 1, batch_size: int = 8, **options: Any) -> dict:
    """Every array of the state after some steps on this rank's slices."""
    data = train_data(batch_size=batch_size, accumulate=accumulate)
    made = adapter(comm, **options)
    made.setup(seed=0, reference_count=data.usual_count(), example=data.example())
    replica = made.strategy.replica()
    for step, microbatches in enumerate(data.batches(start=0, stop=STEPS, replica=replica)):
        made.train_step(microbatches, step=step, lr=made.optimizer.lr)
    made.average_statistics()
    return made.read_arrays()


def trainable(arrays: dict) -> dict:
    return {name: x for name, x in arrays.items() if not name.startswith("statistics/")}


VARIANTS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": SGD(lr=0.1, weight_decay=0.01)},
    "nesterov": {"optimizer": SGD(lr=0.1, nesterov=True)},
    "adam": {"optimizer": Adam(lr=0.01)},
    "clipped": {"clip_norm": 0.05},
    "accumulated": {"accumulate": 3},
    "accumulated and clipped": {"accumulate": 2, "clip_norm": 0.05},
    "one bucket": {
        "strategy": lambda: AllReduce(compression=NoCompression(), bucket_mb=4.0),
    },
}


def options(variant: str) -> dict:
    made = dict(VARIANTS[variant])
    if "strategy" in made:  # one a rank
        made["strategy"] = made["strategy"]()
    return made


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_ranks_are_one_big_batch(variant: str, ranks: int) -> None:
    alone = trainable(trained(SoloComm(), **options(variant)))
    for arrays in run_ranks(ranks, lambda comm: trained(comm, **options(variant))):
        for name, expected in alone.items():
            np.testing.assert_allclose(arrays[name], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("variant", ["sgd", "adam", "clipped"])
def test_ranks_hold_equal_bits(variant: str) -> None:
    first, *others = run_ranks(3, lambda comm: trained(comm, precision="fp32", **options(variant)))
    for other in others:
        for name, array in first.items():
            np.testing.assert_array_equal(other[name], array)


def test_more_ranks_than_samples_change_nothing() -> None:
    # Two samples on four ranks: two ranks bring zeros to every collective.
    alone = trainable(trained(SoloComm(), batch_size=2))
    for arrays in run_ranks(4, lambda comm: trained(comm, batch_size=2)):
        for name, expected in alone.items():
            np.testing.assert_allclose(arrays[name], expected, rtol=1e-10, atol=1e-12)


def test_half_precision_trains_all_ranks_alike_and_nearly_as_well() -> None:
    alone = trained(SoloComm())

    def body(comm: Comm) -> dict:
        strategy = AllReduce(compression=FP16Compression(), bucket_mb=1e-6)
        return trained(comm, strategy=strategy)

    first, *others = run_ranks(3, body)
    for name in ("params/head.weight", "params/head.bias"):
        np.testing.assert_allclose(first[name], alone[name], rtol=0, atol=0.01)
        assert np.abs(first[name] - alone[name]).max() > 0
        for other in others:
            np.testing.assert_array_equal(other[name], first[name])


def test_everyone_starts_from_rank_0s_own_weights() -> None:
    def body(comm: Comm) -> dict:
        made = adapter(comm, model=Linear(seed=comm.rank))
        made.setup(seed=0, reference_count=8, example=train_data().example())
        return made.read_trainable()

    expected = Linear(seed=0).variables
    for weights in run_ranks(3, body):
        for name, array in expected.items():
            np.testing.assert_array_equal(weights[name], array)


def gradient(comm: Comm) -> dict[str, np.ndarray]:
    """The gradient of the mean loss, read off one step of plain descent."""
    made = adapter(comm, optimizer=SGD(lr=1.0, momentum=0.0))
    data = train_data()
    made.setup(seed=0, reference_count=data.usual_count(), example=data.example())
    before = {name: x.copy() for name, x in made.read_trainable().items()}
    (microbatches,) = data.batches(start=0, stop=1, replica=made.strategy.replica())
    made.train_step(microbatches, step=0, lr=1.0)
    return {name: before[name] - x for name, x in made.read_trainable().items()}


def test_the_hand_written_gradient_is_the_losses() -> None:
    data = train_data()
    made = adapter()
    made.setup(seed=0, reference_count=1.0, example=data.example())
    ((batch,),) = data.batches(start=0, stop=1, replica=(0, 1))
    mean = {name: np.zeros_like(x) for name, x in made.read_trainable().items()}
    for name, array in made.read_trainable().items():
        for index in np.ndindex(array.shape):
            losses = []
            for change in (1e-6, -1e-6):
                array[index] += change
                sums = made.evaluate(batch)
                losses.append(sums["loss"] / sums["count"])
                array[index] -= change
            mean[name][index] = (losses[0] - losses[1]) / 2e-6
    for name, expected in gradient(SoloComm()).items():
        np.testing.assert_allclose(expected, mean[name], atol=1e-8)


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("clip_norm", [0.01, 1e6])
def test_clipping_bounds_the_whole_gradient_and_keeps_its_direction(
    ranks: Any, clip_norm: Any
) -> None:
    def body(comm: Comm) -> dict[str, np.ndarray]:
        made = adapter(comm, optimizer=SGD(lr=1.0, momentum=0.0), clip_norm=clip_norm)
        data = train_data()
        made.setup(seed=0, reference_count=data.usual_count(), example=data.example())
        before = {name: x.copy() for name, x in made.read_trainable().items()}
        (microbatches,) = data.batches(start=0, stop=1, replica=made.strategy.replica())
        made.train_step(microbatches, step=0, lr=1.0)
        return {name: before[name] - x for name, x in made.read_trainable().items()}

    whole = gradient(SoloComm())
    norm = np.sqrt(sum(np.square(x).sum() for x in whole.values()))
    for clipped in run_ranks(ranks, body):
        for name, x in whole.items():
            np.testing.assert_allclose(clipped[name], x * min(1, clip_norm / norm), atol=1e-10)


def test_weight_decay_leaves_vectors_alone() -> None:
    def after(weight_decay: float) -> dict[str, np.ndarray]:
        rule = SGD(lr=0.1, momentum=0.0, weight_decay=weight_decay)
        made = adapter(optimizer=rule)
        data = train_data()
        made.setup(seed=0, reference_count=data.usual_count(), example=data.example())
        (microbatches,) = data.batches(start=0, stop=1, replica=(0, 1))
        made.train_step(microbatches, step=0, lr=0.1)
        return made.read_trainable()

    plain, decayed = after(0.0), after(0.5)
    np.testing.assert_array_equal(plain["head.bias"], decayed["head.bias"])
    assert np.abs(plain["head.weight"] - decayed["head.weight"]).max() > 0.01
    assert plain["head.weight"].shape == (CLASSES, FEATURES)


def test_any_ranks_flag_is_seen_by_all_at_the_same_step() -> None:
    def body(comm: Comm) -> list[bool]:
        data = train_data()
        made = adapter(comm)
        made.setup(seed=0, reference_count=8, example=data.example())
        steps = data.batches(start=0, stop=3, replica=made.strategy.replica())
        return [
            made.train_step(m, step=step, lr=0.1, flag=comm.rank == 2 and step == 1).stop
            for step, m in enumerate(steps)
        ]

    assert run_ranks(3, body) == [[False, True, False]] * 3


def test_statistics_are_averaged_over_ranks() -> None:
    def body(comm: Comm) -> tuple[np.ndarray, np.ndarray]:
        made = adapter(comm)
        made.setup(seed=0, reference_count=8, example=train_data().example())
        made.model.statistics["head.running_mean"][...] = own = np.arange(6.0) * (1 + comm.rank)
        own = own.copy()
        made.average_statistics()
        return own, made.model.statistics["head.running_mean"]

    results = run_ranks(3, body)
    mean = np.mean([own for own, _ in results], axis=0)
    for _, averaged in results:
        np.testing.assert_allclose(averaged, mean)


@pytest.mark.parametrize(
    ("values", "skipped"),
    [
        ((2e38, 2e38), True),  # each is a number, and their sum is not
        ((np.inf, 0.0), True),
        ((0.0, np.nan), True),
        ((np.inf, -np.inf), True),
        ((1e15, 1e15), False),
    ],
)
@pytest.mark.parametrize("encoded", [False, True])
def test_every_rank_skips_what_no_rank_can_use(
    values: tuple[float, float], skipped: bool, encoded: bool
) -> None:
    """By the sums themselves, and by the squares of what each rank brings to them."""

    class Given(NumpyAdapter):
        def hand_over(self, bucket: Any, flat: np.ndarray) -> None:
            flat[-1] = values[self.comm.rank]
            super().hand_over(bucket, flat)

    def body(comm: Comm) -> tuple[bool, bool]:
        strategy = AllReduce(compression=NoCompression(), bucket_mb=1e-6)
        if encoded:
            strategy.finite_below = None
        made = Given(
            model=Linear(),
            task=train_data().task,
            optimizer=SGD(lr=0.1),
            strategy=strategy,
            comm=comm,
        )
        data = train_data()
        made.setup(seed=0, reference_count=8, example=data.example())
        before = made.weights_sha256()
        (microbatches,) = data.batches(start=0, stop=1, replica=strategy.replica())
        result = made.train_step(microbatches, step=0, lr=0.1)
        return result.skipped, made.weights_sha256() == before

    with np.errstate(all="ignore"):
        assert run_ranks(2, body) == [(skipped, skipped)] * 2


@pytest.mark.parametrize(
    ("values", "skipped", "waits"),
    [
        ((1e3, 1e3), False, False),
        ((4e4, 1e4), False, True),  # it fits, and might not have
        ((5e4, 5e4), True, True),
        ((np.nan, 0.0), True, True),
    ],
)
def test_halves_are_waited_for_only_where_their_sum_may_not_fit(
    values: tuple[float, float], skipped: bool, waits: bool
) -> None:
    """Else each bucket is updated as it comes, while others are still on their way."""

    def body(comm: Comm) -> tuple[bool, list[str]]:
        events = []

        class Told(NumpyAdapter):
            def hand_over(self, bucket: Any, flat: np.ndarray) -> None:
                flat[-1] = values[self.comm.rank]
                super().hand_over(bucket, flat)

            def update(self, *arguments: Any) -> None:
                events.append("update")
                super().update(*arguments)

        class Noted(AllReduce):
            def gradient(self, bucket: Any) -> Any:
                events.append("sum")
                return super().gradient(bucket)

        made = Told(
            model=Linear(),
            task=train_data().task,
            optimizer=SGD(lr=0.1),
            strategy=Noted(compression=FP16Compression(), bucket_mb=1e-6),
            comm=comm,
        )
        data = train_data()
        made.setup(seed=0, reference_count=8, example=data.example())
        (microbatches,) = data.batches(start=0, stop=1, replica=made.strategy.replica())
        return made.train_step(microbatches, step=0, lr=0.1).skipped, events

    with np.errstate(all="ignore"):
        for found, events in run_ranks(2, body):
            assert found == skipped
            count = events.count("sum")
            assert count > 1
            in_turns, sums_first = ["sum", "update"] * count, ["sum"] * count + ["update"] * count
            expected = sums_first if waits else in_turns
            assert events == ([x for x in expected if x == "sum"] if skipped else expected)


@pytest.mark.parametrize(("chunk_mb", "count"), [(None, 4), (24 / 2**20, 7), (1024.0, 1)])
def test_a_bucket_is_cut_into_messages(chunk_mb: float | None, count: int) -> None:
    """Into as many as `comm` sums fastest, unless a size is asked for."""
    values = np.arange(20.0)

    def body(comm: Comm) -> Any:
        comm.message_mb = 40 / 2**20
        strategy = AllReduce(compression=NoCompression(), chunk_mb=chunk_mb)
        spec = ParamSpec("a", (20,), "float64")
        strategy.setup([Parameter(spec, np.zeros(20))], comm, NumpyOps())
        (bucket,) = strategy.buckets
        names: list[str] = []
        before = comm.allreduce

        def allreduce(x: Any, *, name: str, **more: Any) -> Any:
            names.append(name)
            return before(x, name=name, **more)

        with mock.patch.object(comm, "allreduce", allreduce):
            strategy.bucket_ready(bucket, values * (comm.rank + 1))
            return strategy.gradient(bucket), names

    for gradient, names in run_ranks(2, body):
        np.testing.assert_array_equal(gradient, 3 * values)
        assert len(set(names)) == len(names) == count
