"""Text to numbers: bytes, or byte-level BPE learned from the training text.

Both keep every byte: no normal form, no unknown token. Texts never turn into the special
tokens, whose numbers lie above all others, whatever they contain.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from hvdkit.comm import Comm
from hvdkit.launch.cache import default_cache

_log = logging.getLogger(__name__)
TokenizerKind = Literal["bytes", "bpe"]
SPECIAL_TOKENS = 5
_PIECE = 1 << 20  # characters encoded at once: an encoding takes far more memory than its text


class Tokenizer(ABC):
    """Numbers below `texts` stand for bytes of text; `end`, `pad`, `first`, `between` and `mask`
    come after them. `byte_lengths` says of each number how many bytes it stands for."""

    def __init__(self, byte_lengths: np.ndarray):
        self.texts = len(byte_lengths)
        self.byte_lengths = np.concatenate([byte_lengths, np.zeros(SPECIAL_TOKENS, np.int64)])
        self.end, self.pad, self.first, self.between, self.mask = range(
            self.texts, self.texts + SPECIAL_TOKENS
        )

    @property
    def vocabulary(self) -> int:
        """How many different tokens there are, special ones included."""
        return self.texts + SPECIAL_TOKENS

    @property
    def dtype(self) -> np.dtype:
        """The smaller of the dtypes that tokens are stored in."""
        return np.dtype(np.uint16 if self.vocabulary <= 1 << 16 else np.int32)

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """The tokens of one text."""


class Bytes(Tokenizer):
    """Each UTF-8 byte is a token."""

    def __init__(self) -> None:
        super().__init__(np.ones(256, np.int64))

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), np.uint8).astype(self.dtype)


class BytePairs(Tokenizer):
    """Byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909; over bytes: Radford et al. 2019).

    `model` is what `learn` returned.
    """

    def __init__(self, model: str):
        from tokenizers import Tokenizer as Model

        self._model = Model.from_str(model)
        words = self._model.get_vocab()
        lengths = np.zeros(len(words), np.int64)
        for word, number in words.items():
            lengths[number] = len(word)  # its alphabet has one character for each byte
        super().__init__(lengths)

    def encode(self, text: str) -> np.ndarray:
        parts = [
            np.array(self._model.encode(piece, add_special_tokens=False).ids, self.dtype)
            for piece in _pieces(text)
        ]
        return np.concatenate(parts) if parts else np.zeros(0, self.dtype)


def make_tokenizer(
    kind: TokenizerKind, texts: Sequence[str], *, vocabulary: int, comm: Comm
) -> Tokenizer:
    """The tokenizer of that kind; all ranks call it.

    BPE is learned from `texts` by rank 0, up to `vocabulary` tokens with the special ones, or
    found in the cache under the digest of the texts and of how they are used; the other ranks
    are sent it.
    """
    if kind == "bytes":
        return Bytes()
    model = _found_or_learned(texts, vocabulary - SPECIAL_TOKENS) if comm.rank == 0 else None
    return BytePairs(comm.broadcast_object(model))


def learn(texts: Iterable[str], size: int) -> str:
    """Learn `size` tokens (fewer if the texts have no more pairs); the model as JSON."""
    from tokenizers import Tokenizer as Model
    from tokenizers import models, pre_tokenizers, trainers

    model = Model(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator((piece for text in texts for piece in _pieces(text)), trainer)
    return model.to_str()


def digest(texts: Iterable[str], *settings: object) -> str:
    """A name for texts and what is done with them: equal content, equal name."""
    import tokenizers

    found = hashlib.sha256(repr((tokenizers.__version__, *settings)).encode())
    for text in texts:
        data = text.encode()
        found.update(len(data).to_bytes(8, "little"))
        found.update(data)
    return found.hexdigest()


def _found_or_learned(texts: Sequence[str], size: int) -> str:
    folder = default_cache(os.environ) / "tokenizers"
    place = folder / f"{digest(texts, 'byte-level BPE', size)}.json"
    try:
        model = place.read_text(encoding="utf-8")
        BytePairs(model)
        return model
    except FileNotFoundError:
        pass
    except Exception as error:  # the library has no type of its own for a file it cannot read
        _log.info("learning the tokenizer anew: %s cannot be used (%s)", place, error)
    model = learn(texts, size)
    try:
        _write_whole(place, model)
    except OSError as error:
        _log.info("the tokenizer is not kept: %s", error)
    return model


def _write_whole(place: Path, text: str) -> None:
    """A reader, of another job too, meets the whole file or none."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=place.parent, delete=False
    ) as stream:
        try:
            stream.write(text)
            stream.close()
            os.replace(stream.name, place)
        except BaseException:
            os.unlink(stream.name)
            raise


def _pieces(text: str) -> Iterator[str]:
    """The text in pieces that end where a line does, if lines are not longer than a piece."""
    start = 0
    while start < len(text):
        stop = start + _PIECE
        if stop < len(text):
            stop = (text.rfind("\n", start, stop) + 1) or stop
        yield text[start:stop]
        start = stop
