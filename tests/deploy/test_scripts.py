"""The shell scripts and the Dockerfile, by their linters and by running them."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
_BIN = Path(sys.executable).parent
SCRIPTS = [
    *(ROOT / "deploy/image" / name for name in ("entrypoint", "known-hosts")),
    *sorted((ROOT / "deploy/slurm").iterdir()),
]
FRAMEWORKS = ROOT / "deploy/image/frameworks"


def output_of(*command: str | Path, **how: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **how)


def test_hadolint_finds_nothing() -> None:
    linted = output_of(_BIN / "hadolint", ROOT / "Dockerfile")
    assert (linted.returncode, linted.stdout) == (0, "")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    linted = output_of(_BIN / "shellcheck", script)
    assert (linted.returncode, linted.stdout) == (0, "")


def test_what_is_copied_before_horovod_is_built_is_enough_to_build_it(tmp_path: Path) -> None:
    """And the rest of hvdkit is copied after it, so that a change there compiles nothing."""
    before, after = (ROOT / "Dockerfile").read_text().split("hvdkit build-horovod")
    copied = re.findall(r"^COPY ((?:hvdkit/\S+ )+)\./(hvdkit/\S*)$", before, re.MULTILINE)
    assert copied
    assert "COPY . " in after
    assert "COPY . " not in before
    for sources, target in copied:
        folder = tmp_path / target
        folder.mkdir(parents=True, exist_ok=True)
        for source in sources.split():
            path = ROOT / source
            files = path.iterdir() if path.is_dir() else [path]
            for file in files:
                if file.name != "__pycache__":
                    output_of("cp", "-r", file, folder)
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    planned = output_of(
        *(sys.executable, "-m", "hvdkit", "build-horovod", "--dry-run"), env=env, cwd=tmp_path
    )
    assert planned.returncode == 0, planned.stderr
    assert "Commands" in planned.stdout


def pins(path: Path) -> dict[str, str]:
    """name -> version of a requirements file, whose every line must be an exact pin."""
    found: dict[str, str] = {}
    for line in path.read_text().splitlines():
        text = line.split("#")[0].strip()
        if text.startswith("-r "):
            found |= pins(path.parent / text.removeprefix("-r "))
        elif text:
            requirement = Requirement(text)
            (clause,) = requirement.specifier
            assert clause.operator == "==", f"{path.name} does not pin {text}"
            found[canonicalize_name(requirement.name)] = clause.version
    return found


def test_the_pins_are_versions_that_hvdkit_takes() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    constraints = pins(ROOT / "deploy/image/constraints.txt")
    cases = [
        (setup["options"]["install_requires"] + extras["optuna"], constraints),
        (extras["torch"], pins(FRAMEWORKS / "cpu-torch.txt")),
        (extras["tensorflow"], pins(FRAMEWORKS / "cpu-tensorflow.txt")),
    ]
    for wanted, pinned in cases:
        for line in wanted.split("\n"):
            if line:
                requirement = Requirement(line)
                version = pinned[canonicalize_name(requirement.name)]
                assert requirement.specifier.contains(version), f"{line} against {version}"


def test_there_is_no_gpu_image_of_both_frameworks() -> None:
    names = {path.stem for path in FRAMEWORKS.iterdir()}
    assert names == {"cpu-both", "cpu-tensorflow", "cpu-torch", "gpu-tensorflow", "gpu-torch"}


def test_sshd_without_a_key_says_how_to_make_one() -> None:
    done = output_of(ROOT / "deploy/image/entrypoint", "sshd", env={**os.environ, "HOME": "/"})
    assert done.returncode == 1
    assert "no readable key" in done.stderr
    (command,) = re.findall(r"(ssh-keygen .*)", done.stderr)
    assert shlex.split(command)[-2:] == ["-f", "key/id_ed25519"]


def test_the_build_context_is_what_the_dockerfile_copies() -> None:
    """A file that is not listed cannot slip into the image, nor a change of it into a layer."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    copied = re.findall(
        r"^COPY (?:--chown=\S+ )?((?:[\w./-]+ )+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE
    )
    sources = {
        word for group in copied for word in group.split() if word not in (".", "/opt/hvdkit")
    }
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(source == a or source.startswith(f"{a}/") for a in allowed), source
