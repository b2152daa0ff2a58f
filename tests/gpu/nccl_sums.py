"""A program for ranks: sums of CUDA tensors through Horovod, written as JSON by rank 0.

python -m tests.gpu.nccl_sums FILE, under horovodrun with one rank a GPU.
"""

from __future__ import annotations

import json
import sys

import horovod.torch as hvd
import torch


def main(path: str) -> None:
    hvd.init()
    torch.cuda.set_device(hvd.local_rank())
    told = {}
    for name in ("float32", "float64", "float16", "bfloat16"):
        mine = torch.full((2**20,), hvd.rank() + 1, dtype=getattr(torch, name), device="cuda")
        total = hvd.allreduce(mine, op=hvd.Sum, name=name)
        told[name] = [total.min().item(), total.max().item(), str(total.device.type)]
    if hvd.rank() == 0:
        with open(path, "w") as file:
            json.dump({"size": hvd.size(), "sums": told}, file)
    hvd.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
