"""What a launcher says about a process, and what Horovod and Open MPI are told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdkit.errors import HvdkitError
from hvdkit.launch.command import Request, environment
from hvdkit.launch.environment import (
    _MPI_RULES,
    HorovodSettings,
    Job,
    available_cores,
    current_job,
    default_threads,
    export,
    ranks_exceed_cores,
    require_connected,
)
from hvdkit.launch.hosts import Host

RULES = "OMPI_MCA_coll_tuned_"
MPI = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
GLOO = {
    "HOROVOD_RANK": "2",
    "HOROVOD_SIZE": "3",
    "HOROVOD_LOCAL_RANK": "0",
    "HOROVOD_LOCAL_SIZE": "1",
}
# What `srun --mpi=pmix` gives rank 3 of 5, the first of a node that has two.
SRUN = {
    "PMIX_RANK": "3",
    "SLURM_PROCID": "3",
    "SLURM_NTASKS": "5",
    "SLURM_NODEID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_TASKS_PER_NODE": "3,2",
}
YIELD = "OMPI_MCA_mpi_yield_when_idle"


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The process's environment, given back afterwards; only what Horovod reads is taken out."""
    changed = {k: v for k, v in os.environ.items() if not k.startswith(("HOROVOD_", "OMPI_"))}
    with monkeypatch.context() as patch:
        patch.setattr(os, "environ", changed)
        yield changed


@pytest.mark.parametrize(
    ("variables", "job"),
    [
        ({}, Job("none", 0, 1, 0, 1)),
        (MPI, Job("mpi", 3, 4, 1, 2)),
        ({**MPI, "HVDKIT_HOSTS": "2"}, Job("mpi", 3, 4, 1, 2, hosts=2)),
        (GLOO, Job("gloo", 2, 3, 0, 1)),
        # A Gloo job started from inside an MPI or Slurm allocation.
        ({**MPI, **GLOO}, Job("gloo", 2, 3, 0, 1)),
        (SRUN, Job("srun", 3, 5, 0, 2, hosts=2)),
        ({**SRUN, **MPI}, Job("mpi", 3, 4, 1, 2)),
        # A shell that srun opened is no rank, nor is a batch script, though Slurm counts it as one.
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "PMIX_RANK": "0"}, Job()),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0"}, Job()),
        # Settings that Horovod reads are no launcher.
        ({"HOROVOD_CYCLE_TIME": "1"}, Job("none", 0, 1, 0, 1)),
    ],
)
def test_the_job_is_the_launchers(variables: dict[str, str], job: Job) -> None:
    assert current_job(variables) == job


def test_tasks_of_srun_that_each_would_train_alone_are_refused() -> None:
    for variables in ({}, SRUN, {**SRUN, **MPI}):
        require_connected(current_job(variables), variables)
    alone = {name: value for name, value in SRUN.items() if name != "PMIX_RANK"}
    with pytest.raises(HvdkitError, match=r"srun started 5 tasks.*--mpi=pmix"):
        require_connected(current_job(alone), alone)


@given(ranks=st.integers(1, 64), cores=st.integers(1, 64))
def test_cores_are_shared_out(ranks: int, cores: int) -> None:
    threads = default_threads(ranks, cores)
    assert threads >= 1
    assert ranks * threads <= max(cores, ranks)
    assert ranks * (threads + 1) > cores


def test_cores_are_the_process_own() -> None:
    assert 1 <= available_cores() <= len(os.sched_getaffinity(0))


@given(ranks=st.integers(1, 64), threads=st.integers(1, 16), cores=st.integers(1, 256))
def test_ranks_exceed_cores_by_their_threads_and_horovods(
    ranks: Any, threads: Any, cores: Any
) -> None:
    assert ranks_exceed_cores(ranks, threads, cores) == (ranks * threads + ranks > cores)


@pytest.mark.parametrize(
    ("given", "flags"),
    [
        ({}, "send,inplace"),
        ({"OMPI_MCA_btl_tcp_flags": "send"}, "send"),
        ({"OMPI_MCA_btl_tcp_links": "2"}, None),
    ],
)
def test_data_is_sent_over_tcp_without_being_asked_for(
    environ: dict[str, str], given: dict[str, str], flags: str | None
) -> None:
    environ.update(given)
    export(HorovodSettings(), Job("mpi", 0, 2, 0, 2), threads=1)
    assert environ.get("OMPI_MCA_btl_tcp_flags") == flags


@pytest.mark.parametrize(
    ("job", "has"),
    [
        (Job("mpi", 0, 3, 0, 3), True),
        (Job("mpi", 0, 3, 0, 3, hosts=1), True),
        (Job("mpi", 0, 4, 0, 1, hosts=4), True),
        (Job("mpi", 0, 6, 0, 3, hosts=2), True),
        (Job("mpi", 0, 4, 0, 2, hosts=2), False),
        # The same for every rank, also where the hosts' ranks are not as many.
        (Job("mpi", 0, 4, 0, 1, hosts=2), False),
        (Job("mpi", 0, 4, 0, 3, hosts=2), False),
    ],
    ids=str,
)
def test_open_mpi_has_rules_for_its_algorithms(
    environ: dict[str, str], job: Job, has: bool
) -> None:
    export(HorovodSettings(), job, threads=1)
    assert (environ.get(RULES + "use_dynamic_rules") == "1") is has
    assert (RULES + "dynamic_rules_filename" in environ) is has
    assert not has or Path(environ[RULES + "dynamic_rules_filename"]).is_file()


@pytest.mark.parametrize(("allocation", "told"), [(False, "2"), (True, None)])
def test_the_launcher_tells_ranks_on_how_many_hosts_they_are(allocation: bool, told: str) -> None:
    """Where it knows; what an outer launch told its own ranks is not for these."""
    places = (Host("a", 2), Host("b", 2))
    request = Request(program=("train",), ranks=4, hosts=places, allocation=allocation)
    assert environment(request, {"HVDKIT_HOSTS": "9"}).get("HVDKIT_HOSTS") == told


def test_two_ranks_keep_open_mpis_choice() -> None:
    """Open MPI takes the first entry also where it is for more ranks than there are."""
    lines = _MPI_RULES.read_text().splitlines()
    numbers = iter([int(word) for line in lines for word in line.partition("#")[0].split()])
    for _ in range(next(numbers)):
        next(numbers)  # which collective
        rules = {}
        for _ in range(next(numbers)):
            ranks, sizes = next(numbers), next(numbers)
            rules[ranks] = [[next(numbers) for _ in range(4)] for _ in range(sizes)]
        assert rules[2] == [[0, 0, 0, 0]]
        assert list(rules) == sorted(rules)
        assert {each[0][0] for each in rules.values()} == {0}
    assert list(numbers) == []


def test_the_users_choice_of_algorithm_is_kept(environ: dict[str, str]) -> None:
    environ[RULES + "bcast_algorithm"] = "3"  # says nothing of sums
    export(HorovodSettings(), Job("mpi", 0, 3, 0, 3), threads=1)
    assert RULES + "dynamic_rules_filename" in environ
    del environ[RULES + "dynamic_rules_filename"], environ[RULES + "use_dynamic_rules"]
    environ[RULES + "allreduce_algorithm"] = "3"
    export(HorovodSettings(), Job("mpi", 0, 3, 0, 3), threads=1)
    assert RULES + "dynamic_rules_filename" not in environ


def test_ranks_yield_only_where_they_exceed_the_cores(environ: dict[str, str]) -> None:
    export(HorovodSettings(), Job("mpi", 0, 2, 0, 0), threads=1)
    assert YIELD not in environ
    export(HorovodSettings(), Job("mpi", 0, 2, 0, available_cores()), threads=1)
    assert environ[YIELD] == "1"


def test_what_the_user_said_about_yielding_stays(environ: dict[str, str]) -> None:
    environ[YIELD] = "0"
    export(HorovodSettings(), Job("mpi", 0, 2, 0, available_cores()), threads=1)
    assert environ[YIELD] == "0"


TWO = Job("mpi", 0, 2, 0, 2)


def test_a_knob_that_one_worker_has_no_use_for_is_refused(environ: dict[str, str]) -> None:
    with pytest.raises(HvdkitError, match=r"comm\.timeline does nothing with one worker"):
        export(HorovodSettings(timeline="trace.json"), Job(), threads=1)


def test_settings_reach_horovod_in_its_own_units(environ: dict[str, str]) -> None:
    settings = HorovodSettings(
        fusion_threshold_mb=2.0, cycle_time_ms=0.5, cache_capacity=0, timeline="trace.json"
    )
    export(settings, TWO, threads=1)
    assert environ["HOROVOD_FUSION_THRESHOLD"] == str(2 * 2**20)
    assert float(environ["HOROVOD_CYCLE_TIME"]) == 0.5
    assert environ["HOROVOD_CACHE_CAPACITY"] == "0"
    assert environ["HOROVOD_TIMELINE"] == "trace.json"


def test_by_default_our_buckets_are_the_fusion_and_the_rest_is_horovods(
    environ: dict[str, str],
) -> None:
    export(HorovodSettings(), TWO, threads=1)
    assert environ["HOROVOD_FUSION_THRESHOLD"] == "0"
    for name in ("HOROVOD_CYCLE_TIME", "HOROVOD_CACHE_CAPACITY", "HOROVOD_TIMELINE"):
        assert name not in environ


def test_a_launchers_flag_that_says_otherwise_is_refused(environ: dict[str, str]) -> None:
    environ["HOROVOD_CYCLE_TIME"] = "3.5"
    with pytest.raises(HvdkitError, match=r"HOROVOD_CYCLE_TIME=3\.5 .* 1\.0 from the config"):
        export(HorovodSettings(cycle_time_ms=1.0), TWO, threads=1)


def test_a_launchers_flag_that_says_the_same_is_not(environ: dict[str, str]) -> None:
    environ["HOROVOD_CYCLE_TIME"] = "1"
    export(HorovodSettings(cycle_time_ms=1.0), TWO, threads=1)
    environ["HOROVOD_TIMELINE"] = "launchers.json"
    export(HorovodSettings(), TWO, threads=1)
    assert environ["HOROVOD_TIMELINE"] == "launchers.json"
