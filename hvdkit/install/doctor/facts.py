"""Gathering what the doctor judges. Imports hvdkit.install; starts child processes.

Nothing here decides whether a fact is good.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from hvdkit.install.survey import (
    FRAMEWORKS,
    Survey,
    child_environment,
    distribution_version,
    take_survey,
)
from hvdkit.install.wheels import read_record
from hvdkit.launch.environment import available_cores

PROBE_SECONDS = 120
# A doctor called from inside a job must not join it.
JOB_VARIABLES = ("OMPI_COMM_", "OMPI_UNIVERSE", "PMIX_", "PMI_", "HOROVOD_RANK", "HOROVOD_SIZE")


@dataclass(frozen=True)
class Probe:
    """What a child process found out, and its last words if it did not get to the end."""

    answers: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class Facts:
    """Everything the verdicts depend on."""

    survey: Survey
    unmet: tuple[str, ...]
    keras: str | None
    keras_backend: str | None
    legacy_keras: bool
    setuptools: str | None
    horovod: str | None
    record: dict[str, object] | None
    probes: dict[str, Probe]
    cores: int
    ranks: int | None


def gather(ranks: int | None = None) -> Facts:
    """Look at everything; the slow looks run side by side."""
    env = child_environment(
        {k: v for k, v in os.environ.items() if not k.startswith(JOB_VARIABLES)}
    )
    survey = take_survey(env)
    wanted = [[name] for name in FRAMEWORKS if name in survey.frameworks]
    if survey.gpus:
        wanted = [[*words, "gpus"] for words in wanted]
    if distribution_version("mpi4py"):
        wanted.append(["mpi4py"])
    with ThreadPoolExecutor() as pool:
        probes = dict(
            zip(
                (words[0] for words in wanted),
                pool.map(lambda words: run_probe(words, env), wanted),
                strict=True,
            )
        )
    return Facts(
        survey=survey,
        unmet=unmet_requirements(),
        keras=distribution_version("keras"),
        keras_backend=configured_keras_backend(env),
        legacy_keras=env.get("TF_USE_LEGACY_KERAS", "").lower() in ("1", "true"),
        setuptools=distribution_version("setuptools"),
        horovod=distribution_version("horovod"),
        record=read_record(),
        probes=probes,
        cores=available_cores(),
        ranks=ranks,
    )


def run_probe(words: list[str], env: dict[str, str]) -> Probe:
    """Ask one child process; a crash, an abort and a hang are answers too."""
    command = [sys.executable, "-m", "hvdkit.install.doctor.probe", *words]
    env = {**env, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(
            command,
            env=env,
            timeout=PROBE_SECONDS,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired as expired:
        said = expired.stdout or b""
        text = said.decode(errors="replace") if isinstance(said, bytes) else said
        return Probe(parse_answers(text), f"no answer within {PROBE_SECONDS} s")
    answers = parse_answers(done.stdout)
    return Probe(answers, None if done.returncode == 0 else last_words(done.stderr))


def parse_answers(text: str) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for line in text.splitlines():
        answers.update(json.loads(line))
    return answers


def last_words(stderr: str) -> str:
    """The line of an error output that says most: the exception, or what MPI complains of."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip(" -*")]
    for line in reversed(lines):
        if "Error" in line and not line.startswith(("File ", "Traceback")):
            return line
    return lines[-1] if lines else "it ended without a word"


def unmet_requirements() -> tuple[str, ...]:
    """The requirements of hvdkit itself that this environment does not meet."""
    try:
        declared = importlib.metadata.requires("hvdkit") or []
    except importlib.metadata.PackageNotFoundError:
        return ("hvdkit itself is not installed, only on the path",)
    unmet = []
    for text in declared:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = distribution_version(requirement.name)
        if version is None:
            unmet.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(version, prereleases=True):
            unmet.append(f"{requirement.name} is {version}, wanted {requirement.specifier}")
    return tuple(unmet)


def configured_keras_backend(env: dict[str, str]) -> str | None:
    """The backend that Keras would take, by variable or by its file; None if neither says."""
    if env.get("KERAS_BACKEND"):
        return env["KERAS_BACKEND"]
    home = Path(env.get("KERAS_HOME") or Path.home() / ".keras")
    try:
        return str(json.loads((home / "keras.json").read_text(encoding="utf-8"))["backend"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
