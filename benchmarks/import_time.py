"""How long `import hvdkit` takes in a fresh process: python benchmarks/import_time.py"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

import machine

_PROGRAM = """
import sys, time
start = time.perf_counter()
import hvdkit
print(time.perf_counter() - start)
print(*sorted({"torch", "tensorflow", "keras", "horovod"} & sys.modules.keys()))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--processes", type=int, default=15)
    options = parser.parse_args()
    seconds, heavy = [], set()
    for _ in range(options.processes):
        run = subprocess.run(
            [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True
        )
        first, second = run.stdout.splitlines()
        seconds.append(float(first))
        heavy |= set(second.split())
    print(
        f"import hvdkit: median {1000 * statistics.median(seconds):.1f} ms, "
        f"{1000 * min(seconds):.1f} to {1000 * max(seconds):.1f} in {len(seconds)} processes; "
        f"frameworks it imported: {', '.join(sorted(heavy)) or 'none'} (load {machine.load()})"
    )


if __name__ == "__main__":
    main()
