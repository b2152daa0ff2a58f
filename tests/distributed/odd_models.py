"""Models whose parameters are used in every odd way, and what a rank does with them for a test."""

from __future__ import annotations

from hvdkit.data import TrainData
from hvdkit.gradients.compression import NoCompression
from hvdkit.strategies import AllReduce
from hvdkit.trainer import Trainer


def trained(stage):
    """Layers that are frozen, idle, tied, used twice, and (in torch) used in every third step
    alone; two microbatches a step, and buckets of a few parameters each."""
    strategy = AllReduce(compression=NoCompression(), bucket_mb=8e-3)
    model = _odd_torch if stage.framework == "torch" else _odd_keras
    run = stage.train(steps=12, batch_size=34, accumulate=2, model=model, strategy=strategy)
    return {
        "losses": run.losses,
        "weights": run.digest,
        "buckets": [list(bucket.names) for bucket in run.adapter.strategy.buckets],
    }


def _odd_torch():
    import torch

    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.calls = 0
            self.twice, self.head = torch.nn.Linear(20, 20), torch.nn.Linear(20, 10)
            self.idle, self.seldom = torch.nn.Linear(4, 4), torch.nn.Linear(20, 20)
            self.tied = torch.nn.Linear(20, 20)
            self.tied.weight = self.twice.weight
            self.frozen = torch.nn.Linear(20, 20).requires_grad_(False)
            self.enter = torch.nn.Linear(64, 20)

        def forward(self, x):
            x = torch.tanh(self.enter(x.flatten(1)))
            x = torch.tanh(self.twice(torch.tanh(self.twice(self.frozen(x)))))
            if self.training:
                self.calls += 1
            if (self.calls - 1) // 2 % 3 == 0:  # both microbatches of every third step
                x = torch.tanh(self.seldom(x))
            return self.head(self.tied(x))

    return Odd()


def _odd_keras():
    import keras

    class OddKeras(keras.Model):
        def __init__(self):
            super().__init__()
            start = keras.initializers.GlorotUniform(seed=0)

            def dense(units, name):
                return keras.layers.Dense(
                    units, activation="tanh", kernel_initializer=start, name=name
                )

            self.flat, self.enter, self.twice = (
                keras.layers.Flatten(),
                dense(20, "enter"),
                dense(20, "twice"),
            )
            self.idle, self.frozen, self.head = (
                dense(4, "idle"),
                dense(20, "frozen"),
                keras.layers.Dense(10, kernel_initializer=start, name="head"),
            )
            self.frozen.trainable = False

        def call(self, x):
            x = self.enter(self.flat(x))
            if not self.idle.built:
                self.idle(x)
            return self.head(self.twice(self.twice(self.frozen(x))))

    return OddKeras()


def broken_off(stage):
    """Runs of 8 steps, whole, and broken off before, right after and well after the third, whose
    order of gradients the buckets are laid out anew for."""

    def fit(name, steps, *, start=0):
        model = _odd_torch()
        model.calls = start
        adapter = stage.adapter(
            model=lambda: model,
            precision="fp32",
            strategy=AllReduce(compression=NoCompression(), bucket_mb=4e-3),
        )
        data = TrainData(stage.dataset.train, stage.task, batch_size=33, seed=0)
        folder = stage.folder / "learnt" / f"{name} of {stage.size}"
        Trainer(adapter, data, num_steps=steps, folder=folder, resume=start > 0).fit()
        return {
            "weights": adapter.weights_sha256(),
            "buckets": [list(bucket.names) for bucket in adapter.strategy.buckets],
        }

    whole = fit("whole", 8)
    broken = {}
    for stop in (2, 3, 5):
        before = fit(f"{stop}", stop)["buckets"]
        broken[stop] = {**fit(f"{stop}", 8, start=stop), "learnt": before == whole["buckets"]}
    return {"whole": whole, "broken": broken}
