"""Any strategy can be recorded: the stamps are in order, and nothing else changes."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from hvdkit.callbacks import Callback
from hvdkit.comm import Comm
from hvdkit.comm.threads import run_ranks
from hvdkit.strategies import Recorded
from hvdkit.trainer import Trainer
from tests.numpy_adapter import adapter, train_data


class Watch(Callback):
    """Record every step; let nothing travel in those from `silent_from` on."""

    every_rank = True

    def __init__(self, silent_from: int | None = None):
        self._silent_from = silent_from
        self.stamps: list[Any] = []

    def on_start(self, trainer):
        self._recorded = Recorded.of(trainer.adapter)
        assert Recorded.of(trainer.adapter) is self._recorded  # once is enough

    def on_batch(self, trainer):
        self._recorded.silent = trainer.step == self._silent_from
        self._began = time.time()

    def on_step(self, trainer):
        self.stamps.append((self._began, self._recorded.stamps(), time.time()))


def train(comm: Comm, **options: Any) -> tuple[Watch, str]:
    watch = Watch(**options)
    trainer = Trainer(adapter(comm), train_data(), num_steps=6, callbacks=[watch])
    trainer.fit()
    return watch, trainer.adapter.weights_sha256()


def test_stamps_lie_in_their_step_and_in_order() -> None:
    for watch, _ in run_ranks(3, train):
        assert len(watch.stamps) == 6
        for began, (ready, asked, agreed), ended in watch.stamps:
            assert (began - 1e-3 <= ready).all()
            assert (ready <= agreed).all()
            assert (asked <= agreed).all()
            assert (agreed <= ended + 1e-3).all()
            assert (np.diff(asked) >= 0).all()  # one is waited for after the other


def test_ranks_still_agree() -> None:
    def plain(comm: Comm) -> str:
        trainer = Trainer(adapter(comm), train_data(), num_steps=6)
        trainer.fit()
        return trainer.adapter.weights_sha256()

    recorded = {digest for _, digest in run_ranks(3, train)}
    assert recorded == set(run_ranks(3, plain))
    assert len(recorded) == 1


def test_in_a_silent_step_ranks_go_their_own_ways() -> None:
    digests = [digest for _, digest in run_ranks(2, lambda comm: train(comm, silent_from=5))]
    assert digests[0] != digests[1]
