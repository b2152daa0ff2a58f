"""The Dockerfile's layers, as far as they show without building them (`make image-test` does)."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_part_of_hvdkit_that_builds_horovod_is_enough(tmp_path: Path) -> None:
    """Horovod's layer has a part of hvdkit alone, so that a change elsewhere keeps it cached."""
    text = (ROOT / "Dockerfile").read_text()
    copies = re.findall(r"^COPY (hvdkit/.*) \./(hvdkit/\S*)$", text, re.MULTILINE)
    assert copies
    for sources, target in copies:
        (tmp_path / target).mkdir(parents=True, exist_ok=True)
        for source in map(Path, sources.split()):
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, tmp_path / target, dirs_exist_ok=True)
            else:
                shutil.copy(ROOT / source, tmp_path / target)
    # Without site, whose editable install would find the rest here.
    found = f"{tmp_path}:{sysconfig.get_path('purelib')}"
    imports = ["-c", "import hvdkit.install.build"]
    for words in (["-m", "hvdkit", "build-horovod", "--help"], imports):
        done = subprocess.run(
            [sys.executable, "-S", *words],
            env={"PYTHONPATH": found},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
