"""Lines of several ranks, joined by a launcher and taken apart again."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from hvdkit.launch.output import Tails, Untagger

# A rank's text has no tag of its own in it; a launcher's is at the beginning of each piece.
words = st.text("abc .:<>[]", max_size=6).filter(lambda text: "]<" not in text)


def taken_apart(
    stream: str, cuts: Sequence[int] = (), *, labelled: bool = False
) -> list[tuple[int | None, str]]:
    found: list[tuple[int | None, str]] = []
    untagger = Untagger(lambda rank, line: found.append((rank, line)), labelled=labelled)
    for start, end in itertools.pairwise([0, *sorted(cuts), len(stream)]):
        untagger.feed(stream[start:end])
    untagger.close()
    return found


@given(st.lists(st.tuples(st.integers(0, 3), words, st.booleans()), max_size=12), st.data())
def test_each_ranks_text_comes_back_whole(pieces, data):
    """However its pieces lie between the others', and however the stream is cut for reading."""
    stream = "".join(f"[1,{rank}]<stdout>:{text}{chr(10) * end}" for rank, text, end in pieces)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=4))
    expected: dict[int, str] = {}
    for rank, text, end in pieces:
        expected[rank] = expected.get(rank, "") + text + "\n" * end
    found: dict[int, list[str]] = {}
    for rank, line in taken_apart(stream, cuts):
        assert rank is not None
        found.setdefault(rank, []).append(line)
    for rank, text in expected.items():
        lines = text.split("\n")
        assert found.get(rank, []) == (lines if lines[-1] else lines[:-1])


def test_what_has_no_tag_is_the_launchers():
    stream = "[1,0]<stderr>:mine\n----\nmpirun noticed\n[1]<stdout>:gloo's\n"
    assert taken_apart(stream) == [
        (0, "mine"),
        (None, "----"),
        (None, "mpirun noticed"),
        (1, "gloo's"),
    ]


def test_srun_labels_lines():
    stream = "0: a: b\n10: \n 3: c\nsrun: error: node1: task 3: Killed\n"
    assert taken_apart(stream, labelled=True) == [
        (0, "a: b"),
        (10, ""),
        (3, "c"),
        (None, "srun: error: node1: task 3: Killed"),
    ]


def test_tails_keep_the_last_lines_of_each():
    tails = Tails()
    for number in range(1000):
        tails.note(number % 2, str(number))
    assert tails.of(1, 3) == ["995", "997", "999"]
    assert tails.of(7, 3) == []
    assert len(tails.ranks[0]) < 1000
