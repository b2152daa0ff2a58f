"""`hvdkit build-horovod`: fetch, adapt, compile, install, prove.

Carries out the Plan that `plan` makes. Everything is fetched and compiled in a temporary
folder that is gone afterwards, however it ends; what stays is the installed package, the
wheel in the cache and the log. Imports the other modules of this folder.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
import sysconfig
import tarfile
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from hvdkit.errors import HvdkitError
from hvdkit.install import rules as rulebook
from hvdkit.install.allreduce import PROOF
from hvdkit.install.plan import Plan, Wishes, make_plan
from hvdkit.install.process import run_logged
from hvdkit.install.progress import Reporter
from hvdkit.install.survey import (
    Survey,
    child_environment,
    distribution_version,
    find_tool,
    take_survey,
)
from hvdkit.install.symptoms import diagnose, telling_lines
from hvdkit.install.wheels import WheelStore, read_record
from hvdkit.launch.cache import default_cache

SOURCE = f"horovod=={rulebook.HOROVOD_VERSION}"
RUNTIME_PACKAGES = ("cloudpickle", "psutil", "pyyaml", "packaging", "cffi")
PROOF_RANKS = 2
PROOF_SECONDS = 180.0
COMPILER_GIGABYTES = 1.5


@dataclass(frozen=True)
class Options:
    """The command line of `hvdkit build-horovod`."""

    wishes: Wishes = field(default_factory=Wishes)
    cache: Path | None = None
    jobs: int | None = None
    force: bool = False
    install: bool = True
    dry_run: bool = False


def build_horovod(options: Options, report: Reporter) -> None:
    """Make Horovod work in this environment.

    Raises HvdkitError for what the user can mend: something missing, a failed step (with the
    end of its log and the probable cause), a proof that did not come out.
    """
    env = child_environment()
    survey = take_survey(env)
    plan = make_plan(survey, options.wishes, os.environ)
    cache = options.cache or default_cache(os.environ)
    describe(plan, survey, cache, report)
    if options.dry_run:
        describe_commands(plan, options, report)
        return
    with Workshop(cache, env, report) as workshop:
        wheel = None if options.force else WheelStore(cache).find(plan.key)
        if wheel is None:
            wheel = build_wheel(workshop, plan, options)
        else:
            report.say(f"Found the wheel of an earlier build: {wheel}")
        if not options.install:
            report.say(f"Wheel: {wheel}")
            return
        install_wheel(workshop, plan, wheel, force=options.force)
        for framework in plan.frameworks:
            prove(workshop, plan, framework, gpus=len(survey.gpus))
    report.say(f"Horovod {rulebook.HOROVOD_VERSION} is ready.", style="green")


class Workshop:
    """A temporary folder, a log and an environment in which the commands of a build run."""

    def __init__(self, cache: Path, env: dict[str, str], report: Reporter) -> None:
        self.cache = cache
        self.env = env
        self.report = report
        self.log_path = cache / "logs" / time.strftime(f"build-%Y%m%d-%H%M%S-{os.getpid()}.log")

    def __enter__(self) -> Workshop:
        try:
            self.log_path.parent.mkdir(parents=True, exist_ok=True)
            self.log: TextIO = self.log_path.open("w", encoding="utf-8")
        except OSError as error:
            raise HvdkitError(
                f"The cache folder cannot be written: {error}\nName another: --cache-dir DIR"
            ) from None
        self.folder = Path(tempfile.mkdtemp(prefix="hvdkit-horovod-"))
        return self

    def __exit__(self, *_: object) -> None:
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, command: list[str], what: str, *, timeout: float | None = None) -> str:
        """Run a command and return what it printed; raise HvdkitError where it fails."""
        lines: list[str] = []

        def listen(line: str) -> None:
            lines.append(line)
            self.report.line(line)

        status, timed_out = run_logged(
            command,
            log=self.log,
            env=self.env,
            cwd=self.folder,
            on_line=listen,
            timeout=timeout,
        )
        text = "\n".join(lines)
        if status != 0 or timed_out:
            how = f"did not end within {timeout:.0f} s" if timed_out else f"failed ({status})"
            raise HvdkitError(self.failure(f"{what} {how}.", text))
        return text

    def failure(self, headline: str, text: str) -> str:
        """A failed step: the end of its log, the probable cause, the remedy, the log's place."""
        parts = [headline, "", *(f"    {line[:300]}" for line in telling_lines(text)), ""]
        symptom = diagnose(text)
        if symptom:
            parts += [f"Probable cause: {symptom.cause}", f"Remedy: {symptom.remedy}"]
        return "\n".join([*parts, f"Full log: {self.log_path}"])

    def pip(self, *arguments: str, what: str) -> None:
        self.run([sys.executable, "-m", "pip", *arguments], what)


def build_wheel(workshop: Workshop, plan: Plan, options: Options) -> Path:
    """Fetch, adapt and compile; return the wheel's place in the cache."""
    report = workshop.report
    missing = [name for name in plan.requires if distribution_version(name) is None]
    if missing:
        with report.stage("Installing build tools", f"Installed {', '.join(missing)}"):
            workshop.pip("install", *missing, what="Installing the build tools")
    if plan.fetch_cmake:
        with report.stage("Fetching CMake", "Fetched CMake for this build"):
            fetch_cmake(workshop)
    with report.stage("Fetching the sources", f"Fetched the sources of {SOURCE}"):
        sources = fetch_sources(workshop)
    rulebook.apply(plan.rules, sources)
    record = {**plan.ingredients, "key": plan.key, "frameworks": list(plan.frameworks)}
    record_path = sources / "horovod" / rulebook.RECORD_FILE
    record_path.write_text(json.dumps(record, indent=1), encoding="utf-8")
    workshop.env.update(build_environment(workshop.cache, plan, options))
    report.say(f"Log: {workshop.log_path}")
    with report.stage("Compiling Horovod", "Compiled Horovod"):
        workshop.pip(*wheel_arguments(str(sources), "wheel"), what="Compiling Horovod")
    wheels = list((workshop.folder / "wheel").glob("horovod-*.whl"))
    if len(wheels) != 1:
        raise HvdkitError(f"pip left {len(wheels)} wheels, not one. Log: {workshop.log_path}")
    return WheelStore(workshop.cache).add(plan.key, wheels[0])


def fetch_cmake(workshop: Workshop) -> None:
    """Put CMake's own wheel into the temporary folder and first on the PATH."""
    target = workshop.folder / "cmake"
    workshop.pip("install", "--target", str(target), "cmake>=4", what="Fetching CMake")
    binaries = target / "cmake" / "data" / "bin"
    workshop.env["PATH"] = os.pathsep.join([str(binaries), workshop.env["PATH"]])
    tool = find_tool(["cmake"], r"cmake version ([\d.]+)", workshop.env)
    if tool is None or Path(tool.path).parent != binaries:
        raise HvdkitError(
            "The CMake that pip fetched does not run on this machine.\n"
            f"Install CMake 3.13 or newer and try again. Log: {workshop.log_path}"
        )


def download_arguments(requirements: str, destination: str) -> list[str]:
    # Without isolation pip reads the archive's metadata with the packages that are here; with
    # it, it would build an environment only to ask for a name and a version.
    return [
        *("download", "--no-deps", "--no-build-isolation", "--no-binary", "horovod"),
        *("--require-hashes", "-r", requirements, "-d", destination),
    ]


def wheel_arguments(sources: str, destination: str) -> list[str]:
    return ["wheel", sources, "--no-build-isolation", "--no-deps", "-w", destination, "-v"]


def fetch_sources(workshop: Workshop) -> Path:
    """Download the release archive, which pip checks by its hash, and unpack it."""
    requirements = workshop.folder / "requirements.txt"
    requirements.write_text(f"{SOURCE} --hash=sha256:{rulebook.HOROVOD_SHA256}\n")
    workshop.pip(
        *download_arguments(str(requirements), str(workshop.folder)),
        what=f"Fetching the sources of {SOURCE}",
    )
    archive = workshop.folder / f"horovod-{rulebook.HOROVOD_VERSION}.tar.gz"
    # The first releases of Python 3.10 know no filters; the hash has been checked either way.
    safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(archive) as bundle:
        bundle.extractall(workshop.folder, **safe)  # type: ignore[arg-type]
    return workshop.folder / f"horovod-{rulebook.HOROVOD_VERSION}"


def build_environment(cache: Path, plan: Plan, options: Options) -> dict[str, str]:
    """The plan's variables, with the NCCL link folder made where one is needed.

    The linker writes that folder's path into the extension, where the loader will look for
    libraries; so it lies with the user's own files and not in a temporary folder, whose name
    somebody else could take later.
    """
    added = dict(plan.environment)
    if plan.nccl:
        link_folder = cache / "nccl" / plan.key
        link_folder.mkdir(parents=True, exist_ok=True)
        library = Path(added["HOROVOD_NCCL_INCLUDE"]).parent / "lib" / "libnccl.so.2"
        link = link_folder / "libnccl.so"
        link.unlink(missing_ok=True)
        link.symlink_to(library)
        added = {name: value.format(link_folder=link_folder) for name, value in added.items()}
    added["MAKEFLAGS"] = f"-j{options.jobs or default_jobs()}"
    return added


def default_jobs() -> int:
    """One compiler a core, as far as the memory reaches."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return max(1, min(len(os.sched_getaffinity(0)), int(memory / COMPILER_GIGABYTES)))


def install_wheel(workshop: Workshop, plan: Plan, wheel: Path, *, force: bool) -> None:
    """Install the wheel and what Horovod imports, unless exactly this build is there."""
    needed = [*RUNTIME_PACKAGES, *(name for rule in plan.rules for name in rule.requires)]
    missing = [name for name in needed if distribution_version(name) is None]
    if missing:
        with workshop.report.stage("Installing", f"Installed {', '.join(missing)}"):
            workshop.pip("install", *missing, what="Installing what Horovod imports")
    record = read_record()
    if record and record.get("key") == plan.key and not force:
        workshop.report.say("This Horovod is installed already.")
        return
    with workshop.report.stage("Installing the wheel", "Installed the wheel"):
        workshop.pip(
            *("install", "--no-deps", "--force-reinstall", str(wheel)),
            what="Installing the wheel",
        )


def proof_command(plan: Plan, framework: str) -> list[str]:
    return [
        str(Path(sysconfig.get_path("scripts")) / "horovodrun"),
        *("-np", str(PROOF_RANKS), "--mpi" if plan.mpi else "--gloo"),
        *(sys.executable, "-m", "hvdkit.install.allreduce", framework),
    ]


def prove(workshop: Workshop, plan: Plan, framework: str, *, gpus: int) -> None:
    """Sum known numbers over two real ranks; raise HvdkitError unless every rank got the sum."""
    # Two ranks on one GPU are more than NCCL allows; then the proof is on the CPU.
    on_gpu = plan.nccl and gpus >= PROOF_RANKS
    workshop.env.update(OMP_NUM_THREADS="1", OMPI_MCA_mpi_yield_when_idle="1")
    workshop.env.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if not on_gpu:
        workshop.env["CUDA_VISIBLE_DEVICES"] = ""
    what = f"The allreduce over {PROOF_RANKS} ranks in {framework}"
    over = "MPI" if plan.mpi else "Gloo"
    done = f"Proved in {framework}: {PROOF_RANKS} ranks over {over}, sum as expected"
    with workshop.report.stage(f"Proving {framework}", done):
        text = workshop.run(proof_command(plan, framework), what, timeout=PROOF_SECONDS)
        pattern = rf"{PROOF} {framework} rank (\d+) of {PROOF_RANKS}"
        ranks = set(re.findall(pattern, text))
        if ranks != {str(rank) for rank in range(PROOF_RANKS)}:
            raise HvdkitError(workshop.failure(f"{what} was not reported by all ranks.", text))


def describe(plan: Plan, survey: Survey, cache: Path, report: Reporter) -> None:
    """Say what is about to be built, and against what."""
    against = [f"{name} {survey.frameworks[name].version}" for name in plan.frameworks]
    against.append(str(plan.ingredients["mpi"]) if plan.mpi else "no MPI")
    against.append(f"NCCL, CUDA {plan.ingredients['cuda']}" if plan.nccl else "CPU operations")
    report.say(f"Horovod {rulebook.HOROVOD_VERSION} against {', '.join(against)}")
    report.say(f"Key {plan.key}, cache {cache}")
    for note in plan.notes:
        report.say(f"Note: {note}", style="yellow")


def describe_commands(plan: Plan, options: Options, report: Reporter) -> None:
    """The rest of the plan: rules, environment, commands."""
    report.say("\nRules:")
    for rule in plan.rules:
        report.say(f"  {rule.name} ({rule.condition()}): {rule.why}")
        for edit in rule.edits:
            report.say(f"      edits {edit.file}")
    report.say("\nEnvironment:")
    environment = {**plan.environment, "MAKEFLAGS": f"-j{options.jobs or default_jobs()}"}
    for name, value in environment.items():
        report.say(f"  {name}={value.format(link_folder=f'CACHE/nccl/{plan.key}')}")
    pip = [sys.executable, "-m", "pip"]
    sources = f"WORK/horovod-{rulebook.HOROVOD_VERSION}"
    commands = [
        [*pip, *download_arguments("WORK/requirements.txt", "WORK")],
        [*pip, *wheel_arguments(sources, "WORK/wheel")],
        [*pip, "install", "--no-deps", "--force-reinstall", "WORK/wheel/horovod-*.whl"],
        *(proof_command(plan, framework) for framework in plan.frameworks),
    ]
    if plan.fetch_cmake:
        commands.insert(0, [*pip, "install", "--target", "WORK/cmake", "cmake>=4"])
    cached = WheelStore(options.cache or default_cache(os.environ)).find(plan.key)
    if cached and not options.force:
        report.say(f"\nThe wheel is in the cache, nothing would be compiled: {cached}")
    report.say("\nCommands (WORK is a temporary folder):")
    for command in commands if options.install else commands[: -1 - len(plan.frameworks)]:
        report.say(f"  {shlex.join(command)}")
