"""One update's fine print under real ranks: overlap, unused parameters, uneven and empty slices,
accumulation, clipping.
"""

from __future__ import annotations

import itertools
import json
import time

import pytest

from hvdkit.callbacks import Callback
from hvdkit.data import ArraySource, TrainData
from hvdkit.gradients.compression import NoCompression
from hvdkit.optimizers import SGD
from hvdkit.strategies import AllReduce
from tests.distributed import odd_models

FRAMEWORKS = ("torch", "tensorflow")
NUMBERS = (1, 2, 3)


def few(stage, count):
    """The first `count` digits."""
    import numpy as np

    records = [stage.dataset.train[i] for i in range(count)]
    return ArraySource(**{key: np.stack([r[key] for r in records]) for key in records[0]})


# ---- on 1, 2 and 3 ranks ----------------------------------------------------------------------


def uneven(stage):
    """103 records in batches of 13: the epoch's last batch is straddled, the run's last short."""
    run = stage.train(
        epochs=2, batch_size=13, train=few(stage, 103), evaluation=few(stage, 71), steps=None
    )
    return {"losses": run.losses, "eval": run.trainer._eval, "weights": run.digest}


def empty_slices(stage):
    """Two batches of 10 and a last one of a single record: with 2 or 3 ranks, some have none."""
    run = stage.train(epochs=1, batch_size=10, train=few(stage, 21), evaluation=few(stage, 2))
    return {"losses": run.losses, "eval": run.trainer._eval, "weights": run.digest}


def short_batch(stage):
    """The same 5 records as half of a batch of 10, and as a whole batch of 5."""
    half = stage.train(epochs=1, batch_size=10, train=few(stage, 5)).adapter.read_trainable()
    whole = stage.train(epochs=1, batch_size=5, train=few(stage, 5)).adapter.read_trainable()
    return max(float(abs(half[name] - whole[name]).max()) for name in whole)


def accumulated(stage):
    return stage.train(steps=30, batch_size=34, accumulate=2).losses


def at_once(stage):
    return stage.train(steps=30, batch_size=34).losses


def clipped(stage):
    """Plain SGD at rate 1: each update is the clipped gradient itself, so its norm shows."""
    before = _weights(stage.adapter(), stage)
    run = stage.train(steps=1, batch_size=34, optimizer=SGD(lr=1.0, momentum=0.0), clip_norm=0.25)
    after = run.adapter.read_trainable()
    return {
        "norm": sum(float(((after[k] - before[k]) ** 2).sum()) for k in after) ** 0.5,
        "losses": stage.train(steps=30, batch_size=34, clip_norm=0.25).losses,
    }


def _weights(adapter, stage):
    data = TrainData(stage.dataset.train, stage.task, batch_size=34, seed=0)
    adapter.setup(seed=0, reference_count=34.0, example=data.example())
    return {name: array.copy() for name, array in adapter.read_trainable().items()}


def odd_model(stage):
    return odd_models.trained(stage)


def resumed_about_the_learnt_order(stage):
    return odd_models.broken_off(stage)


ANY_NUMBER = (uneven, empty_slices, short_batch, accumulated, at_once, clipped, odd_model)


def cases(framework, np):
    more = (resumed_about_the_learnt_order,) if (framework, np) == ("torch", 3) else ()
    return ANY_NUMBER + more


@pytest.fixture(scope="module")
def results(on_ranks):
    """A case's result on each rank."""

    def results(case, framework, np):
        jobs = on_ranks(*cases(framework, np), framework=framework, np=np)
        return [rank[case.__name__] for rank in jobs]

    return results


@pytest.mark.parametrize("np", NUMBERS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(("case", "steps"), [(uneven, 16), (empty_slices, 3)])
def test_uneven_and_empty_slices_change_nothing(results, case, steps, framework, np):
    reference = results(case, "torch", 1)[0]
    ranks = results(case, framework, np)
    assert len(reference["losses"]) == steps
    assert ranks[0]["losses"] == pytest.approx(reference["losses"], rel=1e-8)
    assert {rank["weights"] for rank in ranks} == {ranks[0]["weights"]}
    for rank in ranks:  # each record counted once, and every rank told
        assert rank["eval"] == pytest.approx(reference["eval"], rel=1e-8)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("case", [uneven, empty_slices])
def test_evaluation_counts_each_record_once(results, case, framework):
    """Within one framework the metric is the same to the last digits, and so to the record."""
    one = results(case, framework, 1)[0]["eval"]
    for np in (2, 3):
        assert results(case, framework, np)[0]["eval"] == pytest.approx(one, rel=1e-12)


@pytest.mark.parametrize("np", NUMBERS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_loss_is_the_mean_over_the_records_there_are(results, framework, np):
    """A short batch is not divided by the size of a whole one."""
    assert max(results(short_batch, framework, np)) < 1e-12


@pytest.mark.parametrize("np", NUMBERS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_accumulating_a_batch_equals_taking_it_at_once(results, framework, np):
    reference = results(at_once, "torch", 1)[0]
    assert results(accumulated, framework, np)[0] == pytest.approx(reference, rel=1e-8)


@pytest.mark.parametrize("np", NUMBERS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_whole_gradient_is_clipped(results, framework, np):
    """The bound holds for the sum over ranks, not for each rank's part."""
    reference = results(clipped, "torch", 1)[0]
    for rank in results(clipped, framework, np):
        assert rank["norm"] == pytest.approx(0.25, rel=1e-9)
    losses = results(clipped, framework, np)[0]["losses"]
    assert losses == pytest.approx(reference["losses"], rel=1e-8)


@pytest.mark.parametrize("np", NUMBERS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_odd_uses_of_parameters_change_nothing(results, framework, np):
    reference = results(odd_model, framework, 1)[0]
    ranks = results(odd_model, framework, np)
    assert len({rank["weights"] for rank in ranks}) == 1
    for rank in ranks:
        assert rank["buckets"] == ranks[0]["buckets"]
    assert ranks[0]["losses"] == pytest.approx(reference["losses"], rel=1e-8)
    if framework == "torch":  # laid out anew: the model names its layers in another order
        first = ranks[0]["buckets"][0][0]
        assert first.startswith("head"), ranks[0]["buckets"]


def test_a_resume_about_the_learnt_order_gives_the_same_bits(on_ranks):
    """On three ranks, where another plan would give other bits."""
    jobs = on_ranks(*cases("torch", 3), framework="torch", np=3)
    for rank in jobs:
        found = rank["resumed_about_the_learnt_order"]
        assert [found["broken"][stop].pop("learnt") for stop in "235"] == [False, True, True]
        assert all(each == found["whole"] for each in found["broken"].values())


# ---- on 2 ranks -------------------------------------------------------------------------------


def unused_parameter(stage):
    """A model with a branch that no output depends on: its weights must stay as they are."""
    run = stage.train(steps=30, model=lambda: _branched(stage))
    before = _branched_start(stage)
    after = run.adapter.read_trainable()
    return {
        "moved": sorted(k for k in after if (after[k] != before[k]).any()),
        "weights": run.digest,
        "losses": run.losses,
    }


def _branched_start(stage):
    adapter = stage.adapter(model=lambda: _branched(stage))
    return _weights(adapter, stage)


def _branched(stage):
    if stage.framework == "torch":
        import torch

        class Branched(torch.nn.Module):
            def __init__(self):
                super().__init__()
                torch.manual_seed(0)
                self.used, self.unused = torch.nn.Linear(64, 10), torch.nn.Linear(64, 10)

            def forward(self, x):
                return self.used(x.flatten(1))

        return Branched()
    import keras

    class KerasBranched(keras.Model):
        def __init__(self):
            super().__init__()
            start = keras.initializers.GlorotUniform(seed=0)
            self.used = keras.layers.Dense(10, kernel_initializer=start, name="used")
            self.unused = keras.layers.Dense(10, kernel_initializer=start, name="unused")
            self.flat = keras.layers.Flatten()

        def build(self, shape):
            self.used.build((None, 64))
            self.unused.build((None, 64))

        def call(self, x, training=False):
            return self.used(self.flat(x))

    return KerasBranched()


def used_on_one_rank(stage):
    """torch alone, whose model runs as Python: a branch that only rank 1 takes."""
    import torch

    class Sometimes(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.always, self.sometimes = torch.nn.Linear(64, 10), torch.nn.Linear(64, 10)

        def forward(self, x):
            x = x.flatten(1)
            return self.always(x) + (self.sometimes(x) if stage.rank == 1 else 0)

    run = stage.train(steps=30, model=Sometimes)
    return {"weights": run.digest, "losses": run.losses}


def trace(stage):
    """When each bucket left, and when the first layer, the last of the backward pass, was done."""
    import torch

    events = []

    class Traced(AllReduce):
        def bucket_ready(self, bucket, flat):
            events.append((time.perf_counter(), f"bucket {bucket.index}"))
            super().bucket_ready(bucket, flat)

    def model():
        widths = [64, 512, 512, 512, 10]
        layers = [torch.nn.Flatten()]
        for a, b in itertools.pairwise(widths):
            layers += [torch.nn.Linear(a, b), torch.nn.ReLU()]
        made = torch.nn.Sequential(*layers[:-1])
        # Runs when autograd reaches the first layer's weight, before anything is collected.
        made[1].weight.register_hook(lambda grad: events.append((time.perf_counter(), "end")))
        return made

    strategy = Traced(compression=NoCompression(), bucket_mb=1.0)
    run = stage.train(steps=5, batch_size=256, model=model, strategy=strategy)
    return {"buckets": len(run.adapter.strategy.buckets), "events": events}


def trace_in_the_graph(stage):
    """TensorFlow: when, at each step, the backward pass came to the first layer."""
    import keras
    import tensorflow as tf

    reached = tf.Variable(0.0, dtype=tf.float64, trainable=False)

    @tf.custom_gradient
    def marked(x):
        def backward(dy):
            with tf.control_dependencies([dy]):
                assigned = reached.assign(tf.timestamp())
            with tf.control_dependencies([assigned]):  # nothing further back may come earlier
                return tf.identity(dy)

        return tf.identity(x), backward

    class Mark(keras.layers.Layer):
        def call(self, x):
            return marked(x)

    class Keep(Callback):
        every_rank = True

        def __init__(self):
            self.times = []

        def on_step(self, trainer):
            self.times.append(float(reached.numpy()))

    def model():
        def dense():
            return keras.layers.Dense(512, activation="relu")

        rest = [dense() for _ in range(7)]
        return keras.Sequential([keras.layers.Flatten(), dense(), Mark(), *rest])

    keep = Keep()
    stage.train(
        steps=12,
        batch_size=1024,
        precision="fp32",
        callbacks=[keep],
        model=model,
        strategy=AllReduce(compression=NoCompression(), bucket_mb=1.0),
        optimizer=SGD(lr=0.001),
    )
    return keep.times


TWO_RANKS = {
    "torch": (unused_parameter, used_on_one_rank, trace),
    "tensorflow": (unused_parameter,),
}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_an_unused_parameter_has_a_zero_gradient(on_ranks, framework):
    one, two = (
        r["unused_parameter"] for r in on_ranks(*TWO_RANKS[framework], framework=framework, np=2)
    )
    assert one["moved"] == two["moved"] == ["used.bias", "used.weight"]
    assert one["weights"] == two["weights"]
    assert sum(one["losses"][-5:]) < sum(one["losses"][:5])


def test_a_parameter_used_on_one_rank_alone_is_updated_on_all(on_ranks):
    results = on_ranks(*TWO_RANKS["torch"], framework="torch", np=2)
    one, two = (rank["used_on_one_rank"] for rank in results)
    assert one["weights"] == two["weights"]
    assert sum(one["losses"][-5:]) < sum(one["losses"][:5])


def test_the_first_bucket_leaves_before_the_backward_pass_ends(on_ranks):
    for rank in on_ranks(*TWO_RANKS["torch"], framework="torch", np=2):
        buckets, events = rank["trace"]["buckets"], rank["trace"]["events"]
        assert buckets > 2
        assert len(events) == 5 * (buckets + 1)
        for step in range(1, 5):  # in the first, what a gradient is made of is not known yet
            mine = events[step * (buckets + 1) : (step + 1) * (buckets + 1)]
            names = [name for _, name in sorted(mine)]
            assert names[0] == "bucket 0", "before the first layer's gradient exists"
            assert names[-1] == f"bucket {buckets - 1}"


def test_in_a_graph_a_bucket_leaves_before_the_backward_pass_ends(on_ranks, tmp_path_factory):
    """By Horovod's own trace. The graph chooses which bucket that is, and need not always."""
    file = tmp_path_factory.mktemp("timeline") / "timeline.json"
    results = on_ranks(
        trace_in_the_graph, framework="tensorflow", np=2, env={"HOROVOD_TIMELINE": str(file)}
    )
    ends = [min(both) for both in zip(*(r["trace_in_the_graph"] for r in results), strict=True)]
    starts = _first_bucket_of_each_step(file)
    assert len(starts) == len(ends) == 12
    early = [start < end for start, end in zip(starts, ends, strict=True)]
    assert sum(early) >= 6, list(zip(starts, ends, strict=True))


def _first_bucket_of_each_step(file):
    """Seconds since the epoch at which Horovod was first asked for a bucket's sum."""
    text = file.read_text().rstrip().rstrip(",")
    events = json.loads(text if text.endswith("]") else text + "]")
    about = [event["args"] for event in events if event.get("name") == "process_name"]
    (origin,) = (args["start_time_since_epoch_in_micros"] for args in about if "name" not in args)
    names = {e["pid"]: e["args"].get("name", "") for e in events if e.get("name") == "process_name"}
    asked: dict[str, list[float]] = {}
    for event in events:
        name = names.get(event.get("pid"), "")
        if event.get("name") == "NEGOTIATE_ALLREDUCE" and name.startswith("bucket."):
            asked.setdefault(name, []).append((origin + event["ts"]) / 1e6)
    return [min(step) for step in zip(*asked.values(), strict=True)]
