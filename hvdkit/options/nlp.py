"""Text data and language models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hvdkit.errors import HvdkitError
from hvdkit.schema import at_least, between, choice, positive

# 256 bytes and the special tokens: what byte-level BPE begins with.
_LEAST_VOCABULARY = 261


def _check_fraction(node: dict[str, Any], where: str) -> None:
    if node["evaluation_path"] is None and node["evaluation_fraction"] == 0:
        raise HvdkitError(
            f"{where}.evaluation_fraction=0 leaves nothing to evaluate on: raise it, or set "
            f"{where}.evaluation_path"
        )


@dataclass(kw_only=True)
class TextFilesOptions:
    path: str | None
    evaluation_path: str | None
    glob: str | None
    evaluation_fraction: float = between(0.0, 1.0)
    context: int = at_least(1)
    tokenizer: str = choice("bytes", "bpe")
    vocabulary: int = at_least(_LEAST_VOCABULARY)
    on_bad_record: str = choice("error", "skip")

    check_together = staticmethod(_check_fraction)


@dataclass(kw_only=True)
class MaskedTextFilesOptions(TextFilesOptions):
    context: int = at_least(3)  # one token between the two special ones


@dataclass(kw_only=True)
class LabelledTextOptions:
    path: str
    evaluation_path: str | None
    evaluation_fraction: float = between(0.0, 1.0)
    text_field: str
    pair_field: str | None
    label_field: str
    labels: list[str] | None
    context: int = at_least(5)  # a token of each text between the special ones
    tokenizer: str = choice("bytes", "bpe")
    vocabulary: int = at_least(_LEAST_VOCABULARY)
    on_bad_record: str = choice("error", "skip")

    check_together = staticmethod(_check_fraction)


@dataclass(kw_only=True)
class TransformerOptions:
    layers: int = at_least(1)
    width: int = positive()
    heads: int = positive()
    dropout: float = between(0.0, 1.0)

    @staticmethod
    def check_together(node: dict[str, Any], where: str) -> None:
        width, heads = node["width"], node["heads"]
        if width % heads:
            raise HvdkitError(f"{where}.heads={heads} does not divide {where}.width={width}")


SCHEMAS: dict[str, type] = {
    "hvdkit.data.text_files": TextFilesOptions,
    "hvdkit.data.masked_text_files": MaskedTextFilesOptions,
    "hvdkit.data.labelled_text": LabelledTextOptions,
    "hvdkit.models.nlp.torch_gpt.GPT": TransformerOptions,
    "hvdkit.models.nlp.keras_gpt.GPT": TransformerOptions,
    "hvdkit.models.nlp.torch_bert.BERT": TransformerOptions,
    "hvdkit.models.nlp.keras_bert.BERT": TransformerOptions,
}
