"""What is counted as sent is what leaves through a host's network card."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.namespaces import hosts
from hvdkit.data import TrainData
from hvdkit.gradients import compression
from hvdkit.strategies import AllReduce, Hierarchical
from tests.distributed.conftest import ROOT

pytestmark = pytest.mark.system("ip", "tc", "unshare", "nsenter", "ssh", "sshd")
STEPS = 3
HIDDEN = [1024, 512]
PARAMETERS = (64 + 1) * 1024 + (1024 + 1) * 512 + (512 + 1) * 10
# What Horovod's negotiation, the count of samples and headers may add to a step's payload.
EXTRA, SHARE = 40_000, 0.02


def card():
    """Bytes this host has sent over its network card."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "eth0":
            return int(counters.split()[8])
    raise AssertionError("there is no eth0 here")


def measured(stage, strategy):
    """Bytes a step: as this rank counts them, as they would be uncompressed, as its host sent."""
    adapter = stage.adapter(
        model=lambda: stage.model("mlp", hidden=HIDDEN), precision="fp32", strategy=strategy
    )
    data = TrainData(stage.dataset.train, stage.task, batch_size=32, seed=0, prefetch=0)
    adapter.setup(seed=0, reference_count=32.0, example=data.example())
    replica = strategy.replica()
    first, *batches = data.batches(start=0, stop=STEPS + 1, replica=replica)
    adapter.train_step(first, step=0, lr=0.01)
    stage.comm.barrier()
    before = (*strategy.wire_bytes(), card())
    for step, batch in enumerate(batches, start=1):
        adapter.train_step(batch, step=step, lr=0.01)
    stage.comm.barrier()
    after = (*strategy.wire_bytes(), card())
    counted, plain, left = ((b - a) / STEPS for a, b in zip(before, after, strict=True))
    weights = adapter.weights_sha256()
    return {"counted": counted, "plain": plain, "left": left, "weights": weights}


def encodings(stage):
    kinds: list[Any] = [
        compression.NoCompression,
        compression.FP16Compression,
        compression.BF16Compression,
        compression.Int8Compression,
        compression.TopKCompression,
        compression.PowerSGDCompression,
    ]
    return {k.__name__: measured(stage, AllReduce(compression=k())) for k in kinds}


def hierarchy(stage):
    return {kind.__name__: measured(stage, kind()) for kind in (AllReduce, Hierarchical)}


@pytest.fixture(scope="module")
def two():
    with hosts(2) as made:
        yield made


@pytest.fixture(scope="module")
def results(start, two, tmp_path_factory):
    """What every rank of a case found, with so many of them on each of two hosts."""

    def results(case, per_host):
        folder = tmp_path_factory.mktemp("wire")
        places = ",".join(f"{host.name}:{per_host}" for host in two)
        command = [sys.executable, "-m", "hvdkit", "launch", "-H", places]
        program = ["-m", "tests.distributed.ranks", str(folder), "torch"]
        job = start(
            [*command, *program, case.__module__, case.__name__],
            host=two[0],
            env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            timeout=150,
        )
        assert job.wait() == 0, job.output
        files = [folder / f"rank-{rank}.json" for rank in range(2 * per_host)]
        return [json.loads(file.read_text())[case.__name__] for file in files]

    return results


def test_the_count_is_what_leaves_the_host(results):
    for rank in results(encodings, 1):
        for name, found in rank.items():
            assert found["plain"] == 4 * PARAMETERS, name
            assert found["counted"] <= found["left"], name
            assert found["left"] <= found["counted"] * (1 + SHARE) + EXTRA, name
        ratios = {name: found["counted"] / found["plain"] for name, found in rank.items()}
        assert ratios["NoCompression"] == 1.0
        assert ratios["FP16Compression"] == 0.5
        assert ratios["Int8Compression"] < 0.27
        assert ratios["TopKCompression"] < 0.05
        assert ratios["PowerSGDCompression"] < 0.1


def test_a_hierarchy_sends_gradients_once_between_hosts(results):
    first, *others = results(hierarchy, 2)
    for name, found in first.items():
        assert {rank[name]["weights"] for rank in others} == {found["weights"]}
    # A ring of four would send them one and a half times. Open MPI takes one for large messages
    # only; halving and doubling, which it takes for these, sends no more than a hierarchy.
    sent = first["Hierarchical"]["left"]
    assert 4 * PARAMETERS <= sent <= 4 * PARAMETERS * (1 + SHARE) + EXTRA
