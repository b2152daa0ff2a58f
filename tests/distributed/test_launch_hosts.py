"""`hvdkit launch` on several hosts, over ssh: where the ranks are, what they reach, how it ends."""

from __future__ import annotations

import math
import os
import re
import signal
import sys
import time
from contextlib import contextmanager

import pytest

from benchmarks.namespaces import hosts
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

pytestmark = pytest.mark.system("ip", "tc", "unshare", "nsenter", "ssh", "sshd")

SECONDS = 10.0  # for wrong input to be told, on an idle machine


@pytest.fixture(scope="module")
def two():
    with hosts(2) as made:
        yield made


@pytest.fixture(scope="module")
def launch(start):
    """Start `hvdkit launch` on the first of some hosts, a rank on each unless flags say more."""

    def launch(made, *words, flags=None, timeout=280):
        if flags is None:
            flags = ["-H", ",".join(f"{host.name}:1" for host in made)]
        command = [sys.executable, "-m", "hvdkit", "launch", *flags, *words]
        return start(command, host=made[0], env=ENV, timeout=timeout)

    return launch


@pytest.fixture(scope="module")
def alone(recipe, tmp_path_factory):
    """One worker's losses, step by step."""
    folder = tmp_path_factory.mktemp("alone")
    job = recipe(folder, *SHORT, env=ENV)
    assert job.wait() == 0, job.output
    return losses(folder)


def same(found, expected):
    return all(math.isclose(a, b, rel_tol=1e-8) for a, b in zip(found, expected, strict=False))


def nothing_is_left(made):
    # An ssh session outlives what it ran by a moment.
    end = time.monotonic() + 10
    while (left := [p for host in made for p in host.processes()]) and time.monotonic() < end:
        time.sleep(0.05)
    assert not left


@pytest.fixture(scope="module")
def digests():
    return {}


@pytest.mark.parametrize("launcher", ["mpi", "gloo"])
def test_ranks_on_two_hosts_train_as_one_worker_does(
    launcher, two, launch, alone, digests, tmp_path
):
    flags = ["-np", "2", "-H", "host0:1,host1:1", f"--{launcher}"]
    sent = two[1].sent()
    job = launch(two, *vision(tmp_path, *SHORT), flags=flags)
    assert job.wait() == 0, job.output
    assert placed(tmp_path, two)
    nothing_is_left(two)
    summary = summary_of(tmp_path)
    assert (summary["status"], summary["world_size"]) == ("completed", 2)
    found = losses(tmp_path)
    assert len(found) == len(alone)
    assert same(found, alone)
    # Each rank's gradients did go over the wire: 2 x half of 2,410 weights, a step.
    assert two[1].sent() - sent > 12 * 2410 * 8
    # A sum of two is the same in either order: MPI and Gloo agree to the last bit.
    digests[launcher] = summary["weights_sha256"]
    assert len(set(digests.values())) == 1


def test_on_four_hosts_sigterm_leaves_a_checkpoint_and_nothing_else(launch, alone, tmp_path):
    with hosts(4) as four:
        job = launch(four, *vision(tmp_path, *LONG))
        job.wait_until(lambda: len(losses(tmp_path)) >= 12)
        assert placed(tmp_path, four)
        job.send(signal.SIGTERM)
        assert job.wait() == 128 + signal.SIGTERM, job.output
        nothing_is_left(four)
    summary = summary_of(tmp_path)
    assert (summary["status"], summary["world_size"]) == ("interrupted", 4)
    assert same(losses(tmp_path), alone)
    assert checkpointed_at(tmp_path) == summary["steps"]


@pytest.mark.parametrize("launcher", ["mpi", "gloo"])
def test_a_rank_killed_on_another_host_is_named_and_ends_the_job(launcher, two, launch, tmp_path):
    flags = ["-H", "host0:1,host1:1", f"--{launcher}"]
    job = launch(two, *vision(tmp_path, *LONG), flags=flags)
    job.wait_until(lambda: len(losses(tmp_path)) >= 2)
    job.rank(1).kill()
    assert job.wait() not in (0, 124), job.output
    assert re.search(r"^hvdkit: rank 1 \(host1, process \d+\) was killed", job.output, re.MULTILINE)
    nothing_is_left(two)


# What is wrong, on which command line, and what must be said of it.
WRONG = {
    "a name that nobody knows": (["-H", "host0:1,nonsuch:1"], "nonsuch .*name is not known"),
    "an address that nobody has": (["-H", "host0:1,10.77.0.99:1"], "10.77.0.99 .*not answer"),
    "more ranks than slots": (["-np", "5", "-H", "host0:2,host1:2"], "5 ranks .* 4 slots"),
    "no number of slots": (["-H", "host0:1,host1:two"], "'host1:two'.*write NAME:SLOTS"),
    "no hostfile": (["--hostfile", "nonsuch"], "nonsuch cannot be read"),
    "a hostfile with an error": (
        ["--hostfile", "{folder}/hostfile"],
        "'slots=two' in line 3 of .*hostfile.*write NAME slots=N",
    ),
}


@pytest.mark.parametrize("launcher", ["mpi", "gloo"])
@pytest.mark.parametrize("case", WRONG)
def test_wrong_hosts_are_told_in_one_line(case, launcher, two, launch, tmp_path):
    flags, message = WRONG[case]
    (tmp_path / "hostfile").write_text("# ours\nhost0 slots=1\nhost1 slots=two\n")
    flags = [flag.format(folder=tmp_path) for flag in flags]
    told_in_one_line(launch(two, *vision(tmp_path), flags=[*flags, f"--{launcher}"]), message)


def told_in_one_line(job, message):
    start = time.monotonic()
    assert job.wait() == 1, job.output
    took = time.monotonic() - start
    (line,) = job.output.splitlines()
    assert re.search(f"^hvdkit: .*{message}", line)
    assert took < SECONDS * max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))


@contextmanager
def no_sshd(made):
    made[1].refuse_ssh()
    yield
    made[1].accept_ssh()


@contextmanager
def unplugged(made):
    made[1].unplug()
    yield
    made[1].plug()


@contextmanager
def without(made, file):
    made[0].run(["mv", file, f"{file}.away"])
    yield
    made[0].run(["mv", f"{file}.away", file])


BROKEN = {
    "no sshd": (no_sshd, "host1 .*nothing listens for ssh.*start sshd"),
    "no answer": (unplugged, "host1 .*does not answer"),
    "no key": (lambda made: without(made, "/run/ssh/id"), "host1 .*authorized_keys"),
    "a stranger": (lambda made: without(made, "/run/ssh/known_hosts"), "host1 .*known_hosts"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_host_that_cannot_be_entered_is_told_in_one_line(case, two, launch, tmp_path):
    breakage, message = BROKEN[case]
    with breakage(two):
        told_in_one_line(launch(two, *vision(tmp_path)), message)
    nothing_is_left(two)


@pytest.mark.parametrize(("launcher", "size"), [("mpi", "64k"), ("gloo", "4k")])
def test_a_full_disk_is_told_in_one_line(launcher, size, two, launch):
    """64 KiB take the run's configuration, but no checkpoint; 4 not even that."""
    for host in two:
        host.run(["sh", "-c", f"mkdir /run/small && mount -t tmpfs -o size={size} none /run/small"])
    flags = ["-H", "host0:1,host1:1", f"--{launcher}"]
    job = launch(two, *vision("/run/small/run", *SHORT), flags=flags)
    assert job.wait() == 1, job.output
    (error,) = job.errors
    assert re.search(r"No space left on device.*Free some space.*hydra.run.dir", error)
    assert "hvdkit: " not in job.output
    nothing_is_left(two)
    for host in two:
        host.run(["sh", "-c", "umount /run/small && rmdir /run/small"])
