"""The compact memory of what is done."""

import numpy as np

from pipelines.store.id_index import KnownIds


def test_known_names_and_their_latest_number():
    known = KnownIds([(["a", "b"], [1, 2]), (["b", "c"], [7, 3]), ([], [])])
    found, numbers = known.look_up(["b", "x", "a", "c"])
    assert found.tolist() == [True, False, True, True]
    assert numbers.tolist() == [7, 0, 1, 3]


def test_nothing_is_known_at_first():
    found, numbers = KnownIds().look_up(["a"])
    assert found.tolist() == [False]
    assert numbers.tolist() == [0]
    assert len(KnownIds().look_up([])[0]) == 0


def test_many_names_are_told_apart():
    names = [f"s3://bucket/{n}.mp4" for n in range(50_000)]
    known = KnownIds([(names[::2], np.zeros(25_000))])
    assert known.look_up(names)[0].tolist() == [n % 2 == 0 for n in range(50_000)]
