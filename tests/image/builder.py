"""Building images with buildah where there is no container engine, and no base to pull.

All that is written lies below one folder, which `close` removes whatever it holds: the base that
debootstrap made, buildah's storage, its caches. Needs root. Imports `site_config`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.image.site_config import debian_mirror, read_site

ROOT = Path(__file__).parents[2]
BASE = "localhost/hvdkit-base"
RELEASE = "bookworm"  # what the Dockerfile's CPU_BASE is


@dataclass(frozen=True)
class Config:
    """What an image says about running it."""

    env: dict[str, str]
    entrypoint: list[str]
    cmd: list[str]
    user: str
    workdir: str
    labels: dict[str, str]
    ports: list[str]


class BuildFailed(Exception):
    """A command of buildah's ended with an error; says which, and all that it printed."""


class Builder:
    """buildah with a storage of its own in `folder`; what it prints goes to `log`."""

    def __init__(self, folder: Path, log: Path):
        self.folder = folder
        self._log = log
        self._places = [f"--root={folder / 'storage'}", f"--runroot={folder / 'run'}"]
        for name in ("storage", "run", "tmp", "site"):
            (folder / name).mkdir(parents=True)
        self._site = read_site(folder / "site")

    def close(self) -> None:
        """Remove everything, mounts first: a file below one would be somebody else's."""
        with open("/proc/self/mounts") as table:
            mounted = [line.split()[1] for line in table]
        for place in sorted((p for p in mounted if p.startswith(f"{self.folder}/")), reverse=True):
            subprocess.run(["umount", "--lazy", place], check=True, timeout=30)
        shutil.rmtree(self.folder)

    def make_base(self) -> None:
        """A minimal Debian, as the image that CPU_BASE names."""
        rootfs = self.folder / "rootfs"
        self._run("debootstrap", "--variant=minbase", RELEASE, rootfs, *debian_mirror(RELEASE))
        container = last_line(self.buildah("from", "scratch"))
        self.buildah("add", container, rootfs, "/")
        self.buildah("commit", "--rm", container, BASE)
        shutil.rmtree(rootfs)

    def make_cuda_base(self, toolkit: Path) -> str:
        """The base with a CUDA toolkit of this machine, as NVIDIA's devel images have it."""
        tag = f"{BASE}-cuda"
        container = last_line(self.buildah("from", "--pull-never", BASE))
        self.buildah("add", container, toolkit, "/usr/local/cuda")
        path = "/usr/local/cuda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        self.buildah("config", f"--env=PATH={path}", container)
        self.buildah("commit", "--rm", container, tag)
        return tag

    def build(self, tag: str, arguments: Mapping[str, str], *, target: str | None = None) -> str:
        """Build the Dockerfile; return what the build printed.

        Raises `BuildFailed`, with the output, where it fails.
        """
        bases = ("CPU_BASE", *(f"CUDA_{n}_{use}" for n in (12, 13) for use in ("DEVEL", "RUNTIME")))
        chosen = {**dict.fromkeys(bases, BASE), **arguments}
        return self.buildah(
            *("bud", "--network=host", "--pull-never", f"--tag={tag}"),
            "--format=docker",  # OCI's has no SHELL
            # This buildah does not see that a stage is used whose name an ARG completes.
            "--skip-unused-stages=false",
            *(f"--build-arg={name}={value}" for name, value in chosen.items()),
            *([f"--target={target}"] if target else []),
            *self._site.arguments(),
            ROOT,
        )

    def config(self, tag: str) -> Config:
        """The image's own configuration."""
        inspected: dict[str, Any] = json.loads(self.buildah("inspect", "--type=image", tag))
        said = inspected["OCIv1"]["config"]
        return Config(
            env=dict(pair.split("=", 1) for pair in said["Env"]),
            entrypoint=said["Entrypoint"],
            cmd=said["Cmd"],
            user=said["User"],
            workdir=said["WorkingDir"],
            labels=said["Labels"],
            ports=list(said.get("ExposedPorts", {})),
        )

    def megabytes(self, tag: str) -> float:
        """The size of an image's files."""
        inspected = self.buildah("images", "--json", tag)
        described = json.loads(inspected[inspected.index("[") :])
        return parse_size(described[0]["size"])

    def unpack(self, tag: str) -> Path:
        """The image's files, as a folder to run in."""
        container = last_line(self.buildah("from", "--pull-never", tag))
        return Path(last_line(self.buildah("mount", container)))

    def remove(self, tag: str) -> None:
        self.buildah("rm", "--all")
        self.buildah("rmi", tag)

    def buildah(self, command: str, *arguments: str | Path) -> str:
        return self._run("buildah", *self._places, command, *arguments)

    def _run(self, *command: str | Path) -> str:
        env = {
            **os.environ,
            "BUILDAH_ISOLATION": "chroot",
            "TMPDIR": str(self.folder / "tmp"),
        }
        begun = time.monotonic()
        with self._log.open("a+") as log:
            log.write(f"+ {' '.join(map(str, command))}\n")
            log.flush()
            start = log.tell()
            child = subprocess.Popen(
                command,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status = child.wait()
            except BaseException:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                raise
            log.seek(start)
            output = log.read().strip()
            log.write(f"({time.monotonic() - begun:.0f} s)\n")
        if status:
            raise BuildFailed(f"{' '.join(map(str, command))}\nended with {status}:\n{output}")
        return output


def parse_size(text: str) -> float:
    """Megabytes of "1.5 GB" and the like."""
    number, unit = text.split()
    return float(number) * {"KB": 1e-3, "MB": 1.0, "GB": 1e3}[unit]


def last_line(text: str) -> str:
    """A command's answer, after whatever warnings came before it."""
    return text.splitlines()[-1]
