"""Where hvdkit keeps what can be made again. Imports the standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def default_cache(environ: Mapping[str, str]) -> Path:
    """hvdkit's cache folder: $HVDKIT_CACHE, or `hvdkit` in the user's cache folder."""
    if environ.get("HVDKIT_CACHE"):
        return Path(environ["HVDKIT_CACHE"]).expanduser().absolute()
    base = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "hvdkit"
