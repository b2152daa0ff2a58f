"""The README's program does what it says, on two ranks."""

from __future__ import annotations

import ast
import re
import sys

from tests.distributed.conftest import ROOT


def test_the_program_in_the_readme_trains(start, tmp_path):
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    file = tmp_path / "rings.py"
    file.write_text(program)
    job = start([sys.executable, str(file)], np=2, launcher="mpi")
    assert job.wait() == 0, job.output
    results = [ast.literal_eval(found) for found in re.findall(r"\{[^{}]*\}", job.output)]
    assert len(results) == 2  # each rank prints it
    assert results[0] == results[1]
    assert results[0]["accuracy"] > 0.95
