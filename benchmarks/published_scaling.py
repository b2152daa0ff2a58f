"""The cost model against what Horovod's authors measured on 512 GPUs.

    python benchmarks/published_scaling.py

Published (arXiv:1802.05799 and Horovod's README): 128 servers of 4 Pascal GPUs, RoCE of 25 Gbit/s,
batch 64 a GPU: 90 % of linear scaling for Inception V3 and ResNet-101, 68 % for VGG-16. What goes
in is from other sources, each named below, and nothing is adjusted to the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

from hvdkit.gradients.cost import Algorithm, Cluster, Collective, Link, Message, Work, predict

BATCH = 64
PUBLISHED = {"Inception V3": 0.90, "ResNet-101": 0.90, "VGG-16": 0.68}
# Images a second on one P100 at batch 64: TensorFlow's own benchmarks of May 2017
# (tensorflow/docs_src/performance/benchmarks.md, "Training synthetic data", 1 GPU). ResNet-101
# is not among them: its time a multiplication is taken to lie between those of its siblings.
MEASURED = {"Inception V3": 142.0, "VGG-16": 154.0, "ResNet-50": 219.0, "ResNet-152": 91.8}
# A backward pass has two products for each of the forward pass's.
FORWARD = 1 / 3
# Latencies of a ring's hop over the network and over PCIe, and PCIe's bandwidth: the constants
# of NCCL's own tuning model (src/graph/tuning.cc, topo.h: Gen3 x16), for its two protocols.
# LL sends a flag with every word, which halves the bandwidth; NCCL takes the faster of the two.
PROTOCOLS = {
    "Simple": (Link(14e-6, 25e9 / 8), Link(5.7e-6, 12e9)),
    "LL": (Link(2.7e-6, 25e9 / 16), Link(1.0e-6, 6e9)),
}
# Horovod's defaults then: a cycle of 5 ms, fusion up to 64 MB.
CYCLE, FUSION = 5e-3, 64 * 2**20
WORKERS, PER_HOST = 512, 4


@dataclass(frozen=True)
class Layer:
    """A convolution (or, with `out` 1, a dense layer) and the batch norm behind it."""

    kernel: tuple[int, int]
    before: int
    after: int
    out: int  # pixels a side
    norm: bool = True

    @property
    def params(self) -> int:
        weights = self.kernel[0] * self.kernel[1] * self.before * self.after
        return weights + self.after * (2 if self.norm else 1)

    @property
    def products(self) -> int:
        return self.kernel[0] * self.kernel[1] * self.before * self.after * self.out**2


def vgg16() -> Iterator[Layer]:
    """Simonyan & Zisserman 2014 (arXiv:1409.1556), configuration D."""
    before, out = 3, 224
    for after, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            yield Layer((3, 3), before, after, out, norm=False)
            before = after
        out //= 2
    for before, after in ((512 * 49, 4096), (4096, 4096), (4096, 1000)):
        yield Layer((1, 1), before, after, 1, norm=False)


def resnet(blocks: tuple[int, int, int, int]) -> Iterator[Layer]:
    """He et al. 2015 (arXiv:1512.03385), bottlenecks."""
    yield Layer((7, 7), 3, 64, 112)
    before, out = 64, 56
    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
        for block in range(count):
            # The stride is on the first convolution of a stage's first block.
            out = out // 2 if stage and not block else out
            yield Layer((1, 1), before, width, out)
            yield Layer((3, 3), width, width, out)
            yield Layer((1, 1), width, 4 * width, out)
            if not block:
                yield Layer((1, 1), before, 4 * width, out)
            before = 4 * width
    yield Layer((1, 1), before, 1000, 1, norm=False)


def inception_v3() -> Iterator[Layer]:
    """Szegedy et al. 2015 (arXiv:1512.00567), without the auxiliary head."""
    for kernel, before, after, out in (
        (3, 3, 32, 149),
        (3, 32, 32, 147),
        (3, 32, 64, 147),
        (1, 64, 80, 73),
        (3, 80, 192, 71),
    ):
        yield Layer((kernel, kernel), before, after, out)
    for before, pooled in ((192, 32), (256, 64), (288, 64)):
        yield from _chain(before, 35, (1, 1, 64))
        yield from _chain(before, 35, (1, 1, 48), (5, 5, 64))
        yield from _chain(before, 35, (1, 1, 64), (3, 3, 96), (3, 3, 96))
        yield from _chain(before, 35, (1, 1, pooled))
    yield from _chain(288, 17, (3, 3, 384))
    yield from _chain(288, 35, (1, 1, 64), (3, 3, 96))
    yield from _chain(96, 17, (3, 3, 96))
    for c in (128, 160, 160, 192):
        yield from _chain(768, 17, (1, 1, 192))
        yield from _chain(768, 17, (1, 1, c), (1, 7, c), (7, 1, 192))
        yield from _chain(768, 17, (1, 1, c), (7, 1, c), (1, 7, c), (7, 1, c), (1, 7, 192))
        yield from _chain(768, 17, (1, 1, 192))
    yield from _chain(768, 17, (1, 1, 192))
    yield from _chain(192, 8, (3, 3, 320))
    yield from _chain(768, 17, (1, 1, 192), (1, 7, 192), (7, 1, 192))
    yield from _chain(192, 8, (3, 3, 192))
    for before in (1280, 2048):
        yield from _chain(before, 8, (1, 1, 320))
        yield from _chain(before, 8, (1, 1, 384), (1, 3, 384))
        yield from _chain(384, 8, (3, 1, 384))
        yield from _chain(before, 8, (1, 1, 448), (3, 3, 384), (1, 3, 384))
        yield from _chain(384, 8, (3, 1, 384))
        yield from _chain(before, 8, (1, 1, 192))
    yield Layer((1, 1), 2048, 1000, 1, norm=False)


def _chain(before: int, out: int, *steps: tuple[int, int, int]) -> Iterator[Layer]:
    for height, width, after in steps:
        yield Layer((height, width), before, after, out)
        before = after


MODELS = {
    "Inception V3": list(inception_v3()),
    "ResNet-101": list(resnet((3, 4, 23, 3))),
    "VGG-16": list(vgg16()),
}


def images_a_second(name: str) -> float:
    if name in MEASURED:
        return MEASURED[name]
    small, own, large = (
        sum(layer.products for layer in layers)
        for layers in (resnet((3, 4, 6, 3)), MODELS[name], resnet((3, 8, 36, 3)))
    )
    low, high = 1 / MEASURED["ResNet-50"], 1 / MEASURED["ResNet-152"]
    return 1 / (low + (high - low) * (own - small) / (large - small))


def work(name: str) -> Work:
    """A step on one GPU: layers' backward passes last as long as their products are many."""
    layers, step = MODELS[name], BATCH / images_a_second(name)
    total, at = sum(layer.products for layer in layers), FORWARD * step
    cycles: list[tuple[int, float]] = []  # (cycle, bytes) of each message
    for layer in reversed(layers):
        at += (1 - FORWARD) * step * layer.products / total
        cycle, nbytes = int(at / CYCLE) + 1, 4.0 * layer.params
        if cycles and cycles[-1][0] == cycle and cycles[-1][1] + nbytes <= FUSION:
            cycles[-1] = (cycle, cycles[-1][1] + nbytes)
        else:
            cycles.append((cycle, nbytes))
    messages = tuple(Message(cycle * CYCLE, (("allreduce", n),)) for cycle, n in cycles)
    return Work(step, 0.0, messages)


@dataclass(frozen=True)
class Gpus(Cluster):
    """A cluster whose collectives take the faster of some of NCCL's protocols."""

    protocols: tuple[str, ...] = tuple(PROTOCOLS)

    def seconds(self, kind: Collective, nbytes: float, algorithm: Algorithm = "ring") -> float:
        found = []
        for name in self.protocols:
            network, local = PROTOCOLS[name]
            links = Cluster(self.workers, network, self.local_workers, local)
            found.append(links.seconds(kind, nbytes, algorithm))
        return min(found)


def main() -> None:
    table = Table(
        title="512 GPUs, 4 a host, 25 Gbit/s, batch 64 a GPU: scaling efficiency",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for heading in ("model", "parameters", "NCCL protocols"):
        table.add_column(heading)
    for heading in ("GPU ms", "wire ms", "step ms", "predicted", "published", "error, points"):
        table.add_column(heading, justify="right", no_wrap=True)
    network, local = PROTOCOLS["Simple"]
    for protocols in (("Simple",), ("Simple", "LL")):
        # Messages leave at the end of a cycle already; what is left is the ranks' agreement.
        cluster = Gpus(WORKERS, network, PER_HOST, local, cycle=0.0, protocols=protocols)
        for name, published in PUBLISHED.items():
            one = work(name)
            found = predict(one, cluster)
            params = sum(layer.params for layer in MODELS[name])
            times = (f"{1e3 * t:.0f}" for t in (one.seconds, found.wire_seconds, found.seconds))
            error = f"{100 * (found.efficiency - published):+.1f}"
            shares = f"{found.efficiency:.1%}", f"{published:.0%}", error
            table.add_row(name, f"{params / 1e6:.1f} M", "/".join(protocols), *times, *shares)
        table.add_section()
    Console(width=110, highlight=False).print(table)


if __name__ == "__main__":
    main()
