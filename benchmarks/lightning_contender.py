"""Lightning's Trainer as a contender: the loop is its own."""

from __future__ import annotations

import itertools
import logging
import time
import warnings

import lightning
import numpy as np
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, IterableDataset
from workload import Contender, rank_and_size


class _Batches(IterableDataset):
    """Made ahead, gone over in turn: this rank's own, as every contender has them."""

    def __init__(self, batches, count):
        self._batches, self._count = batches, count

    def __iter__(self):
        return itertools.islice(itertools.cycle(self._batches), self._count)


class _Module(lightning.LightningModule):
    def __init__(self, model, make_optimizer):
        super().__init__()
        self.model, self._make_optimizer = model, make_optimizer
        self.losses: list[torch.Tensor] = []

    def training_step(self, batch, _):
        image, label = batch
        loss = cross_entropy(self.model(image), label)
        self.losses.append(loss.detach())
        return loss

    def configure_optimizers(self):
        return self._make_optimizer()


class _Stamps(lightning.Callback):
    def __init__(self):
        self.times: list[float] = []

    def on_train_batch_end(self, *_):
        self.times.append(time.perf_counter())


def contender(name: str, model: torch.nn.Module, data, sgd) -> Contender:
    """`Trainer(strategy="ddp").fit` with what only prints or writes turned off."""
    _, size = rank_and_size()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    module = _Module(model, lambda: sgd(model, name))

    def run(warm_up: int, steps: int):
        stamps = _Stamps()
        trainer = lightning.Trainer(
            accelerator="cpu",
            strategy="ddp",
            devices=size,
            # Not found out: asking mpi4py ends a process that MPI's launcher has not started.
            plugins=[LightningEnvironment()],
            max_steps=warm_up + steps,
            callbacks=[stamps],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, DataLoader(_Batches(data, warm_up + steps), batch_size=None))
        seconds = np.diff(stamps.times[warm_up - 1 :]).tolist()
        losses = torch.stack(module.losses)
        return seconds, [float(losses[:warm_up].mean()), float(losses[warm_up:].mean())]

    def weights():
        return [param.detach().numpy() for param in model.parameters()]

    return Contender(None, lambda: None, lambda: 0.0, weights, run)
