"""Masked tokens, as BERT is trained on them (Devlin et al. 2019, section 3.1 and A.1).

15 % of a record's tokens are to be predicted; of these 80 % are replaced by the mask token, 10 %
by any token, and 10 % stay. Which, and by what, is a function of the record's key.
"""

from __future__ import annotations

import numpy as np

from hvdkit.data.keys import fractions, integers, position_keys
from hvdkit.data.sources import BatchSource
from hvdkit.data.tokenizers import Tokenizer

_SHARE = 0.15
_MASKED, _REPLACED = 0.8, 0.9  # below the first: masked; below the second: any token
_EVALUATION_SEED = 0


class MaskedTokens(BatchSource):
    """A stream of tokens, cut into records of `context`: the first token, text, the one between.

    {"token", "segment", "valid": (context,), "position", "label", "weight": (P,)}: the tokens as
    the model sees them, and where it is to say what stood there. P is 15 % of a whole record;
    a record that has fewer to predict has weights of 0 at the end.
    """

    def __init__(self, stream: np.ndarray, *, context: int, tokenizer: Tokenizer):
        self._stream, self._context, self._tokenizer = stream, context, tokenizer
        self._inner = context - 2
        self._places = max(1, round(_SHARE * self._inner))

    def __len__(self) -> int:
        return -(-len(self._stream) // self._inner)

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Masked for good, by the records' numbers."""
        return self.draw(indices, position_keys(_EVALUATION_SEED, np.asarray(indices)))

    def draw(self, indices: np.ndarray, keys: np.ndarray) -> dict[str, np.ndarray]:
        tokenizer, inner = self._tokenizer, self._inner
        at = np.asarray(indices)[:, None] * inner + np.arange(inner)
        inside = at < len(self._stream)
        text = self._stream[np.minimum(at, len(self._stream) - 1)]

        # The tokens of text come first, in random order, then all that is never predicted.
        candidates = inside & (text < tokenizer.texts)
        order = np.argsort(fractions(keys, inner) + ~candidates, axis=1, kind="stable")
        place = order[:, : self._places]
        number = candidates.sum(1)
        wanted = np.minimum(np.maximum(np.rint(_SHARE * number), 1), number)
        chosen = np.arange(self._places) < wanted[:, None]

        label = np.take_along_axis(text, place, 1)
        kind = fractions(keys, self._places, stream=1)
        any_token = integers(keys, self._places, tokenizer.texts, stream=2)
        shown = np.where(
            kind < _MASKED, tokenizer.mask, np.where(kind < _REPLACED, any_token, label)
        )
        shown = np.where(chosen, shown, label).astype(text.dtype)
        np.put_along_axis(text, place, shown, 1)

        rows = np.arange(len(text))
        length = inside.sum(1)
        token = np.full((len(text), self._context), tokenizer.pad, text.dtype)
        token[:, 1:-1] = np.where(inside, text, tokenizer.pad)
        token[:, 0] = tokenizer.first
        token[rows, length + 1] = tokenizer.between
        return {
            "token": token,
            "segment": np.zeros_like(token, np.uint8),
            "valid": np.arange(self._context) < length[:, None] + 2,
            "position": place + 1,
            "label": label,
            "weight": chosen.astype(np.float32),
        }
