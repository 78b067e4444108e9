"""Similar names, for a message about a wrong one. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from heapq import nlargest
from itertools import pairwise

LONGEST = 200
"""Characters of a word to which names are compared."""
_COMPARED = 20
"""Names that difflib compares: it takes half a millisecond for each."""


def similar(word: str, names: Iterable[str]) -> str:
    """Return the name that is most similar to a word; "" if none is. 10,000 names take a tenth of a
    second."""
    if len(word) > LONGEST:
        return ""
    pairs = _pairs(word)
    shared = ((len(pairs & _pairs(name)) - abs(len(name) - len(word)), name) for name in names)
    best = [name for _, name in nlargest(_COMPARED, shared)]
    return next(iter(get_close_matches(word, best, n=1)), "")


def _pairs(word: str) -> set[str]:
    """Return the characters of a word, and the pairs of neighbouring ones."""
    return {*word, *map("".join, pairwise(word))}
