"""Ranks that disagree stop the run: at the start on everything, later on the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hvdkit.adapters import versions
from hvdkit.callbacks.base import Callback
from hvdkit.comm.agreement import require_equal

if TYPE_CHECKING:
    from hvdkit.trainer import Trainer


class Agreement(Callback):
    """Before the first step, compare world size, data, versions and initial weights.

    `facts` is what else must be equal on all ranks, such as every value of a config.
    """

    every_rank = True

    def __init__(self, facts: Mapping[str, Any] | None = None):
        self._facts = dict(facts or {})

    def on_start(self, trainer):
        adapter = trainer.adapter
        mine = {
            "world size": trainer.comm.size,
            **{f"version of {k}": v for k, v in versions(adapter.framework).items()},
            **{f"config value {key}": str(value) for key, value in self._facts.items()},
            "number of steps": trainer.num_steps,
            "first step": trainer.step,
            **_data_facts(trainer),
            "the digest of the initial weights": adapter.weights_sha256(),
        }
        require_equal(trainer.comm, mine, "ranks do not agree at the start")


class WeightDigest(Callback):
    """Every `every` steps (None: never) and at the end, compare a digest of the weights.

    It costs about a millisecond a megabyte of trainable weights.
    """

    every_rank = True

    def __init__(self, *, every: int | None = 500):
        self._every = every

    def on_step(self, trainer):
        if self._every and trainer.step % self._every == 0:
            self._check(trainer)

    def on_end(self, trainer, summary):
        self._check(trainer)

    def _check(self, trainer):
        digest = {"the digest": trainer.adapter.weights_sha256()}
        problem = f"ranks hold different weights after step {trainer.step}"
        require_equal(trainer.comm, digest, problem)


def _data_facts(trainer: Trainer) -> dict[str, int]:
    facts = {"number of training records": len(trainer.train_data.source)}
    if trainer.eval_data:
        facts["number of evaluation records"] = len(trainer.eval_data.source)
    return facts
