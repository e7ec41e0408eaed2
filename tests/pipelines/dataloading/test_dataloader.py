"""Training batches: every example once per epoch, the same order for every worker, one bucket per batch."""

import time
from collections import Counter, OrderedDict

import numpy as np
import pyarrow as pa
import pytest

from pipelines.dataloading.dataloader import CACHED_FILES, BatchPlan, Bucket, Prefetcher, Reader, load_plan
from pipelines.store import schema
from pipelines.store.tables import DataFile, Tables

IMAGE, VIDEO = Bucket(1, 64, 64), Bucket(5, 64, 64)


def plan(images=(7, 5), videos=(3,), size=4, seed=0, images_first=0):
    files = [DataFile(f"i{n}", rows, {"bucket": str(IMAGE)}) for n, rows in enumerate(images)]
    files += [DataFile(f"v{n}", rows, {"bucket": str(VIDEO)}) for n, rows in enumerate(videos)]
    return BatchPlan(files, lambda bucket: size if bucket.frames == 1 else 2, seed, images_first)


def epoch(plan, number=0):
    count = plan.batches_per_epoch
    return [plan.batch(position) for position in range(number * count, (number + 1) * count)]


def test_an_epoch_uses_every_example_and_fills_up_the_last_batch():
    counts = Counter((bucket, pair) for bucket, pairs in epoch(plan()) for pair in pairs)
    assert len({pair for bucket, pair in counts if bucket == IMAGE}) == 12
    assert len({pair for bucket, pair in counts if bucket == VIDEO}) == 3
    assert sum(counts.values()) == 3 * 4 + 2 * 2  # 12 images in fours, 3 videos in twos: one is used twice


def test_a_bucket_smaller_than_a_batch_is_trained_on():
    (bucket, pairs), *_ = epoch(plan(images=(), videos=(1,)))
    assert (bucket, pairs) == (VIDEO, [(0, 0), (0, 0)])


def test_batches_hold_one_bucket_and_buckets_are_mixed():
    order = [bucket for bucket, _ in epoch(plan(images=(40,), videos=(20,)))]
    assert sorted(order) != order
    for bucket, pairs in epoch(plan()):
        assert {IMAGE if file < 2 else VIDEO for file, _ in pairs} == {bucket}


def test_consecutive_batches_read_the_same_files():
    """However many files there are: a reader that caches some of them reads each about once an epoch."""
    reads, cache = 0, OrderedDict()
    many = plan(images=(4,) * 400, videos=(4,) * 400)
    for _, pairs in epoch(many):
        for file in {file for file, _ in pairs}:
            reads += file not in cache
            cache[file] = cache.pop(file, None)
            if len(cache) > CACHED_FILES:
                cache.popitem(last=False)
    assert reads < 1.1 * len(many.files)


def test_after_the_first_images_come_the_epochs_of_a_plan_without_them():
    mixed, first = plan(images=(40,), videos=(20,)), plan(images=(40,), videos=(20,), images_first=25)
    early = [first.batch(position) for position in range(25)]
    assert {bucket for bucket, _ in early} == {IMAGE}
    pairs_of_epoch = [pair for _, pairs in early[:10] for pair in pairs]
    assert len(set(pairs_of_epoch)) == 40, "an epoch of images uses each once"
    assert [first.batch(25 + position) for position in range(30)] == [mixed.batch(position) for position in range(30)]
    with pytest.raises(ValueError, match="no images"):
        plan(images=(), images_first=1)


def test_the_order_is_a_function_of_seed_and_position():
    assert [plan().batch(n) for n in (7, 2, 9)] == [plan().batch(n) for n in (7, 2, 9)]
    assert epoch(plan()) != epoch(plan(seed=1))
    assert epoch(plan(), 0) != epoch(plan(), 1)


def write_examples(root, count, bucket=IMAGE):
    tables = Tables(root)
    tables.create()
    rows = []
    for number in range(count):
        row = dict.fromkeys(schema.TABLES["examples"])
        moments = np.full((8, 1, 8, 8), number, np.float16)
        text = np.full((number % 3 + 1, 4), number, np.float16)
        row |= {"example_id": f"e{number}", "bucket": str(bucket), "motion_score": float(number), "bucket_fps": 12.0}
        for name, array in (("moments", moments), ("short_text", text), ("long_text", text + 1)):
            row |= {name: array.tobytes(), f"{name}_shape": list(array.shape), f"{name}_dtype": "float16"}
        rows.append(row)
    table = pa.Table.from_pylist(rows, schema=schema.table_schema("examples"))
    tables.commit_files("examples", tables.write_files("examples", table))
    return tables


def test_the_reader_gives_each_example_its_own_arrays(tmp_path):
    write_examples(tmp_path / "t", 6)
    batch = Reader(load_plan(str(tmp_path / "t"), 1, lambda bucket: 6, seed=0)).read(0)
    assert sorted(batch.ids) == [f"e{n}" for n in range(6)]
    for index, name in enumerate(batch.ids):
        number = int(name[1:])
        assert batch.moments[index].unique().tolist() == [number]
        assert batch.motion[index] == number
        assert batch.short_text[index].shape == (number % 3 + 1, 4)
        assert batch.long_text[index].unique().tolist() == [number + 1]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_workers_share_a_batch_without_overlap(tmp_path, world):
    write_examples(tmp_path / "t", 6)
    reader = Reader(load_plan(str(tmp_path / "t"), 1, lambda bucket: 6, seed=0))
    shares = [reader.read(0, rank, world).ids for rank in range(world)]
    assert sorted(name for share in shares for name in share) == [f"e{n}" for n in range(6)]
    assert {len(share) for share in shares} == {6 // world}


def test_an_empty_version_is_refused(tmp_path):
    write_examples(tmp_path / "t", 2)
    with pytest.raises(ValueError, match="version 0 is empty"):
        load_plan(str(tmp_path / "t"), 0, lambda bucket: 1, seed=0)


def test_the_prefetcher_keeps_order_counts_waiting_and_passes_errors_on():
    def read(position):
        if position == 3:
            raise OSError("disk gone")
        time.sleep(0.02)
        return position

    batches = Prefetcher(read, start=1)
    assert [next(batches), next(batches)] == [1, 2]
    assert batches.waited > 0
    with pytest.raises(OSError, match="disk gone"):
        next(batches)
    batches.close()
