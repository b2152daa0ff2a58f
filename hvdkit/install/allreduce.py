"""The proof that an installed Horovod works: one allreduce whose answer is known.

A program, run as `python -m hvdkit.install.allreduce torch` on every rank under `horovodrun`;
each rank contributes other numbers and prints one line when the sum came back right. It is
the only module here that loads a framework, and nothing imports it.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

LENGTH = 1000
PROOF = "hvdkit-proof"


def contribution(framework: str, module: Any, rank: int) -> Any:
    """This rank's numbers: (rank + 1) * [0, 1, 2, ...], on the GPU where each rank has one."""
    if framework == "torch":
        device = f"cuda:{rank}" if module.cuda.is_available() else "cpu"
        return module.arange(LENGTH, dtype=module.float32, device=device) * (rank + 1)
    gpus = module.config.list_physical_devices("GPU")
    if gpus:
        module.config.set_visible_devices(gpus[rank], "GPU")
    return module.range(LENGTH, dtype=module.float32) * (rank + 1)


def main(framework: str) -> int:
    module = importlib.import_module(framework)
    hvd = importlib.import_module(f"horovod.{framework}")
    hvd.init()
    rank, size = hvd.rank(), hvd.size()
    total = hvd.allreduce(contribution(framework, module, rank), op=hvd.Sum, name="proof")
    weight = size * (size + 1) // 2
    got = total.cpu().numpy() if framework == "torch" else total.numpy()
    wrong = [i for i in range(LENGTH) if got[i] != weight * i]
    if wrong:
        i = wrong[0]
        print(f"rank {rank}: element {i} of the sum is {got[i]}, not {weight * i}", flush=True)
        return 1
    print(f"{PROOF} {framework} rank {rank} of {size}", flush=True)
    hvd.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
