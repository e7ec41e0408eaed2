"""A compact in-memory index of ids, so that a listing of millions of files can be compared with the tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd


class IdIndex:
    """A set of strings, stored as sorted 64-bit hashes with one number each.

    An id takes eight bytes for its hash and eight for its number. The chance that any two of ten million ids have the
    same hash is about 1e-5.

    Args:
        batches: ids and their numbers; of an id that occurs more than once, the largest number counts.
    """

    def __init__(self, batches: Iterable[tuple[Sequence[str], Sequence[int] | np.ndarray]] = ()) -> None:
        pairs = [(_hash(ids), np.asarray(numbers, np.int64)) for ids, numbers in batches if len(ids)]
        hashes = np.concatenate([pair[0] for pair in pairs]) if pairs else np.zeros(0, np.uint64)
        numbers = np.concatenate([pair[1] for pair in pairs]) if pairs else np.zeros(0, np.int64)
        # lexsort takes the last key as the first criterion.
        order = np.lexsort((numbers, hashes))
        self._hashes, self._numbers = hashes[order], numbers[order]

    def __len__(self) -> int:
        return len(self._hashes)

    def look_up(self, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns whether the index contains each id, and its number (0 if it does not)."""
        if not len(self._hashes) or not len(ids):
            return np.zeros(len(ids), bool), np.zeros(len(ids), np.int64)
        hashes = _hash(ids)
        # Equal hashes are sorted by number, so the last of them has the largest.
        last = np.searchsorted(self._hashes, hashes, side="right") - 1
        present = (last >= 0) & (self._hashes[last] == hashes)
        return present, np.where(present, self._numbers[last], 0)


def _hash(ids: Sequence[str]) -> np.ndarray:
    # The hash of pandas, as Python's own differs from process to process, and is no array function. `categorize` is for
    # arrays with many repetitions; ids have none.
    return pd.util.hash_array(np.asarray(ids, dtype=object), categorize=False)
