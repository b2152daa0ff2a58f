"""From facts to verdicts: one small pure function a subject, in the order of the table.

A check is `fail` only if training would fail on it. Each one that is not `ok` says what to
do. Imports the facts' types and the constants of hvdkit.install; looks at nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.version import InvalidVersion, Version

from hvdkit.install.doctor.facts import Facts, Probe
from hvdkit.install.plan import (
    COMPILER_REMEDY,
    OLDEST_CMAKE,
    OPEN_MPI_5,
    OPEN_MPI_REMEDY,
    describe_mpi,
    is_open_mpi_5,
)
from hvdkit.install.rules import HOROVOD_VERSION
from hvdkit.install.survey import FRAMEWORKS

VERDICTS = ("ok", "warn", "fail")
LABELS = {"torch": "torch", "tensorflow": "TensorFlow"}
PACKAGES = {"torch": "torch", "tensorflow": 'tensorflow-cpu "keras>=3"'}
BUILD = "hvdkit build-horovod"
OLDEST_PYTHON = Version("3.10")


@dataclass(frozen=True)
class Check:
    """One line of the doctor's table."""

    name: str
    verdict: str
    finding: str
    remedy: str = ""


def judge(facts: Facts) -> list[Check]:
    """All checks, in the order in which they are shown."""
    subjects = (
        judge_python,
        judge_frameworks,
        judge_keras,
        judge_mpi,
        judge_mpi4py,
        judge_horovod,
        judge_match,
        judge_extensions,
        judge_build_tools,
        judge_cores,
        judge_gpus,
    )
    return [check for subject in subjects for check in subject(facts)]


def judge_python(facts: Facts) -> Iterator[Check]:
    version = Version(facts.survey.python)
    if version < OLDEST_PYTHON:
        yield Check(
            "Python", "fail", f"{version}", f"Make an environment with Python {OLDEST_PYTHON}."
        )
    elif version >= Version("3.12") and facts.setuptools is None:
        yield Check(
            "Python",
            "fail",
            f"{version} has no distutils, which `horovodrun` imports",
            "pip install setuptools",
        )
    else:
        yield Check("Python", "ok", f"{version}")
    if facts.unmet:
        yield Check("hvdkit", "fail", "; ".join(facts.unmet), "pip install --upgrade hvdkit")
    else:
        yield Check("hvdkit", "ok", "all that it requires is installed")


def judge_frameworks(facts: Facts) -> Iterator[Check]:
    installed = facts.survey.frameworks
    for name in FRAMEWORKS:
        label, found = LABELS[name], installed.get(name)
        if found is None:
            if installed:
                yield Check(label, "ok", "not installed; the other framework is")
            continue
        probe = facts.probes.get(name, Probe())
        build = f"for CUDA {found.cuda}" if found.cuda else "a CPU build"
        if "version" in probe.answers:
            yield Check(label, "ok", f"{found.version}, {build}")
        else:
            yield Check(
                label,
                "fail",
                f"{found.version} is installed but does not import: {probe.error}",
                f"pip install --force-reinstall {PACKAGES[name]}",
            )
    if not installed:
        yield Check(
            "framework",
            "fail",
            "neither torch nor TensorFlow is installed",
            f"pip install torch, or: pip install {PACKAGES['tensorflow']}",
        )


def judge_keras(facts: Facts) -> Iterator[Check]:
    if "tensorflow" not in facts.survey.frameworks:
        return
    if facts.keras is None or Version(facts.keras) < Version("3"):
        found = f"{facts.keras} is too old" if facts.keras else "not installed"
        yield Check("Keras", "fail", found, 'pip install "keras>=3"')
        return
    if facts.legacy_keras:
        yield Check(
            "Keras",
            "fail",
            "TF_USE_LEGACY_KERAS makes tf.keras another library than Keras 3",
            "unset TF_USE_LEGACY_KERAS",
        )
    elif facts.keras_backend not in (None, "tensorflow"):
        yield Check(
            "Keras",
            "warn",
            f"{facts.keras}; its default backend is set to {facts.keras_backend}",
            "Set KERAS_BACKEND=tensorflow for programs that import keras before hvdkit.",
        )
    else:
        yield Check("Keras", "ok", facts.keras)
    if "tensorflow" in facts.probes and facts.probes["tensorflow"].answers.get("loaded"):
        yield Check(
            "Keras trap",
            "warn",
            "with Keras 3, horovod.tensorflow.keras.DistributedOptimizer reduces nothing: every "
            "rank trains alone, in silence",
            "Never use it. hvdkit reduces the gradients itself; any optimizer goes.",
        )


def judge_mpi(facts: Facts) -> Iterator[Check]:
    mpi = facts.survey.mpi
    built_with = [name for name, probe in facts.probes.items() if probe.answers.get("mpi")]
    if mpi is None or mpi.mpirun is None:
        yield Check(
            "MPI",
            "fail" if built_with else "warn",
            "no mpirun on the PATH"
            + ("; this Horovod was built with MPI" if built_with else ": Gloo is what is left"),
            OPEN_MPI_REMEDY + ("" if built_with else f", then: {BUILD}"),
        )
    elif is_open_mpi_5(mpi):
        yield Check(
            "MPI", "fail", OPEN_MPI_5.format(version=mpi.version), f"{OPEN_MPI_REMEDY}; {BUILD}"
        )
    elif mpi.implementation != "Open MPI":
        yield Check(
            "MPI",
            "warn",
            f"{mpi.implementation} {mpi.version}: hvdkit is tested with Open MPI 4 alone",
            OPEN_MPI_REMEDY,
        )
    else:
        yield Check("MPI", "ok", f"{describe_mpi(mpi)}; `horovodrun` can use it")


def judge_mpi4py(facts: Facts) -> Iterator[Check]:
    probe = facts.probes.get("mpi4py")
    again = "pip install --force-reinstall --no-cache-dir mpi4py"
    if probe is None:
        yield Check("mpi4py", "warn", "not installed", "pip install mpi4py")
        return
    version = probe.answers.get("version", "")
    if not probe.answers.get("started"):
        yield Check("mpi4py", "warn", f"{version} cannot start MPI: {probe.error}", again)
        return
    mine = probe.answers.get("libmpi")
    others = {
        other.answers.get("libmpi")
        for name, other in facts.probes.items()
        if name != "mpi4py" and other.answers.get("mpi")
    } - {None}
    if others and others != {mine}:
        yield Check(
            "mpi4py",
            "warn",
            f"{version} loads {mine}, Horovod loads {', '.join(sorted(map(str, others)))}: two "
            "MPIs in one process",
            f"{again}; {BUILD} --force",
        )
    else:
        yield Check("mpi4py", "ok", f"{version} on {probe.answers.get('library')}")


def judge_horovod(facts: Facts) -> Iterator[Check]:
    if facts.horovod is None:
        yield Check("Horovod", "fail", "not installed", BUILD)
        return
    loaded = {n: p.answers for n, p in facts.probes.items() if p.answers.get("loaded")}
    parts = [
        label
        for key, label in (("mpi", "MPI"), ("gloo", "Gloo"), ("nccl", "NCCL"))
        if any(answers.get(key) for answers in loaded.values())
    ]
    built = f" with {', '.join(parts)}" if parts else ""
    finding = f"{facts.horovod}{built} for {', '.join(LABELS[n] for n in loaded) or 'nothing'}"
    if facts.horovod.split("+")[0] != HOROVOD_VERSION:
        yield Check("Horovod", "warn", f"{finding}; hvdkit is tested with {HOROVOD_VERSION}", BUILD)
    else:
        yield Check("Horovod", "ok", finding)


def judge_match(facts: Facts) -> Iterator[Check]:
    """What Horovod was compiled against, beside what is installed now."""
    if facts.horovod is None:
        return
    if facts.record is None:
        yield Check(
            "built against", "warn", "this Horovod does not say what it was built against", BUILD
        )
        return
    differing, same = [], []
    for name in FRAMEWORKS:
        then, found = facts.record.get(name), facts.survey.frameworks.get(name)
        if found is None:
            continue
        if then is None:
            differing.append(f"not built for the installed {LABELS[name]}")
        elif then != found.version:
            differing.append(f"built against {LABELS[name]} {then}, {found.version} is installed")
        else:
            same.append(f"{LABELS[name]} {then}")
    then_mpi = facts.record.get("mpi")
    now_mpi = describe_mpi(facts.survey.mpi)
    if then_mpi and then_mpi != now_mpi:
        differing.append(f"built against {then_mpi}, found is {now_mpi or 'none'}")
    elif then_mpi:
        same.append(str(then_mpi))
    # One framework left out on purpose is a choice; another version of one is a crash in waiting.
    only_left_out = all(text.startswith("not built") for text in differing)
    if differing:
        verdict = "warn" if only_left_out and same else "fail"
        yield Check("built against", verdict, "; ".join(differing), BUILD)
    else:
        yield Check("built against", "ok", ", ".join(same))


def judge_extensions(facts: Facts) -> Iterator[Check]:
    """Whether each extension really loads and starts, as one rank."""
    if facts.horovod is None:
        return
    for name in facts.survey.frameworks:
        probe = facts.probes.get(name, Probe())
        label = f"horovod.{name}"
        left_out = facts.record is not None and name not in facts.record
        if "version" not in probe.answers or (left_out and not probe.answers.get("loaded")):
            continue
        if not probe.answers.get("loaded"):
            yield Check(label, "fail", f"does not import: {probe.error}", f"{BUILD} --force")
        elif not probe.answers.get("started"):
            yield Check(label, "fail", f"does not start: {probe.error}", start_remedy(facts))
        else:
            yield Check(label, "ok", "imports and starts")
            yield from judge_library(facts, label, probe)


def start_remedy(facts: Facts) -> str:
    mpi = facts.survey.mpi
    prefix = mpi.prefix if mpi else "the MPI's folder"
    return f"Outside `horovodrun`, export OPAL_PREFIX={prefix}; if it is that: {BUILD} --force"


def judge_library(facts: Facts, label: str, probe: Probe) -> Iterator[Check]:
    library, mpi = probe.answers.get("libmpi"), facts.survey.mpi
    if not probe.answers.get("mpi") or not library or mpi is None:
        return
    if not Path(library).is_relative_to(Path(mpi.prefix).resolve()):
        yield Check(
            label,
            "fail",
            f"loads {library}, but mpirun is the one of {mpi.prefix}: each rank would be alone",
            f"Put the right MPI first on the PATH, then: {BUILD}",
        )


def judge_build_tools(facts: Facts) -> Iterator[Check]:
    survey = facts.survey
    # Tools only matter where something is still to be built.
    verdict = "warn" if facts.horovod else "fail"
    cmake = survey.cmake
    if cmake is None:
        yield Check("CMake", "ok", f"none; `{BUILD}` fetches its own")
    elif older(cmake.version, OLDEST_CMAKE):
        yield Check("CMake", "ok", f"{cmake.version} is too old; `{BUILD}` fetches its own")
    elif not older(cmake.version, Version("4")):
        yield Check(
            "CMake", "ok", f"{cmake.version}; `{BUILD}` knows how, plain `pip install` does not"
        )
    else:
        yield Check("CMake", "ok", cmake.version)
    if survey.compiler is None:
        yield Check("compiler", verdict, "no C++ compiler found", COMPILER_REMEDY)
    else:
        yield Check("compiler", "ok", survey.compiler.version)
    if survey.make is None:
        yield Check("make", verdict, "GNU make was not found", COMPILER_REMEDY)
    else:
        yield Check("make", "ok", survey.make.version)


def older(version: str, than: Version) -> bool:
    try:
        return Version(version) < than
    except InvalidVersion:
        return True


def judge_cores(facts: Facts) -> Iterator[Check]:
    if facts.ranks is None:
        yield Check("cores", "ok", f"{facts.cores}, so as many ranks of one thread each fit")
    elif facts.ranks > facts.cores:
        yield Check(
            "cores",
            "warn",
            f"{facts.cores} for {facts.ranks} ranks: they take turns, and MPI's waiting takes "
            "cores from the model",
            "hvdkit then makes MPI yield (OMPI_MCA_mpi_yield_when_idle=1); for speed run "
            f"{facts.cores} at most",
        )
    else:
        threads = facts.cores // facts.ranks
        yield Check("cores", "ok", f"{facts.cores} for {facts.ranks} ranks: {threads} thread(s)")


def judge_gpus(facts: Facts) -> Iterator[Check]:
    survey = facts.survey
    cuda = {name: found.cuda for name, found in survey.frameworks.items() if found.cuda}
    if len({version.split(".")[0] for version in cuda.values()}) > 1:
        listed = " and ".join(f"{LABELS[name]} for CUDA {v}" for name, v in cuda.items())
        yield Check(
            "CUDA",
            "warn",
            f"{listed}: one Horovod cannot serve both on the GPU",
            "Use one environment a framework.",
        )
    if not survey.gpus:
        yield Check("GPU", "ok", "none (by nvidia-smi): training runs on the CPU")
        return
    yield Check("GPU", "ok", ", ".join(f"{gpu.name} (driver {gpu.driver})" for gpu in survey.gpus))
    for name in survey.frameworks:
        answers = facts.probes.get(name, Probe()).answers
        if name not in cuda:
            yield Check(
                LABELS[name],
                "warn",
                "a CPU build: the GPU stays idle",
                f"Install a CUDA build of it, then: {BUILD}",
            )
        elif answers.get("gpus") == 0:
            yield Check(
                LABELS[name],
                "warn",
                f"sees no GPU: the driver may be too old for CUDA {cuda[name]}",
                "Update the driver, or install a build for an older CUDA.",
            )
        elif answers.get("loaded") and not answers.get("nccl"):
            yield Check(
                "NCCL",
                "warn",
                f"horovod.{name} was built without: GPU gradients would go by way of the CPU",
                f"{BUILD} --gpu",
            )
        elif answers.get("loaded"):
            yield Check("NCCL", "ok", f"horovod.{name} uses it")
