"""A version of `examples` becomes training batches, in an order that is a pure function of seed and step.

Nothing is drawn and nothing is remembered: batch `n` of a plan is always the same examples, whoever asks and however
many workers share it. So the data position of a checkpoint is one number, a resumed run sees exactly what the
uninterrupted one would have seen, and the number of workers may change in between.

Every batch holds one bucket (frames x height x width), so it has one shape on every worker. An epoch takes every
example once; the last batch of a bucket is filled up from the bucket's start, so that small buckets are trained on too.
Reading stays sequential in large tables: Parquet parts are shuffled, and rows within windows of `WINDOW` parts.
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

from pipelines.store.tables import StoredPart, Tables, open_filesystem

if TYPE_CHECKING:
    import torch

WINDOW = 16
CACHED_PARTS = 64
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
    """Examples of one bucket, as they were encoded; B of them."""

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

    def part(self, index: int, count: int) -> Batch:
        """The examples of one of `count` equal parts."""
        taken = slice(index, None, count)
        return Batch(
            bucket=self.bucket,
            ids=self.ids[taken],
            moments=self.moments[taken],
            short_text=self.short_text[taken],
            long_text=self.long_text[taken],
            motion=self.motion[taken],
            fps=self.fps[taken],
        )


class Plan:
    """Which examples make up each batch.

    Args:
        parts: the Parquet files of a version, from `Tables.parts`.
        global_batch: number of examples per batch, over all workers, for a bucket.
        seed: of the order.
        images_first: batches at the start that hold images alone.

    Raises:
        ValueError: images come first, and there are none.
    """

    def __init__(
        self,
        parts: Sequence[StoredPart],
        global_batch: Callable[[Bucket], int],
        seed: int,
        images_first: int = 0,
    ) -> None:
        self.parts = list(parts)
        self.seed = seed
        self.images_first = images_first
        self._by_bucket: dict[Bucket, list[int]] = {}
        for index, part in enumerate(self.parts):
            self._by_bucket.setdefault(Bucket.parse(part.partition["bucket"]), []).append(index)
        self._sizes = {bucket: global_batch(bucket) for bucket in self._by_bucket}
        self._buckets = tuple(sorted(self._by_bucket))
        self._images = tuple(bucket for bucket in self._buckets if bucket.frames == 1)
        if images_first and not self._images:
            raise ValueError(f"images_first is {images_first}, but there are no images; leave it out")
        self._batches = {bucket: -(-count // self._sizes[bucket]) for bucket, count in self.examples.items()}
        self._epoch = lru_cache(maxsize=2)(self._shuffled_epoch)

    @property
    def examples(self) -> dict[Bucket, int]:
        """Examples per bucket."""
        return {bucket: sum(self.parts[index].rows for index in indices) for bucket, indices in self._by_bucket.items()}

    @property
    def batches_per_epoch(self) -> int:
        return self._count(self._buckets)

    def _count(self, buckets: Sequence[Bucket]) -> int:
        return sum(self._batches[bucket] for bucket in buckets)

    def batch(self, position: int) -> tuple[Bucket, list[tuple[int, int]]]:
        """Bucket and (part, row) pairs of a batch.

        Args:
            position: 0 for the first batch; goes on over epochs.
        """
        buckets, place = self._images, position
        if position >= self.images_first:
            buckets, place = self._buckets, position - self.images_first
        epoch, index = divmod(place, self._count(buckets))
        return self._epoch(epoch, buckets)[index]

    def _shuffled_epoch(self, epoch: int, buckets: Sequence[Bucket]) -> list[tuple[Bucket, list[tuple[int, int]]]]:
        batches: list[list[tuple[Bucket, list[tuple[int, int]]]]] = []
        for number, bucket in enumerate(buckets):
            order = self._shuffled_rows(bucket, np.random.default_rng((self.seed, epoch, number)))
            size = self._sizes[bucket]
            # take wraps around: the last batch is filled from the start of the order, however small the bucket
            taken = [order.take(range(at, at + size), axis=0, mode="wrap") for at in range(0, len(order), size)]
            batches.append([(bucket, [(int(part), int(row)) for part, row in rows]) for rows in taken])
        # Buckets take turns at random, and each keeps its own order, in which batches near each other share parts.
        turns = np.repeat(np.arange(len(batches)), [len(each) for each in batches])
        mixed = np.random.default_rng((self.seed, epoch, len(buckets))).permutation(turns)
        waiting = [iter(each) for each in batches]
        return [next(waiting[turn]) for turn in mixed]

    def _shuffled_rows(self, bucket: Bucket, rng: np.random.Generator) -> np.ndarray:
        parts = rng.permutation(self._by_bucket[bucket])
        windows = []
        for start in range(0, len(parts), WINDOW):
            pairs = [(part, row) for part in parts[start : start + WINDOW] for row in range(self.parts[part].rows)]
            windows.append(rng.permutation(np.array(pairs, dtype=np.int64), axis=0))
        return np.concatenate(windows)


class Reader:
    """Reads planned batches; keeps the parts it touched last in memory."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._part = lru_cache(maxsize=CACHED_PARTS)(self._read_part)

    def read(self, position: int, rank: int = 0, world: int = 1) -> Batch:
        """This worker's share of a batch.

        Args:
            position: of the batch in the plan.
            rank: this worker.
            world: number of workers; divides the global batch.
        """
        bucket, pairs = self.plan.batch(position)
        return _collate(bucket, [self._part(part)[row] for part, row in pairs[rank::world]])

    def _read_part(self, index: int) -> list[dict[str, Any]]:
        filesystem, path = open_filesystem(self.plan.parts[index].uri)
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

    array = np.frombuffer(row[name], np.dtype(row[f"{name}_dtype"])).reshape(row[f"{name}_shape"])
    return torch.from_numpy(array.astype(np.float32))


class Prefetcher:
    """Reads the batches ahead in a thread, and counts the seconds that its caller had to wait.

    Args:
        read: gives the batch at a position.
        start: first position.
        depth: batches held ready.
    """

    def __init__(self, read: Callable[[int], Batch], start: int, depth: int = 3) -> None:
        self.waited = 0.0
        self._ready: queue.Queue[Batch | BaseException] = queue.Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(read, start), daemon=True)
        self._thread.start()

    def _fill(self, read: Callable[[int], Batch], position: int) -> None:
        while not self._stop.is_set():
            try:
                item: Batch | BaseException = read(position)
            except BaseException as error:
                item = error
            while not self._stop.is_set():
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
) -> Plan:
    """The plan of a version of the tables at an address.

    Raises:
        ValueError: no such version, a version without examples, or one without the images that come first.
    """
    parts = [part for part in Tables(address).parts("examples", version) if part.rows]
    if not parts:
        raise ValueError(f"examples at {address} version {version} is empty; curate something first")
    return Plan(parts, global_batch, seed, images_first)
