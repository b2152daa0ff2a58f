"""`hvdkit launch` and srun in allocations of a real Slurm: two nodes with no ssh between them."""

from __future__ import annotations

import re
import signal
import sys

import psutil
import pytest

from benchmarks.namespaces import hosts
from tests.distributed.conftest import Job
from tests.distributed.on_hosts import (
    ENV,
    LONG,
    SHORT,
    checkpointed_at,
    losses,
    placed,
    summary_of,
    vision,
)
from tests.distributed.slurm import slurm

pytestmark = pytest.mark.system("ip", "nsenter", "sshd", "slurmctld", "slurmd", "srun", "munged")

LAUNCH = (sys.executable, "-m", "hvdkit", "launch")
WAYS = {
    "launch": LAUNCH,
    "launch --mpi": (*LAUNCH, "--mpi"),
    "srun": ("srun", "--mpi=pmix", sys.executable),
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two nodes, and the environment in which Slurm's commands find them."""
    env = dict(ENV)
    with hosts(2) as made, slurm(made, tmp_path_factory.mktemp("slurm"), env):
        for host in made:
            host.refuse_ssh()
        yield made, env


@pytest.fixture(scope="module")
def allocated(cluster, start):
    """Start a command in an allocation of `tasks` tasks on both nodes."""
    made, env = cluster

    def allocated(*command, tasks=2, timeout=280):
        salloc = ["salloc", "--quiet", "--nodes=2", f"--ntasks={tasks}"]
        return start([*salloc, *command], host=made[0], env=env, timeout=timeout)

    return allocated


@pytest.fixture(scope="module")
def digests():
    return {}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_into_an_allocation_trains_the_same_model(
    way, cluster, allocated, digests, tmp_path
):
    job = allocated(*WAYS[way], *vision(tmp_path, *SHORT))
    assert job.wait() == 0, job.output
    assert placed(tmp_path, cluster[0])
    summary = summary_of(tmp_path)
    assert (summary["status"], summary["world_size"]) == ("completed", 2)
    digests[way] = summary["weights_sha256"]
    assert len(set(digests.values())) == 1


def test_sigterm_leaves_a_checkpoint(allocated, tmp_path):
    job = allocated(*LAUNCH, *vision(tmp_path, *LONG))
    job.wait_until(lambda: len(losses(tmp_path)) >= 2)
    launcher(job).terminate()
    assert job.wait() == 128 + signal.SIGTERM, job.output
    assert checkpointed_at(tmp_path) == summary_of(tmp_path)["steps"]


def launcher(job: Job) -> psutil.Process:
    (found,) = [p for p in job.processes() if p.cmdline()[: len(LAUNCH)] == list(LAUNCH)]
    return found


def test_a_rank_killed_on_the_other_node_is_named(allocated, tmp_path):
    job = allocated(*LAUNCH, *vision(tmp_path, *LONG))
    job.wait_until(lambda: len(losses(tmp_path)) >= 2)
    job.rank(1).kill()
    assert job.wait() == 128 + signal.SIGKILL, job.output
    assert re.search(r"^hvdkit: rank 1 \(host1, .* killed by SIGKILL", job.output, re.MULTILINE)


def test_tasks_that_cannot_find_each_other_do_not_train(allocated, tmp_path):
    job = allocated("srun", "--mpi=none", sys.executable, *vision(tmp_path, *SHORT))
    assert job.wait() == 1, job.output
    assert re.search(r"error: srun started 2 tasks .* srun --mpi=pmix", job.output)
    assert not losses(tmp_path)


def test_more_ranks_than_the_allocation_has_tasks_are_refused(allocated, tmp_path):
    job = allocated(*LAUNCH, "-np", "3", *vision(tmp_path))
    assert job.wait() == 1, job.output
    (line,) = job.output.splitlines()
    assert re.search("^hvdkit: 3 ranks do not fit in 2 slots .host0:1,host1:1", line)
