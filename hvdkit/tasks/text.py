"""Language modelling, masked or not, and classification of texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hvdkit.errors import HvdkitError
from hvdkit.tasks.base import Task, means, record_weights
from hvdkit.tensors import Ops, Tensor

Records = Mapping[str, np.ndarray]


def text_task(objective: str, model: Any, *, label_smoothing: float = 0.0) -> Task:
    """The task of a dataset's objective ("next_token", "masked_tokens" or "classes").

    Raises `HvdkitError` if `model` lists its `objectives` and this is not one of them.
    """
    able: Sequence[str] = getattr(model, "objectives", (objective,))
    if objective not in able:
        raise HvdkitError(
            f"the model {type(model).__name__} learns {' or '.join(able)}, and the data is for "
            f"{objective}: choose another model=NAME, or another data=NAME"
        )
    if objective == "next_token":
        return LanguageModeling(label_smoothing=label_smoothing)
    if objective == "masked_tokens":
        return MaskedLanguageModeling(label_smoothing=label_smoothing)
    return TextClassification(label_smoothing=label_smoothing)


class _Tokens:
    """Cross-entropy where "weight" is not 0; a batch's count is the sum of its weights.

    `label_smoothing` is for the training loss alone.
    """

    def __init__(self, *, label_smoothing: float = 0.0):
        self.label_smoothing = label_smoothing

    def count(self, batch: Records) -> float:
        return float(batch["weight"].sum())

    def losses(self, ops: Ops, outputs: Any, batch: Mapping[str, Tensor]) -> Tensor:
        losses = ops.cross_entropy(outputs, batch["label"], smoothing=self.label_smoothing)
        return losses * batch["weight"]

    def metrics(self, ops: Ops, outputs: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        weight, label = batch["weight"], batch["label"]
        right = ops.cast(ops.argmax(outputs) == label, ops.dtype(weight))
        return {
            "loss": ops.sum(ops.cross_entropy(outputs, label) * weight),
            "accuracy": ops.sum(right * weight),
            "count": ops.sum(weight),
        }

    def summarize(self, sums: Records) -> dict[str, float]:
        return means(sums)


class LanguageModeling(_Tokens):
    """Records {"token": (context + 1,), "weight": (context,), "bytes": ()} to logits for the
    token after each; loss in nats a token.

    "bytes" is the length of the text that the predicted tokens stand for; bits a byte are the
    whole loss, over that.
    """

    def prepare(self, records: Records, *, valid: bool) -> dict[str, np.ndarray]:
        token = records["token"]
        return {
            "token": token[:, :-1].astype(np.int32),
            "label": token[:, 1:].astype(np.int64),
            "weight": record_weights(records, valid=valid),
            "bytes": records["bytes"].astype(np.int64) * valid,
        }

    def inputs(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return (batch["token"],)

    def metrics(self, ops: Ops, outputs: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # In float64, because a sum of bytes soon leaves the whole numbers of fp32.
        length = ops.cast(ops.sum(batch["bytes"]), "float64")
        return {**super().metrics(ops, outputs, batch), "bytes": length}

    def summarize(self, sums: Records) -> dict[str, float]:
        tokens = {name: total for name, total in sums.items() if name != "bytes"}
        length = float(sums["bytes"])
        bits = float(sums["loss"]) / math.log(2) / length if length else math.nan
        found = means(tokens)
        return {**found, "perplexity": _perplexity(found["loss"]), "bits_per_byte": bits}


class MaskedLanguageModeling(_Tokens):
    """Records {"token", "segment", "valid": (context,), "position", "label", "weight": (P,)} to
    logits for the tokens at `position`; loss in nats a token."""

    def prepare(self, records: Records, *, valid: bool) -> dict[str, np.ndarray]:
        return {
            **_encoder_inputs(records),
            "position": records["position"].astype(np.int64),
            "label": records["label"].astype(np.int64),
            "weight": record_weights(records, valid=valid),
        }

    def inputs(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return (batch["token"], batch["segment"], batch["valid"], batch["position"])

    def summarize(self, sums: Records) -> dict[str, float]:
        found = means(sums)
        return {**found, "perplexity": _perplexity(found["loss"])}


class TextClassification(_Tokens):
    """Records {"token", "segment", "valid": (context,), "label": ()} to logits over classes."""

    def prepare(self, records: Records, *, valid: bool) -> dict[str, np.ndarray]:
        return {
            **_encoder_inputs(records),
            "label": records["label"].astype(np.int64),
            "weight": record_weights(records, valid=valid),
        }

    def inputs(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return (batch["token"], batch["segment"], batch["valid"])


def _encoder_inputs(records: Records) -> dict[str, np.ndarray]:
    return {
        "token": records["token"].astype(np.int32),
        "segment": records["segment"].astype(np.int32),
        "valid": records["valid"].astype(bool),
    }


def _perplexity(loss: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.exp(np.float64(loss)))
