"""The index answers for single ids, for none, and for many."""

import numpy as np

from pipelines.store.id_index import IdIndex


def test_an_id_is_looked_up_with_its_largest_number():
    index = IdIndex([(["a", "b"], [1, 2]), (["b", "c"], [7, 3]), ([], [])])
    present, numbers = index.look_up(["b", "x", "a", "c"])
    assert present.tolist() == [True, False, True, True]
    assert numbers.tolist() == [7, 0, 1, 3]


def test_an_empty_index_contains_nothing():
    present, numbers = IdIndex().look_up(["a"])
    assert present.tolist() == [False]
    assert numbers.tolist() == [0]
    assert len(IdIndex().look_up([])[0]) == 0


def test_many_ids_are_distinguished():
    ids = [f"s3://bucket/{number}.mp4" for number in range(50_000)]
    index = IdIndex([(ids[::2], np.zeros(25_000))])
    assert index.look_up(ids)[0].tolist() == [number % 2 == 0 for number in range(50_000)]
