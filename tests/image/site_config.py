"""What this machine's pip and apt are told about where packages come from, for a build.

An image is built from the public registries by default. Where a site has mirrors, a certificate
of its own or folders of wheels, pip and apt know it from their configuration, and a build that
sees nothing of the machine it runs on would not. Here that configuration is read from the tools
themselves and mounted into the build, below one folder, so that no layer keeps it. Imports the
standard library.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

_INSIDE = Path("/hvdkit-site")
# pip's keys whose values are places on this machine, or may be.
_PLACES = ("cert", "client-cert", "find-links", "index-url", "extra-index-url")
_PLAIN = ("default-timeout", "timeout", "trusted-host", "retries")


@dataclass
class Site:
    """Bind mounts of a build, as (here, inside), all read-only."""

    mounts: dict[Path, Path] = field(default_factory=dict)

    def arguments(self) -> list[str]:
        """The mounts as buildah takes them."""
        return [f"--volume={here}:{inside}:ro" for here, inside in self.mounts.items()]

    def inside(self, place: Path) -> Path:
        """Mount a file or folder of this machine; return its path in the build.

        The links of a package index lead out of its folder `simple`, so its parent comes along.
        """
        root = place.parent if place.name == "simple" and place.is_dir() else place
        self.mounts[root] = _INSIDE / root.relative_to("/")
        return _INSIDE / place.relative_to("/")

    def translate(self, value: str) -> str:
        """A path or file: URL as the build sees it; anything else is the same everywhere."""
        path = Path(value.removeprefix("file://"))
        if not path.is_absolute() or not path.exists():
            return value
        inside = str(self.inside(path))
        return f"file://{inside}" if value.startswith("file://") else inside


def read_site(folder: Path) -> Site:
    """This machine's configuration; the files it takes are written to `folder`."""
    site = Site()
    settings = pip_settings()
    lines = ["[global]"]
    for key in (*_PLACES, *_PLAIN):
        values = [site.translate(value) for value in settings.get(key, "").split()]
        if values:
            lines.append(f"{key} = " + "\n  ".join(values))
    pip = folder / "pip.conf"
    pip.write_text("\n".join(lines) + "\n")
    site.mounts[pip] = Path("/etc/pip.conf")
    apt = folder / "apt.conf"
    apt.write_text(tool_output("apt-config", "dump", "--no-empty", *_APT_PROXIES))
    site.mounts[apt] = Path("/etc/apt/apt.conf.d/99site")
    return site


_APT_PROXIES = ("Acquire::http::Proxy", "Acquire::https::Proxy")


def pip_settings() -> dict[str, str]:
    """pip's settings by key, from its files and from the environment, which wins."""
    found: dict[str, str] = {}
    listed = tool_output(sys.executable, "-m", "pip", "config", "list").splitlines()
    for scope in ("global", "user", "site", "install", ":env:"):
        for line in listed:
            match = re.fullmatch(rf"{re.escape(scope)}\.([\w-]+)=(.*)", line)
            if match:
                found[match[1]] = str(ast.literal_eval(match[2]))
    return found


def debian_mirror(release: str) -> list[str]:
    """Where this machine's apt gets a Debian release from; empty leaves it to debootstrap."""
    listed = tool_output("apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)")
    sites = [line.split()[0] for line in listed.splitlines() if line.endswith(f" {release}")]
    return sites[:1]


def tool_output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout
