"""One rank of one torch contender: python worker_torch.py CONTENDER MODEL STEPS OUT.

hvdkit's may be followed by config overrides, as in hvdkit:compression=int8,comm.bucket_mb=8.

Every contender has one compute thread, the same weights at the start, the same batches a
rank and the same rule (SGD with momentum). step.py starts it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from models_torch import MAKERS
from torch.nn.functional import cross_entropy
from workload import MODELS, MOMENTUM, Contender, batches, measure, rank_and_size


def _tensors(name):
    rank, _ = rank_and_size()
    return [
        (torch.from_numpy(batch["image"]), torch.from_numpy(batch["label"]))
        for batch in batches(MODELS[name], rank)
    ]


def _sgd(model, name):
    return torch.optim.SGD(model.parameters(), lr=MODELS[name].lr, momentum=MOMENTUM)


def _plain_loop(name, model, optimizer, barrier, backward=torch.Tensor.backward) -> Contender:
    """What a torch user writes, around whatever was done to the model or the optimizer."""
    data = _tensors(name)
    losses = []

    def step(i):
        image, label = data[i % len(data)]
        optimizer.zero_grad()
        loss = cross_entropy(model(image), label)
        backward(loss)
        optimizer.step()
        losses.append(loss.detach())

    def mean_loss():
        mean = float(torch.stack(losses).mean())
        losses.clear()
        return mean

    def weights():
        return [param.detach().numpy() for param in model.parameters()]

    return Contender(step, barrier, mean_loss, weights)


def single(name: str, model: torch.nn.Module) -> Contender:
    """One process alone, no communication: the limit."""
    return _plain_loop(name, model, _sgd(model, name), lambda: None)


def _ddp(name: str, model: torch.nn.Module, *, views: bool = False):
    import torch.distributed as dist

    dist.init_process_group("gloo")
    wrapped = torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=views)
    return _plain_loop(name, wrapped, _sgd(wrapped, name), dist.barrier), wrapped


def ddp(name: str, model: torch.nn.Module) -> Contender:
    """DistributedDataParallel over gloo with its defaults."""
    return _ddp(name, model)[0]


def ddp_fp16(name: str, model: torch.nn.Module) -> Contender:
    """The same with torch's own hook that sends gradients in half precision."""
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

    contender, wrapped = _ddp(name, model)
    wrapped.register_comm_hook(state=None, hook=fp16_compress_hook)
    return contender


def ddp_views(name: str, model: torch.nn.Module) -> Contender:
    """The same with gradient_as_bucket_view."""
    return _ddp(name, model, views=True)[0]


def accelerate(name: str, model: torch.nn.Module) -> Contender:
    """Accelerate's loop: prepare, then its backward in place of the loss's."""
    import torch.distributed as dist
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(model, _sgd(model, name))
    torch.set_num_threads(1)  # it may have set its own
    return _plain_loop(name, model, optimizer, dist.barrier, backward=accelerator.backward)


def fabric(name: str, model: torch.nn.Module) -> Contender:
    """Lightning Fabric's loop, with its DDP strategy."""
    import torch.distributed as dist
    from lightning.fabric import Fabric
    from lightning.fabric.plugins.environments import LightningEnvironment

    _, size = rank_and_size()
    # Left to itself it asks mpi4py, which ends a process that no launcher of MPI's has started.
    environment = LightningEnvironment()
    lightning = Fabric(accelerator="cpu", devices=size, strategy="ddp", plugins=[environment])
    lightning.launch()
    model, optimizer = lightning.setup(model, _sgd(model, name))
    torch.set_num_threads(1)
    return _plain_loop(name, model, optimizer, dist.barrier, backward=lightning.backward)


def lightning(name: str, model: torch.nn.Module) -> Contender:
    """Lightning's Trainer, which owns the loop: `run` hands it as many batches as there are
    steps, and its own hook after each batch says when a step was over."""
    from lightning_contender import contender

    return contender(name, model, _tensors(name), _sgd)


def horovod(name: str, model: torch.nn.Module) -> Contender:
    """hvd.DistributedOptimizer with its defaults."""
    import horovod.torch as hvd

    hvd.init()
    optimizer = hvd.DistributedOptimizer(
        _sgd(model, name), named_parameters=model.named_parameters()
    )
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    return _plain_loop(name, model, optimizer, hvd.barrier)


def hvdkit(name: str, model: torch.nn.Module, *overrides: str) -> Contender:
    """The call that hvdkit's trainer makes every step, with hvdkit's defaults or `overrides`."""
    from hydra import compose, initialize_config_module

    from hvdkit.adapters import start
    from hvdkit.adapters.torch import TorchAdapter
    from hvdkit.config import build
    from hvdkit.optimizers import SGD
    from hvdkit.tasks import Classification

    comm = start("torch", threads=1)
    with initialize_config_module("hvdkit.conf", version_base="1.3"):
        config = compose("vision", list(overrides))
    adapter = TorchAdapter(
        model=model,
        task=Classification(layout="nchw"),
        optimizer=SGD(lr=MODELS[name].lr, momentum=MOMENTUM),
        strategy=build(config.strategy, compression=build(config.compression)),
        comm=comm,
    )
    data = batches(MODELS[name], comm.rank)
    adapter.setup(seed=0, reference_count=MODELS[name].batch * comm.size, example=data[0])

    def step(i):
        adapter.train_step([data[i % len(data)]], step=i, lr=MODELS[name].lr)

    def mean_loss():
        total, count = adapter.totals
        adapter.totals = (0.0, 0.0)
        return total / count

    return Contender(step, comm.barrier, mean_loss, lambda: list(adapter.read_trainable().values()))


CONTENDERS = {
    "single": single,
    "ddp": ddp,
    "ddp_views": ddp_views,
    "ddp_fp16": ddp_fp16,
    "lightning": lightning,
    "fabric": fabric,
    "accelerate": accelerate,
    "horovod": horovod,
    "hvdkit": hvdkit,
}


def main(contender: str, name: str, steps: str, out: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    which, _, overrides = contender.partition(":")
    words = overrides.split(",") if overrides else []
    measure(CONTENDERS[which](name, MAKERS[name](), *words), steps=int(steps), out=Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
