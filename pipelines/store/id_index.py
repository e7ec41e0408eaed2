"""What the tables already hold, remembered in a few bytes an item, so that a listing of millions can be checked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd


class KnownIds:
    """A set of strings as sorted 64-bit hashes, with one number kept for each.

    Eight bytes for the hash and eight for the number; two different strings are confused with a chance of about
    1e-5 at ten million.
    """

    def __init__(self, batches: Iterable[tuple[Sequence[str], Sequence[int] | np.ndarray]] = ()) -> None:
        pairs = [(_hash(names), np.asarray(numbers, np.int64)) for names, numbers in batches if len(names)]
        hashes = np.concatenate([pair[0] for pair in pairs]) if pairs else np.zeros(0, np.uint64)
        numbers = np.concatenate([pair[1] for pair in pairs]) if pairs else np.zeros(0, np.int64)
        order = np.lexsort((numbers, hashes))
        self._hashes, self._numbers = hashes[order], numbers[order]

    def __len__(self) -> int:
        return len(self._hashes)

    def look_up(self, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Whether each name is known, and the largest number it was added with (0 where it is not known)."""
        if not len(self._hashes) or not len(names):
            return np.zeros(len(names), bool), np.zeros(len(names), np.int64)
        wanted = _hash(names)
        last = np.searchsorted(self._hashes, wanted, side="right") - 1
        found = (last >= 0) & (self._hashes[last] == wanted)
        return found, np.where(found, self._numbers[last], 0)


def _hash(names: Sequence[str]) -> np.ndarray:
    return pd.util.hash_array(np.asarray(names, dtype=object), categorize=False)
