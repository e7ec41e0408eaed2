"""Curation without Ray: the passes run in this process, on stages that look at colours instead of loading models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from pipelines.core.stage import Row, Stage, apply
from pipelines.curation.changes import find_changes
from pipelines.curation.encode import encode_clips, has_unencoded
from pipelines.curation.filters import Filters
from pipelines.curation.ingest import Ingest
from pipelines.curation.register import register_sources
from pipelines.curation.runner import CommitPolicy, PassRunner, Tally
from pipelines.curation.score import score_clips
from pipelines.curation.select import decide_clips
from pipelines.curation.shots import Shots
from pipelines.curation.summary import Summary
from pipelines.curation.text_features import TextFeatures
from pipelines.media.frames import read_frames
from pipelines.media.sources import Source, list_sources
from pipelines.store import schema
from pipelines.store.tables import Tables

COLOURS = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}


def write_colour(path: Path, colour: str) -> Path:
    """Writes a picture of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48), COLOURS[colour]).save(path)
    return path


def colour_of(uri: str) -> str:
    """The name of the colour that a picture shows."""
    pixel = read_frames(uri)[0, 0, 0].astype(int)
    return min(COLOURS, key=lambda name: np.abs(pixel - COLOURS[name]).sum())


@dataclass(frozen=True, kw_only=True)
class ColourScore(Stage):
    """Stands for the scores of a model."""

    name = "aesthetic"
    reads = ("uri",)
    adds = ("aesthetic_mean", "motion_score")

    version: int = 1

    def process(self, model: None, rows: Sequence[Row]) -> list[Row | Exception]:
        scores = [float(list(COLOURS).index(colour_of(row["uri"]))) for row in rows]
        return [{"aesthetic_mean": score, "motion_score": 0.0} for score in scores]


@dataclass(frozen=True, kw_only=True)
class ColourCaption(Stage):
    """Stands for a captioner."""

    name = "caption"
    reads = ("uri",)
    adds = ("caption_short", "caption_long")

    version: int = 1

    def process(self, model: None, rows: Sequence[Row]) -> list[Row | Exception]:
        captions = [f"{colour_of(row['uri'])}, captioner {self.version}" for row in rows]
        return [{"caption_short": caption, "caption_long": caption} for caption in captions]


@dataclass(frozen=True, kw_only=True)
class CaptionBytes(TextFeatures):
    """Stands for a text encoder: the features of a caption are its bytes."""

    model: str = "none"

    def identity(self) -> tuple[object, ...]:
        return Stage.identity(self)

    def load(self) -> Any:
        return None

    def process(self, model: None, rows: Sequence[Row]) -> list[Row | Exception]:
        return [self._features(row) for row in rows]

    def _features(self, row: Row) -> Row:
        short, long = (text.encode() for text in self._captions(row))
        facts = {f"{name}_{kind}": value for name in ("short_text", "long_text") for kind, value in SHAPE.items()}
        return facts | {"short_text": short, "long_text": long, "caption_hash": self.caption_hash(row)}


SHAPE = {"shape": [1, 1], "dtype": "uint8"}


@dataclass(frozen=True, kw_only=True)
class ColourLatents(Stage):
    """Stands for a VAE: the moments of a picture are the name of its colour."""

    name = "latents"
    reads = ("uri",)
    adds = (
        "bucket", "bucket_frames", "bucket_height", "bucket_width", "bucket_fps",
        "moments", "moments_shape", "moments_dtype",
    )  # fmt: skip

    version: int = 1

    def process(self, model: None, rows: Sequence[Row]) -> list[Row | Exception]:
        size = {"bucket": "1x8x8", "bucket_frames": 1, "bucket_height": 8, "bucket_width": 8, "bucket_fps": 12.0}
        return [
            {**size, "moments": colour_of(row["uri"]).encode(), "moments_shape": [1], "moments_dtype": "uint8"}
            for row in rows
        ]


class LocalRunner(PassRunner):
    """A runner whose stages run in this process."""

    def stream(
        self,
        rows: list[Row],
        stages: Sequence[Stage],
        commit: Callable[[list[Row]], None],
        sink: Callable[[pa.Table], pa.Table] | None = None,
    ) -> None:
        names = dict.fromkeys([*rows[0], *(name for stage in stages for name in stage.output_columns())])
        for stage in stages:
            rows = apply(stage, stage.load(), rows)
        if sink is not None:
            columns = pa.schema([schema.field(name) for name in [*names, *schema.FAILED]])
            rows = sink(pa.Table.from_pylist(rows, schema=columns)).to_pylist()
        self._commit(rows, {stage.name: stage.fingerprint for stage in stages}, commit, Tally())


READING = (Ingest(), Shots())


@dataclass(frozen=True)
class LocalCuration:
    """Curates pictures of one colour, without near duplicates and thresholds."""

    folder: Path
    score: int = 1
    caption: int = 1
    captions: Any = "captioner"
    latents: int = 1
    remove_stale: bool = False

    @property
    def tables(self) -> Tables:
        """The tables in the folder."""
        tables = Tables(self.folder)
        tables.create()
        return tables

    @property
    def encoding(self) -> tuple[Stage, ...]:
        """Stages of pass 4."""
        texts = CaptionBytes(captions=self.captions)
        return ColourCaption(version=self.caption), texts, ColourLatents(version=self.latents)

    def run(self, place: str | Path | Iterable[Source] = ()) -> Summary:
        """Runs all passes over a listing, as `Curator.run` does."""
        runner = self._runner()
        sources = list_sources(str(place)) if isinstance(place, str | Path) else place
        if changes := list(find_changes(runner, READING, sources)):
            register_sources(runner, READING, changes, "test")
        score_clips(runner, (ColourScore(version=self.score),))
        decide_clips(runner, Filters())
        encode_clips(runner, self.encoding, remove_stale=self.remove_stale)
        return runner.summary

    def is_settled(self, place: str | Path | Iterable[Source] = ()) -> bool:
        """Whether a run would find nothing to read and nothing to encode."""
        runner = self._runner()
        sources = list_sources(str(place)) if isinstance(place, str | Path) else place
        has_changes = next(find_changes(runner, READING, sources), None) is not None
        return not has_changes and not has_unencoded(runner, self.encoding, remove_stale=self.remove_stale)

    def rows(self, table: str) -> list[Row]:
        """All rows of a table."""
        return self.tables.read(table).to_pylist()

    def examples(self) -> dict[str, tuple[str, str]]:
        """The colour that was encoded and the short caption, by clip."""
        return {row["clip_id"]: (row["moments"].decode(), row["caption_short"]) for row in self.rows("examples")}

    def encoded_texts(self) -> list[str]:
        """The captions that were encoded, in alphabetical order."""
        return sorted(row["short_text"].decode() for row in self.rows("examples"))

    def _runner(self) -> LocalRunner:
        return LocalRunner(self.tables, CommitPolicy(), retry_failures=False)
