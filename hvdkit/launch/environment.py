"""What the launcher says about this process, and the settings Horovod and MPI read.

Both live in environment variables, so all of this works before anything is imported.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from hvdkit.errors import HvdkitError
from hvdkit.launch.hosts import expand_counts
from hvdkit.schema import at_least, positive

# rank, size, local rank, local size; Horovod's own come first because its Gloo launcher
# can be started from inside another MPI or Slurm job.
_LAUNCHERS = {
    "gloo": ("HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK", "HOROVOD_LOCAL_SIZE"),
    "mpi": (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
}
# How hvdkit launch tells all ranks on how many hosts they are.
HOSTS = "HVDKIT_HOSTS"
# How a sweep tells a job its part of a host: how many slots that has, and each rank's GPU.
HOST_SLOTS, DEVICES = "HVDKIT_HOST_SLOTS", "HVDKIT_DEVICES"
_MPI_RULES = Path(__file__).parent / "open_mpi_rules.conf"
_TUNED = "OMPI_MCA_coll_tuned_"
# Where a user has set one of these, it counts instead of our rules.
_OTHER_RULES = (
    "use_dynamic_rules",
    "dynamic_rules_filename",
    "allreduce_algorithm",
    "allgatherv_algorithm",
)


@dataclass(frozen=True)
class Job:
    """One process's place in its job.

    `launcher` is "gloo", "mpi", "srun", or "none" outside of one. `host_slots` counts the ranks
    that this host has room for, where other jobs' are among them. `hosts` counts those of the job
    where hvdkit launch or Slurm has told all ranks; else it is 0.
    """

    launcher: str = "none"
    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    host_slots: int = 0
    hosts: int = 0

    @property
    def sharers(self) -> int:
        """How many ranks share this host's cores, as far as is known."""
        return max(self.local_size, self.host_slots)


def current_job(environ: Mapping[str, str] = os.environ) -> Job:
    """This process's job, as its launcher described it."""
    host_slots = int(environ.get(HOST_SLOTS, 0))
    for launcher, names in _LAUNCHERS.items():
        if names[1] in environ:
            job = Job(launcher, *(int(environ[name]) for name in names))
            return replace(job, host_slots=host_slots, hosts=int(environ.get(HOSTS, 0)))
    # A batch script has SLURM_PROCID too, but is no step; a shell that srun opens is one of one.
    if int(environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        return replace(_srun_job(environ), host_slots=host_slots)
    return Job(host_slots=host_slots)


def _srun_job(environ: Mapping[str, str]) -> Job:
    tasks = expand_counts(environ["SLURM_STEP_TASKS_PER_NODE"])
    return Job(
        "srun",
        rank=int(environ["SLURM_PROCID"]),
        size=int(environ["SLURM_STEP_NUM_TASKS"]),
        local_rank=int(environ["SLURM_LOCALID"]),
        local_size=tasks[int(environ["SLURM_NODEID"])],
        hosts=len(tasks),
    )


def require_connected(job: Job, environ: Mapping[str, str] = os.environ) -> None:
    """Raise `HvdkitError` if srun started this job's ranks in a way that leaves each alone."""
    if job.launcher == "srun" and "PMIX_RANK" not in environ:
        raise HvdkitError(
            f"srun started {job.size} tasks that cannot find each other, and each would train "
            "alone: start them with srun --mpi=pmix, or with hvdkit launch in the allocation"
        )


def status_of(code: int) -> int:
    """A process's exit status as a shell has it: 128 + the signal for one that was killed."""
    return 128 - code if code < 0 else code


def take_devices(job: Job) -> None:
    """See only the GPUs of the slots that a sweep gave this job; before a framework is imported.

    DEVICES names one a rank; ranks fill host by host, so this host's stand together.
    """
    given = os.environ.get(DEVICES)
    if given:
        first = job.rank - job.local_rank
        own = given.split(",")[first : first + job.local_size]
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(own)


def default_threads(sharers: int, cores: int | None = None) -> int:
    """Compute threads a rank: the host's cores shared out, at least one."""
    return max(1, (cores or available_cores()) // sharers)


def available_cores() -> int:
    """Cores this process may use: its affinity, and the quota of its container if smaller."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()
        if quota != "max":
            cores = min(cores, max(1, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return cores


@dataclass(frozen=True, kw_only=True)
class HorovodSettings:
    """Horovod's own knobs; None leaves Horovod's default.

    Units are in the names. `fusion_threshold_mb` is 0 because hvdkit's buckets are the
    fusion: with Horovod's, equal reductions at three ranks differ in their last bits.
    """

    fusion_threshold_mb: float = at_least(0, default=0.0)
    cycle_time_ms: float | None = positive(default=None)
    cache_capacity: int | None = at_least(0, default=None)
    timeline: str | None = None

    def given(self) -> list[str]:
        """The knobs that were set by someone, but for a timeline that is only made possible."""
        unset = (None, "DYNAMIC")
        names = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        return [name for name in names if name != "timeline" or self.timeline not in unset]

    def variables(self) -> dict[str, str]:
        """The environment variables that say this."""
        values = {
            "HOROVOD_FUSION_THRESHOLD": str(int(self.fusion_threshold_mb * 2**20)),
            "HOROVOD_CYCLE_TIME": self.cycle_time_ms,
            "HOROVOD_CACHE_CAPACITY": self.cache_capacity,
            "HOROVOD_TIMELINE": self.timeline,
            "HOROVOD_DYNAMIC_PROCESS_SETS": "1",
        }
        return {name: str(value) for name, value in values.items() if value is not None}


def export(settings: HorovodSettings, job: Job, *, threads: int) -> None:
    """Put the settings where Horovod and Open MPI look; call it before Horovod starts.

    Raises `HvdkitError` if one would be ignored in silence: because a launcher's flag set it
    to something else, or because one worker does not use Horovod at all.
    """
    if job.size == 1:
        if settings.given():
            raise HvdkitError(
                f"comm.{settings.given()[0]} does nothing with one worker, which does "
                "not use Horovod: start more with horovodrun -np N, or leave it out"
            )
        return
    variables = settings.variables()
    for name, value in variables.items():
        given = os.environ.get(name)
        if given is not None and _number_or_text(given) != _number_or_text(value):
            raise HvdkitError(
                f"{name}={given} comes from the launcher, {value} from the config: "
                "drop the launcher's flag and set it under comm.* instead"
            )
    os.environ.update(variables)
    if ranks_exceed_cores(job.sharers, threads):
        # Open MPI's waiting rank spins; where it shares a core with a model it must yield.
        os.environ.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")
    if "OMPI_MCA_btl_tcp_links" not in os.environ:
        # Open MPI's TCP transport puts data where the receiver has asked for it, and the asking
        # waits behind the data going the other way: half of a link's bandwidth is lost. Plain
        # sends have all of it, also over two cards; over several connections a card (`links`)
        # they hang.
        os.environ.setdefault("OMPI_MCA_btl_tcp_flags", "send,inplace")
    # All ranks of a communicator must use the same algorithm, so this looks only at what is the
    # same for all of them. Between two hosts whose ranks are a power of two, and stand in the
    # order of the hosts, Open MPI's own choice is to sum inside the hosts first.
    keeps_own = job.hosts == 2 and job.size > 2 and job.size.bit_count() == 1
    chosen_by_user = any(_TUNED + name in os.environ for name in _OTHER_RULES)
    if not keeps_own and not chosen_by_user:
        os.environ[_TUNED + "use_dynamic_rules"] = "1"
        os.environ[_TUNED + "dynamic_rules_filename"] = str(_MPI_RULES)


def ranks_exceed_cores(sharers: int, threads: int, cores: int | None = None) -> bool:
    """Whether compute threads and one Horovod thread a rank are more than the host's cores."""
    return sharers * (threads + 1) > (cores or available_cores())


def _number_or_text(text: str) -> float | str:
    """A number where the text is one, so that "1" and "1.0" compare equal."""
    try:
        return float(text)
    except ValueError:
        return text
