"""Ranks that disagree stop the run: with the fact, both values, and the rank."""

from __future__ import annotations

from typing import Any

import pytest

from hvdkit.callbacks import Agreement, Callback, WeightDigest
from hvdkit.comm import Comm
from hvdkit.comm.threads import run_ranks
from hvdkit.errors import HvdkitError
from hvdkit.trainer import Trainer
from tests.numpy_adapter import Linear, adapter, records, train_data


def messages(body: Any, ranks: int = 3) -> list[str]:
    """What each rank of a run that must fail says."""

    def failing(comm: Comm) -> str:
        with pytest.raises(HvdkitError) as caught:
            body(comm).fit()
        return str(caught.value)

    return run_ranks(ranks, failing)


def test_ranks_that_agree_go_on() -> None:
    def body(comm: Comm) -> int:
        callbacks = [Agreement({"optimizer.lr": 0.1}), WeightDigest(every=2)]
        return Trainer(adapter(comm), train_data(), num_steps=5, callbacks=callbacks).fit().steps

    assert run_ranks(3, body) == [5, 5, 5]


def other_steps(comm: Comm) -> Trainer:
    steps = 5 + (comm.rank == 2)
    return Trainer(adapter(comm), train_data(), num_steps=steps, callbacks=[Agreement()])


def other_data(comm: Comm) -> Trainer:
    data = train_data(records(50 - (comm.rank == 2)))
    return Trainer(adapter(comm), data, num_steps=5, callbacks=[Agreement()])


def other_config(comm: Comm) -> Trainer:
    agreement = Agreement({"optimizer.lr": 0.1 + (comm.rank == 2), "trainer.seed": 0})
    return Trainer(adapter(comm), train_data(), num_steps=5, callbacks=[agreement])


class Renamed(Linear):
    def __init__(self, rank: int):
        super().__init__()
        if rank == 2:
            self.variables["tail.bias"] = self.variables.pop("head.bias")


class Tampered(Callback):
    """Changes one rank's weights by very little at a step, or before the first."""

    every_rank = True

    def __init__(self, step: int):
        self.step = step

    def on_start(self, trainer):
        self._change(trainer)

    def on_step(self, trainer):
        self._change(trainer)

    def _change(self, trainer):
        if trainer.step == self.step and trainer.comm.rank == 2:
            bias = trainer.adapter.read_trainable()["head.bias"]
            bias[0] += 1e-9


def tampered_weights(comm: Comm) -> Trainer:
    callbacks = [Tampered(0), Agreement()]
    return Trainer(adapter(comm), train_data(), num_steps=5, callbacks=callbacks)


@pytest.mark.parametrize(
    ("body", "fact", "values"),
    [
        (other_steps, "number of steps", ("5 on rank 0", "6 on rank 2")),
        (other_data, "number of training records", ("50 on rank 0", "49 on rank 2")),
        (other_config, "optimizer.lr", ("0.1 on rank 0", "1.1 on rank 2")),
        (tampered_weights, "digest of the initial weights", ("rank 0", "rank 2")),
    ],
    ids=["steps", "data", "config", "weights"],
)
def test_what_differs_is_named_with_its_rank(body: Any, fact: str, values: tuple[str, str]) -> None:
    first, *others = messages(body)
    assert fact in first
    assert all(value in first for value in values)
    assert others == [first, first]


@pytest.mark.parametrize(("every", "noticed"), [(1, 3), (2, 4), (None, 6)])
def test_weights_that_part_are_noticed_at_the_next_check(every: int | None, noticed: int) -> None:
    def body(comm: Comm) -> Trainer:
        callbacks = [Tampered(3), WeightDigest(every=every)]
        return Trainer(adapter(comm), train_data(), num_steps=6, callbacks=callbacks)

    first, *others = messages(body)
    assert f"different weights after step {noticed}" in first
    assert "rank 2" in first
    assert others == [first, first]
