"""Small files of ratings and clicks in their true published forms, for the tests of recipes."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write_ratings(folder: Path, *, users: int = 60, items: int = 130) -> None:
    """ratings.csv as of ml-20m, with enough items to rank one among 100."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    lines = ["userId,movieId,rating,timestamp"]
    for user in range(1, users + 1):
        for item in random.permutation(items)[:10].tolist():
            stars = random.integers(1, 11) / 2
            lines.append(f"{user},{item + 1},{stars},{random.integers(10**9, 2 * 10**9)}")
    (folder / "ratings.csv").write_text("\n".join(lines) + "\n")


def write_clicks(folder: Path, *, lines: int = 60) -> None:
    """train.txt as of the Kaggle challenge, empty fields included."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    with (folder / "train.txt").open("w") as file:
        for i in range(lines):
            counts = [str(n) if n >= -2 else "" for n in random.integers(-4, 300, 13)]
            categories = [f"{c:08x}" if c else "" for c in random.integers(0, 9, 26) * 477218588]
            file.write("\t".join([str(i % 4 // 3), *counts, *categories]) + "\n")
