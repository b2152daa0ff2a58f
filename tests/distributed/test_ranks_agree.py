"""Ranks work as one, or are stopped: equal weights after training on different data, in both
frameworks; and what a run does when they cannot be.
"""

from __future__ import annotations

import pytest

from hvdkit.callbacks import Agreement, WeightDigest
from hvdkit.comm import Done
from hvdkit.data import ArraySource
from hvdkit.errors import HvdkitError
from hvdkit.gradients.compression import FP16Compression, NoCompression
from hvdkit.strategies import AllReduce

FRAMEWORKS = ("torch", "tensorflow")


class Seen:
    """A source that notes which records were read."""

    def __init__(self, source):
        self._source = source
        self.indices = set()

    def __len__(self):
        return len(self._source)

    def __getitem__(self, index):
        self.indices.add(int(index))
        return self._source[index]


class Alone(AllReduce):
    """The allreduce taken out: each rank goes on with its own gradient."""

    def __init__(self):
        super().__init__(compression=NoCompression())

    def stages(self, part, flat, compression):
        return (yield Done(flat))


def trained_together(stage):
    source = Seen(stage.dataset.train)
    run = stage.train(steps=10, precision="fp32", train=source, callbacks=[WeightDigest(every=5)])
    return {"weights": run.digest, "records": sorted(source.indices), "losses": run.losses}


def trained_alone(stage):
    run = stage.train(steps=10, precision="fp32", strategy=Alone())
    return run.digest


def trained_alone_and_watched(stage):
    return _error(
        stage, steps=10, precision="fp32", strategy=Alone(), callbacks=[WeightDigest(every=4)]
    )


def trained_in_half_precision(stage):
    """An epoch with fp16 gradients, and how good the model is then."""
    run = stage.train(
        epochs=6,
        precision="fp32",
        strategy=AllReduce(compression=FP16Compression()),
        evaluation=stage.dataset.evaluation,
    )
    return {"weights": run.digest, "accuracy": run.trainer._eval["accuracy"]}


def config_differs(stage):
    facts = {"optimizer.lr": 0.1 if stage.rank == 0 else 0.2}
    return _error(stage, steps=2, callbacks=[Agreement(facts)])


def weights_differ(stage):
    """A rank's weights are spoilt after the first broadcast, as by a broken host."""

    class Spoilt(AllReduce):
        def broadcast_parameters(self):
            super().broadcast_parameters()
            if self.comm.rank == 1:
                variable = self._params[0].variable
                self.ops.assign(variable, self.ops.read(variable) * 1.5)

    strategy = Spoilt(compression=NoCompression())
    return _error(stage, steps=2, strategy=strategy, callbacks=[Agreement()])


def data_differs(stage):
    records = [stage.dataset.train[i] for i in range(100 - 10 * stage.rank)]
    source = ArraySource(**{key: _stack(records, key) for key in records[0]})
    return _error(stage, steps=2, train=source, callbacks=[Agreement()])


def model_differs(stage):
    width = 32 if stage.rank == 0 else 48
    return _error(stage, steps=2, model=lambda: stage.model("mlp", hidden=[width]))


def _stack(records, key):
    import numpy as np

    return np.stack([record[key] for record in records])


def _error(stage, **options):
    """The message that a run stops with, on this rank."""
    try:
        stage.train(**options)
    except HvdkitError as error:
        return str(error)
    return "it was not stopped"


CASES = (
    trained_together,
    trained_alone,
    trained_alone_and_watched,
    trained_in_half_precision,
    config_differs,
    weights_differ,
    data_differs,
    model_differs,
)


@pytest.fixture(params=FRAMEWORKS)
def results(request, on_ranks):
    """What each of two ranks came to, by case."""

    def results(case):
        jobs = on_ranks(*CASES, framework=request.param, np=2)
        return [rank[case.__name__] for rank in jobs]

    return results


def test_ranks_that_train_on_different_data_end_with_equal_weights(results):
    one, two = results(trained_together)
    assert one["weights"] == two["weights"]
    # Each saw its own half of the batches (and record 0, from which the model is built).
    assert len(one["records"]) > 100
    assert len(two["records"]) > 100
    assert not (set(one["records"]) & set(two["records"])) - {0}
    assert one["losses"][-1] < one["losses"][0]


def test_without_the_allreduce_their_weights_differ(results):
    """What the test above would find if the reduction were lost, as under Keras 3 it can be."""
    one, two = results(trained_alone)
    assert one != two


def test_weights_that_drift_apart_stop_the_run(results):
    for message in results(trained_alone_and_watched):
        assert "ranks hold different weights after step 4" in message
        assert "on rank 1" in message


def test_gradients_in_half_precision_train_and_leave_ranks_equal(results):
    one, two = results(trained_in_half_precision)
    assert one == two
    assert one["accuracy"] > 0.9


@pytest.mark.parametrize(
    ("case", "what"),
    [
        (config_differs, "config value optimizer.lr is 0.1 on rank 0 and 0.2 on rank 1"),
        (weights_differ, "the digest of the initial weights is"),
        (data_differs, "number of training records is 100 on rank 0 and 90 on rank 1"),
        (model_differs, "parameter layers.0.weight is ((32, 64), 'float64') on rank 0"),
    ],
)
def test_ranks_that_disagree_are_stopped_on_every_rank(results, case, what):
    for message in results(case):
        assert "ranks do not agree at the start" in message
        assert what in message
        assert "on rank 1" in message
