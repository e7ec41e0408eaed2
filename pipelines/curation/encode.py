"""Pass 4 of curation: accepted clips become examples.

Examples are large, so workers write them to Parquet files and only the files' names reach the driver, which commits
them. An example is fresh when captioner, text encoder and VAE are the ones it was made with; of a stale one only what
changed is computed again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.core.stage import Row, Stage
from pipelines.curation.latents import Latents
from pipelines.curation.register import CLIP_FACTS
from pipelines.curation.runner import Work
from pipelines.curation.text_features import TextFeatures
from pipelines.store import schema
from pipelines.store.id_index import IdIndex
from pipelines.store.tables import Tables, UncommittedFile, text

CAPTIONS = ("caption_short", "caption_long", "caption_by")


def encode(work: Work, encoding: Sequence[Stage]) -> None:
    """Runs accepted clips without a fresh example through `encoding` (caption, text, latents) and commits examples."""
    done, stale = _encoded(work, encoding)
    columns = [*CLIP_FACTS, "motion_score", "source_caption", *CAPTIONS]
    reuse = (Reuse(root=work.tables.root),) if stale else ()
    for rows in work.due(columns, pc.field("accepted"), encoding, done=done):
        sink = ExampleWriter(work.tables.root)
        work.stream(rows, (*reuse, *encoding), lambda finished: _commit(work, finished), sink=sink)
    _remove(work, encoding)


def due(work: Work, encoding: Sequence[Stage]) -> bool:
    """Whether `encode` has something to do."""
    done, stale = _encoded(work, encoding)
    return stale > 0 or next(work.due(["clip_id"], pc.field("accepted"), encoding, done=done), None) is not None


def _fresh(encoding: Sequence[Stage]) -> pa.dataset.Expression:
    by_caption, by_text, by_latents = (text(stage.by) == stage.fingerprint for stage in encoding)
    return by_caption & by_text & by_latents


def _encoded(work: Work, encoding: Sequence[Stage]) -> tuple[IdIndex, int]:
    """Clips that have a fresh example, and how many examples are stale."""
    known = _clip_ids(work.tables, "examples", _fresh(encoding))
    return known, work.tables.count("examples") - len(known)


def _clip_ids(tables: Tables, table: str, where: pa.dataset.Expression) -> IdIndex:
    batches = tables.scan(table, columns=["clip_id"], where=where)
    return IdIndex((batch["clip_id"].to_pylist(), np.zeros(batch.num_rows)) for batch in batches)


def _commit(work: Work, rows: list[Row]) -> None:
    work.tables.upsert("clips", [{name: row[name] for name in ("clip_id", *CAPTIONS)} for row in rows])
    files = [UncommittedFile(**file) for row in rows if row["part"] for file in json.loads(row["part"])]
    work.tables.commit_files("examples", files)  # last, so that the clip of an example always exists
    work.summary.new_examples += sum(file.rows for file in files)


def _remove(work: Work, encoding: Sequence[Stage]) -> None:
    """Removes examples of clips that are not accepted any more, and those of other encoders."""
    accepted = _clip_ids(work.tables, "clips", pc.field("accepted"))
    gone: list[str] = []
    for batch in work.tables.scan("examples", columns=["example_id", "clip_id"], where=_fresh(encoding)):
        wanted, _ = accepted.look_up(batch["clip_id"].to_pylist())
        gone += batch["example_id"].filter(pa.array(~wanted)).to_pylist()
    for batch in work.tables.scan("examples", columns=["example_id"], where=~_fresh(encoding)):
        gone += batch["example_id"].to_pylist()
    work.tables.delete("examples", gone)
    work.summary.removed_examples += len(gone)


@dataclass(frozen=True, kw_only=True)
class Reuse(Stage):
    """Fetches what an earlier example of the clip holds, so that only what is stale is encoded again."""

    name = "reuse"
    reads = ("clip_id",)
    adds = tuple(name for stage in (TextFeatures, Latents) for name in (*stage.adds, f"{stage.name}_by"))
    stamps = False

    root: str
    """Address of the tables."""

    def process(self, model: None, rows: Sequence[Row]) -> list[Row | Exception]:
        ids = [row["clip_id"] for row in rows]
        columns = ["clip_id", *self.adds]
        held = Tables(self.root).read("examples", columns=columns, where=text("clip_id").isin(ids)).to_pylist()
        by_clip = {row.pop("clip_id"): row for row in held}
        return [by_clip.get(each, dict.fromkeys(self.adds)) for each in ids]


@dataclass(frozen=True)
class ExampleWriter:
    """Writes finished examples to Parquet files where they were made; only small columns go on to the driver."""

    root: str

    def __call__(self, batch: pa.Table) -> pa.Table:
        good = batch.filter(pc.is_null(batch["failed_stage"]))
        files = Tables(self.root).write_files("examples", _rows(good)) if good.num_rows else []
        notes: list[str | None] = [None] * batch.num_rows
        if files:
            first = batch["clip_id"].to_pylist().index(good["clip_id"][0].as_py())
            notes[first] = json.dumps([asdict(file) for file in files])
        slim = batch.select(["clip_id", "uri", *CAPTIONS, *schema.FAILED])
        return slim.append_column(schema.field("part"), pa.array(notes, pa.string()))


def _rows(finished: pa.Table) -> pa.Table:
    names = ("clip_id", "caption_by", "text_by", "latents_by", "caption_hash")
    keys = zip(*(finished[name].to_pylist() for name in names), strict=True)
    ids = pa.array([schema.derived_id(*key) for key in keys], pa.string())
    with_ids = finished.append_column(schema.field("example_id"), ids)
    return with_ids.select(list(schema.TABLES["examples"]))
