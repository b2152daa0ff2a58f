"""Each kind of model once, small, as overrides of a recipe's config, and files to train it on."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

VISION = ("trainer.num_epochs=null", "data.batch_size=32")
TEXT = (
    "trainer.num_epochs=null",
    "data.batch_size=10",
    "data.source.context=24",
    "model.layers=2",
    "model.width=32",
    "model.heads=2",
    "model.dropout=0",
)
RECSYS = ("trainer.num_epochs=null", "data.batch_size=50")
TASTES = ("data.source.users=100", "data.source.items=150", "data.source.interactions=15")
RESNET = ("model=resnet", "model.widths=[4,8]", "model.blocks=[1,1]", "model.norm_groups=2")

# A recipe and its overrides; FILES stands for the folder that `write_files` filled.
MODELS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "mlp": ("vision", (*VISION, "model=mlp", "model.hidden=[32,16]")),
    "resnet": ("vision", (*VISION, *RESNET)),
    "resnet, bottleneck": ("vision", (*VISION, *RESNET, "model.block=bottleneck")),
    "vgg": (
        "vision",
        (
            *VISION,
            "model=vgg16",
            "model.widths=[4,8]",
            "model.blocks=[1,1]",
            "model.hidden=[16]",
            "model.pooled=2",
            "model.dropout=0",
        ),
    ),
    "vit": (
        "vision",
        (*VISION, "model=vit", "model.width=16", "model.depth=2", "model.hidden=32"),
    ),
    "gpt": ("nlp", (*TEXT, "data.source.path=LICENSE")),
    "bert, masked": (
        "nlp",
        (
            *TEXT,
            "model=bert_tiny",
            "data=masked_text",
            "data.source.path=LICENSE",
            "data.source.tokenizer=bytes",
        ),
    ),
    "bert, classes": (
        "nlp",
        (*TEXT, "model=bert_tiny", "data=labelled_text", "data.source.path=FILES/labelled.jsonl"),
    ),
    "mf": ("recsys", (*RECSYS, *TASTES, "model=mf", "model.dimension=4")),
    "neumf": ("recsys", (*RECSYS, *TASTES, "model.hidden=[8,4]", "model.dimension=4")),
    "neumf, rows": (
        "recsys",
        (*RECSYS, *TASTES, "model.hidden=[8,4]", "model.dimension=4", "model.sparse=true"),
    ),
    "dlrm": (
        "recsys",
        (
            *RECSYS,
            "data=criteo",
            "data.source.path=FILES/criteo.tsv",
            "data.source.cache=FILES/cache",
            "data.source.buckets=50",
            "model=dlrm",
            "model.bottom=[8,4]",
            "model.top=[8]",
        ),
    ),
}


def write_files(folder: Path) -> None:
    """A labelled text and a click log in which there is something to learn."""
    draw = random.Random(0)
    with (folder / "labelled.jsonl").open("w") as file:
        for _ in range(300):
            label = draw.choice(["up", "down"])
            words = [draw.choice(["rise", "gain"] if label == "up" else ["fall", "loss"])]
            words += [draw.choice(["a", "the", "of"]) for _ in range(3)]
            draw.shuffle(words)
            file.write(json.dumps({"text": " ".join(words), "label": label}) + "\n")
    with (folder / "criteo.tsv").open("w") as file:
        for _ in range(400):
            counts = [draw.choice(["", str(draw.randrange(30))]) for _ in range(13)]
            categories = [f"{draw.randrange(6):08x}" for _ in range(26)]
            liked = int(categories[0], 16) > 2
            clicked = int(liked if draw.random() < 0.9 else not liked)
            file.write("\t".join([str(clicked), *counts, *categories]) + "\n")
