"""Turns a version of `examples` into training batches, in an order that is a pure function of seed and step.

There is no generator state: batch `n` of a plan always consists of the same examples, whichever worker reads it and
however many workers share it. The data position of a checkpoint is therefore one number, a resumed run reads exactly
the examples that the uninterrupted run would have read, and the number of workers may change in between.

Every batch holds one bucket (frames x height x width), so it has one shape on every worker. An epoch uses every example
once; the last batch of a bucket is filled up from the bucket's start, so that small buckets are trained on too. Reading
stays sequential in large tables: the Parquet files are shuffled, and rows within windows of `SHUFFLE_WINDOW` files.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from pipelines.store.filesystems import open_filesystem
from pipelines.store.tables import DataFile, Tables

if TYPE_CHECKING:
    import torch

SHUFFLE_WINDOW = 16
"""Number of files whose rows are shuffled together: more mix better, fewer are read less often."""
CACHED_FILES = 64
"""Files that a reader keeps in memory: several windows, because the buckets take turns."""
COLUMNS = (
    "example_id", "moments", "moments_shape", "moments_dtype", "short_text", "short_text_shape", "short_text_dtype",
    "long_text", "long_text_shape", "long_text_dtype", "motion_score", "bucket_fps",
)  # fmt: skip


@dataclass(frozen=True, order=True)
class Bucket:
    """Pixel frames, height and width that examples were encoded at."""

    frames: int
    height: int
    width: int

    @classmethod
    def parse(cls, text: str) -> Bucket:
        """Reads '17x64x64'."""
        frames, height, width = map(int, text.split("x"))
        return cls(frames, height, width)

    def __str__(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}"


@dataclass(frozen=True)
class Batch:
    """B examples of one bucket, as they were encoded."""

    bucket: Bucket
    ids: list[str]
    moments: torch.Tensor
    """[B, 2C, t, h, w] float32: mean and log-variance."""
    short_text: list[torch.Tensor]
    """Features of the short caption, [tokens, dim] float32 each."""
    long_text: list[torch.Tensor]
    motion: torch.Tensor
    """[B] motion scores."""
    fps: torch.Tensor
    """[B]."""

    def microbatch(self, index: int, count: int) -> Batch:
        """Every `count`-th example, from example `index` on."""
        stride = slice(index, None, count)
        return Batch(
            bucket=self.bucket,
            ids=self.ids[stride],
            moments=self.moments[stride],
            short_text=self.short_text[stride],
            long_text=self.long_text[stride],
            motion=self.motion[stride],
            fps=self.fps[stride],
        )


class BatchPlan:
    """Assigns examples to batches.

    Args:
        files: the Parquet files of a version, from `Tables.files`.
        global_batch: number of examples per batch, over all workers, for a bucket.
        seed: seed of the order.
        images_first: number of batches at the start that hold images only.

    Raises:
        ValueError: `images_first` is set, and there are no images.
    """

    def __init__(
        self,
        files: Sequence[DataFile],
        global_batch: Callable[[Bucket], int],
        seed: int,
        images_first: int = 0,
    ) -> None:
        self.files = list(files)
        self.seed = seed
        self.images_first = images_first
        self._by_bucket: dict[Bucket, list[int]] = {}
        for index, file in enumerate(self.files):
            self._by_bucket.setdefault(Bucket.parse(file.partition["bucket"]), []).append(index)
        # Large videos make smaller batches than images, so that each batch takes about the same memory.
        self._sizes = {bucket: global_batch(bucket) for bucket in self._by_bucket}
        # Sorted: a bucket's number seeds its order.
        self._buckets = tuple(sorted(self._by_bucket))
        self._images = tuple(bucket for bucket in self._buckets if bucket.frames == 1)
        if images_first and not self._images:
            raise ValueError(f"images_first is {images_first}, but there are no images; leave it out")
        # Rounded up; the last batch of a bucket is filled from its start.
        self._batches = {bucket: -(-count // self._sizes[bucket]) for bucket, count in self.examples.items()}
        # Two epochs: prefetching crosses their boundary. A cache of this plan's own is freed with the plan.
        self._epoch = lru_cache(maxsize=2)(self._shuffled_epoch)

    @property
    def examples(self) -> dict[Bucket, int]:
        """Examples per bucket."""
        return {bucket: sum(self.files[index].rows for index in indices) for bucket, indices in self._by_bucket.items()}

    @property
    def batches_per_epoch(self) -> int:
        return self._count(self._buckets)

    def _count(self, buckets: Sequence[Bucket]) -> int:
        return sum(self._batches[bucket] for bucket in buckets)

    def batch(self, position: int) -> tuple[Bucket, list[tuple[int, int]]]:
        """Bucket and (file, row) pairs of a batch.

        Args:
            position: 0 for the first batch; counts on over epochs.
        """
        buckets, place = self._images, position
        if position >= self.images_first:
            buckets, place = self._buckets, position - self.images_first
        # Steps on images alone have epochs of their own, so that they leave the later order as it is.
        epoch, index = divmod(place, self._count(buckets))
        return self._epoch(epoch, buckets)[index]

    def _shuffled_epoch(self, epoch: int, buckets: Sequence[Bucket]) -> list[tuple[Bucket, list[tuple[int, int]]]]:
        batches: list[list[tuple[Bucket, list[tuple[int, int]]]]] = []
        for number, bucket in enumerate(buckets):
            # A generator per bucket and epoch: any epoch can be computed without those before it.
            order = self._shuffled_rows(bucket, np.random.default_rng((self.seed, epoch, number)))
            size = self._sizes[bucket]
            # take wraps around: the last batch is filled from the start of the order, however small the bucket
            groups = [order.take(range(at, at + size), axis=0, mode="wrap") for at in range(0, len(order), size)]
            batches.append([(bucket, [(int(file), int(row)) for file, row in group]) for group in groups])
        # Buckets take turns at random, but each keeps its own order, in which consecutive batches share files.
        turns = np.repeat(np.arange(len(batches)), [len(of_bucket) for of_bucket in batches])
        # The next number after the buckets' own, so that this generator repeats none of theirs.
        mixed = np.random.default_rng((self.seed, epoch, len(buckets))).permutation(turns)
        remaining = [iter(of_bucket) for of_bucket in batches]
        return [next(remaining[turn]) for turn in mixed]

    def _shuffled_rows(self, bucket: Bucket, rng: np.random.Generator) -> np.ndarray:
        files = rng.permutation(self._by_bucket[bucket])
        windows = []
        for start in range(0, len(files), SHUFFLE_WINDOW):
            window = files[start : start + SHUFFLE_WINDOW]
            pairs = [(file, row) for file in window for row in range(self.files[file].rows)]
            # As an array: a list of pairs takes several times the memory.
            windows.append(rng.permutation(np.array(pairs, dtype=np.int64), axis=0))
        return np.concatenate(windows)


class Reader:
    """Reads the batches of a plan; keeps the files it used last in memory."""

    def __init__(self, plan: BatchPlan) -> None:
        self.plan = plan
        # A cache of this reader's own: one on the method would keep every reader alive.
        self._rows = lru_cache(maxsize=CACHED_FILES)(self._read_file)

    def read(self, position: int, rank: int = 0, world: int = 1) -> Batch:
        """Reads this worker's share of a batch.

        Args:
            position: position of the batch in the plan.
            rank: rank of this worker.
            world: number of workers; divides the global batch.
        """
        bucket, pairs = self.plan.batch(position)
        # Every world-th example, so that the batch consists of the same ones however many workers share it.
        return _collate(bucket, [self._rows(file)[row] for file, row in pairs[rank::world]])

    def _read_file(self, index: int) -> list[dict[str, Any]]:
        filesystem, path = open_filesystem(self.plan.files[index].uri)
        # The partition is in the path too, from which pyarrow would otherwise add a column.
        return pq.read_table(path, columns=list(COLUMNS), filesystem=filesystem, partitioning=None).to_pylist()


def _collate(bucket: Bucket, rows: Sequence[dict[str, Any]]) -> Batch:
    import torch

    return Batch(
        bucket=bucket,
        ids=[row["example_id"] for row in rows],
        moments=torch.stack([_tensor(row, "moments") for row in rows]),
        short_text=[_tensor(row, "short_text") for row in rows],
        long_text=[_tensor(row, "long_text") for row in rows],
        motion=torch.tensor([row["motion_score"] for row in rows], dtype=torch.float32),
        fps=torch.tensor([row["bucket_fps"] for row in rows], dtype=torch.float32),
    )


def _tensor(row: dict[str, Any], name: str) -> torch.Tensor:
    import torch

    # frombuffer is read-only, and torch needs memory that it may write: astype copies.
    array = np.frombuffer(row[name], np.dtype(row[f"{name}_dtype"])).reshape(row[f"{name}_shape"])
    return torch.from_numpy(array.astype(np.float32))


class Prefetcher:
    """Reads batches ahead in a thread, and counts the seconds that its caller waits for them.

    An error of the thread is raised at the batch that it concerns.

    Args:
        read: reads the batch at a position.
        start: first position.
        depth: number of batches to read ahead.
    """

    def __init__(self, read: Callable[[int], Batch], start: int, depth: int = 3) -> None:
        self.waited = 0.0
        # Bounded: without a limit, a fast disk would fill the memory with batches.
        self._ready: queue.Queue[Batch | BaseException] = queue.Queue(depth)
        self._stop = threading.Event()
        # A thread and no process: reading Parquet releases Python's lock, and batches need no pickling.
        self._thread = threading.Thread(target=self._fill, args=(read, start), daemon=True)
        self._thread.start()

    def _fill(self, read: Callable[[int], Batch], position: int) -> None:
        while not self._stop.is_set():
            try:
                item: Batch | BaseException = read(position)
            except BaseException as error:  # of any kind: the consumer must not wait for a batch that never comes
                item = error
            while not self._stop.is_set():  # a blocking `put` would never notice that the caller has left
                try:
                    self._ready.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if isinstance(item, BaseException):
                return
            position += 1

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        began = time.perf_counter()
        item = self._ready.get()
        self.waited += time.perf_counter() - began
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """Ends the thread."""
        self._stop.set()
        self._thread.join()


def load_plan(
    address: str, version: int, global_batch: Callable[[Bucket], int], seed: int, images_first: int = 0
) -> BatchPlan:
    """Builds the plan of a version of the tables at an address.

    Raises:
        ValueError: there is no such version, it has no examples, or it has no images and `images_first` is set.
    """
    # A file without rows would make an empty window of the shuffle.
    files = [file for file in Tables(address).files("examples", version) if file.rows]
    if not files:
        raise ValueError(f"examples at {address} version {version} is empty; curate something first")
    return BatchPlan(files, global_batch, seed, images_first)
