"""Each compression's final metric beside the noise of fp32 runs with other seeds.

    python benchmarks/compression_quality.py [--recipes vision nlp recsys] [--seeds 3] [--ranks 2]

Every run is its recipe under `hvdkit launch`, as a user would start it. A compression keeps the
metric if the mean of its seeds lies no further outside the range of the fp32 seeds than that range
is wide, or than one test record more or less counts; the table says which do not.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import machine
from rich import box
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent
# Overrides of each recipe, its metric, whether more of that is better, and one record's worth.
RECIPES = {
    "vision": (
        ["model=resnet", "trainer.num_epochs=5", "data.batch_size=64"],
        "accuracy",
        True,
        1 / 360,
    ),
    "nlp": (
        ["trainer.num_steps=200", "data.source.path=DATA", "data.batch_size=32"],
        "bits_per_byte",
        False,
        0.0,
    ),
    "recsys": (["model=mf", "trainer.num_epochs=5"], "ndcg_at_10", True, 1 / 2000),
}
QUIET = ["callbacks.tensorboard=null", "callbacks.progress=null", "trainer.log_every=1000"]
COMPRESSIONS = {
    "none": ["compression=none"],
    "fp16": ["compression=fp16"],
    "bf16": ["compression=bf16"],
    "int8": ["compression=int8"],
    "topk 1 %": ["compression=topk"],
    "topk 1 %, warm-up": ["compression=topk", "compression.warmup_steps=WARMUP"],
    "topk 10 %": ["compression=topk", "compression.ratio=0.1"],
    "powersgd 4": ["compression=powersgd"],
}
_WARM_UP = {"vision": 22, "nlp": 50, "recsys": 200}


def main() -> None:
    options = _options()
    console = Console(width=100, highlight=False)
    console.print(", ".join(f"{name} {value}" for name, value in machine.describe().items()))
    for recipe in options.recipes:
        runs = {
            name: [_run(recipe, name, seed, options) for seed in _seeds(name, options)]
            for name in options.compressions
        }
        console.print(_table(recipe, runs, options))
        if options.json:
            with options.json.open("a") as file:
                file.write(json.dumps({"recipe": recipe, "runs": runs}) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--framework", choices=("torch", "tensorflow"), default="torch")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--compressed-seeds", type=int, help="of each compression (default: as many)"
    )
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=600, help="seconds a run may take")
    parser.add_argument("--json", type=Path, help="add every run's metric and wire ratio here")
    parser.add_argument(
        "--compressions", nargs="+", choices=COMPRESSIONS, default=list(COMPRESSIONS)
    )
    return parser.parse_args()


def _seeds(compression: str, options: argparse.Namespace) -> range:
    fewer = options.compressed_seeds if compression != "none" else None
    return range(fewer or options.seeds)


def _run(recipe: str, compression: str, seed: int, options: argparse.Namespace) -> dict:
    print(f"{recipe}, {compression}, seed {seed}", file=sys.stderr, flush=True)
    overrides, metric, _, _ = RECIPES[recipe]
    chosen = [*overrides, *COMPRESSIONS[compression], *QUIET, f"trainer.seed={seed}"]
    chosen = [x.replace("WARMUP", str(_WARM_UP[recipe])) for x in chosen]
    chosen = [x.replace("DATA", str(ROOT / "hvdkit")) for x in chosen]
    if recipe == "nlp":
        chosen.append("data.source.glob='**/*.py'")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "hvdkit", "launch", "-np", str(options.ranks)]
        command += [f"recipes/{recipe}.py", f"hydra.run.dir={folder}/run"]
        command += [f"framework={options.framework}", *chosen]
        environ = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=options.timeout
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr}")
        summary = json.loads(Path(folder, "run/summary.json").read_text())
    return {"metric": summary["eval"][metric], "wire_ratio": summary["wire_ratio"]}


def _table(recipe: str, runs: dict[str, list[dict]], options: argparse.Namespace) -> Table:
    overrides, metric, more_is_better, one_record = RECIPES[recipe]
    chosen = " ".join(x for x in overrides if "DATA" not in x)
    table = Table(
        title=f"{recipe}: {metric} ({'more' if more_is_better else 'less'} is better), {chosen}",
        caption=f"{options.framework}, {options.ranks} ranks, {options.seeds} seeds in fp32, "
        f"{options.compressed_seeds or options.seeds} of each compression",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for heading in ("compression", "mean", "range", "wire ratio", "within the noise"):
        table.add_column(heading, justify="left" if heading == "compression" else "right")
    plain = [run["metric"] for run in runs["none"]]
    width = max(max(plain) - min(plain), one_record)
    for name, found in runs.items():
        values = [run["metric"] for run in found]
        mean = statistics.mean(values)
        short = (min(plain) - width) - mean if more_is_better else mean - (max(plain) + width)
        table.add_row(
            name,
            f"{mean:.4f}",
            f"{min(values):.4f} to {max(values):.4f}",
            f"{found[0]['wire_ratio']:.3f}",
            "" if name == "none" else ("no" if short > 1e-9 else "yes"),
        )
    return table


if __name__ == "__main__":
    main()
