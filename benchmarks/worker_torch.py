"""One rank of one torch contender: python worker_torch.py CONTENDER MODEL STEPS OUT.

Every contender has one compute thread, the same weights at the start, the same batches a
rank and the same rule (SGD with momentum). step.py starts it.
"""

from __future__ import annotations

import functools
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


def _plain_loop(name, model, optimizer, barrier) -> Contender:
    """What a torch user writes, around whatever was done to the model or the optimizer."""
    data = _tensors(name)
    losses = []

    def step(i):
        image, label = data[i % len(data)]
        optimizer.zero_grad()
        loss = cross_entropy(model(image), label)
        loss.backward()
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


def ddp(name: str, model: torch.nn.Module, *, views: bool = False) -> Contender:
    """DistributedDataParallel over gloo with its defaults."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    model = torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=views)
    return _plain_loop(name, model, _sgd(model, name), dist.barrier)


def ddp_fp16(name: str, model: torch.nn.Module) -> Contender:
    """The same with its communication hook that sends halves."""
    import torch.distributed as dist
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

    dist.init_process_group("gloo")
    model = torch.nn.parallel.DistributedDataParallel(model)
    model.register_comm_hook(None, fp16_compress_hook)
    return _plain_loop(name, model, _sgd(model, name), dist.barrier)


def ddp_views(name: str, model: torch.nn.Module) -> Contender:
    """The same with gradient_as_bucket_view."""
    return ddp(name, model, views=True)


def horovod(name: str, model: torch.nn.Module) -> Contender:
    """hvd.DistributedOptimizer with its defaults."""
    import horovod.torch as hvd

    hvd.init()
    optimizer = hvd.DistributedOptimizer(
        _sgd(model, name), named_parameters=model.named_parameters()
    )
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    return _plain_loop(name, model, optimizer, hvd.barrier)


def hvdkit(
    name: str, model: torch.nn.Module, *, reduction: str = "AllReduce", compression: str = "none"
) -> Contender:
    """The call that hvdkit's trainer makes every step, with hvdkit's defaults."""
    from hvdkit import strategies
    from hvdkit.adapters import start
    from hvdkit.adapters.torch import TorchAdapter
    from hvdkit.gradients import compression as compressions
    from hvdkit.optimizers import SGD
    from hvdkit.tasks import Classification

    comm = start("torch", threads=1)
    encoding = getattr(compressions, COMPRESSIONS[compression])()
    adapter = TorchAdapter(
        model=model,
        task=Classification(layout="nchw"),
        optimizer=SGD(lr=MODELS[name].lr, momentum=MOMENTUM),
        strategy=getattr(strategies, reduction)(compression=encoding),
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

    return Contender(
        step,
        comm.barrier,
        mean_loss,
        lambda: list(adapter.read_trainable().values()),
        lambda: adapter.strategy.wire_bytes()[0],
    )


COMPRESSIONS = {
    "none": "NoCompression",
    "fp16": "FP16Compression",
    "bf16": "BF16Compression",
    "int8": "Int8Compression",
    "topk": "TopKCompression",
    "powersgd": "PowerSGDCompression",
}


CONTENDERS = {
    "single": single,
    "ddp": ddp,
    "ddp_fp16": ddp_fp16,
    "ddp_views": ddp_views,
    "horovod": horovod,
    "hvdkit": hvdkit,
    "hierarchical": functools.partial(hvdkit, reduction="Hierarchical"),
    **{f"hvdkit_{name}": functools.partial(hvdkit, compression=name) for name in COMPRESSIONS},
}


def main(contender: str, name: str, steps: str, out: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    measure(CONTENDERS[contender](name, MAKERS[name]()), steps=int(steps), out=Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
