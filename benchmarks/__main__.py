"""Run every benchmark that finishes in minutes, in turn: python -m benchmarks (`make bench`).

Takes step.py's options for its part; a framework that is not installed is left out.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> int:
    programs = [["import_time.py"], ["trainer_cost.py"], ["launch_cost.py"]]
    for framework in ("torch", "tensorflow"):
        if importlib.util.find_spec(framework):
            programs.append(["step.py", "--framework", framework, *sys.argv[1:]])
            programs.append(["input_pipeline.py", "--framework", framework])
            programs.append(["sparse_rows.py", "--frameworks", framework])
    statuses = []
    for program, *arguments in programs:
        print(f"\n{program} {' '.join(arguments)}".rstrip(), flush=True)
        statuses.append(subprocess.call([sys.executable, str(HERE / program), *arguments]))
    return max(statuses)


if __name__ == "__main__":
    sys.exit(main())
