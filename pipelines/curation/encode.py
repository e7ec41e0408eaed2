"""Pass 4 of curation: accepted clips become examples.

Examples are large, so workers write them to Parquet files and only the names of the files reach the driver, which
commits them. An example is fresh when captioner, text encoder and VAE are the ones it was made with; of a stale example
only what changed is computed again.
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
from pipelines.curation.runner import PassRunner
from pipelines.curation.text_features import TextFeatures
from pipelines.store import schema
from pipelines.store.id_index import IdIndex
from pipelines.store.tables import Tables, UncommittedFile, text

CAPTIONS = ("caption_short", "caption_long", "caption_by")


def encode_clips(runner: PassRunner, stages: Sequence[Stage]) -> None:
    """Runs accepted clips without a fresh example through `stages` (caption, text, latents) and commits examples."""
    encoded, stale_count = _encoded_clips(runner.tables, stages)
    columns = [*CLIP_FACTS, "motion_score", "source_caption", *CAPTIONS]
    # Only where something is stale, as `Reuse` reads large columns of the table.
    reuse = (Reuse(root=runner.tables.root),) if stale_count else ()
    for rows in runner.due(columns, pc.field("accepted"), stages, done=encoded):
        sink = ExampleWriter(runner.tables.root)
        runner.stream(rows, (*reuse, *stages), lambda finished: _commit(runner, finished), sink=sink)
    # After the new examples: between the two, readers find too many rows and never too few.
    _remove_outdated(runner, stages)


def has_unencoded(runner: PassRunner, stages: Sequence[Stage]) -> bool:
    """Whether `encode_clips` has anything to do."""
    encoded, stale_count = _encoded_clips(runner.tables, stages)
    if stale_count > 0:
        return True
    return next(runner.due(["clip_id"], pc.field("accepted"), stages, done=encoded), None) is not None


def _is_fresh(stages: Sequence[Stage]) -> pa.dataset.Expression:
    # Three stages, and not what the filters say: whether a clip is accepted is a column of `clips`.
    by_caption, by_text, by_latents = (text(stage.by) == stage.fingerprint for stage in stages)
    return by_caption & by_text & by_latents


def _encoded_clips(tables: Tables, stages: Sequence[Stage]) -> tuple[IdIndex, int]:
    """Clips that have a fresh example, and how many examples are stale."""
    encoded = _clip_ids(tables, "examples", _is_fresh(stages))
    # A subtraction, as a second scan with the negated filter would read the table again.
    return encoded, tables.count("examples") - len(encoded)


def _clip_ids(tables: Tables, table: str, where: pa.dataset.Expression) -> IdIndex:
    batches = tables.scan(table, columns=["clip_id"], where=where)
    return IdIndex((batch["clip_id"].to_pylist(), np.zeros(batch.num_rows)) for batch in batches)


def _commit(runner: PassRunner, rows: list[Row]) -> None:
    runner.tables.upsert("clips", [{name: row[name] for name in ("clip_id", *CAPTIONS)} for row in rows])
    files = [UncommittedFile(**file) for row in rows if row["files"] for file in json.loads(row["files"])]
    # Examples last, so that after a crash the captions of every stored example are stored too.
    runner.tables.commit_files("examples", files)
    runner.summary.new_examples += sum(file.rows for file in files)


def _remove_outdated(runner: PassRunner, stages: Sequence[Stage]) -> None:
    """Removes examples of clips that are not accepted any more, and those of other encoders."""
    tables, is_fresh = runner.tables, _is_fresh(stages)
    accepted = _clip_ids(tables, "clips", pc.field("accepted"))
    outdated: list[str] = []
    for batch in tables.scan("examples", columns=["example_id", "clip_id"], where=is_fresh):
        # Hashes of ids: a false match would keep one example too many, which harms nothing.
        is_accepted, _ = accepted.look_up(batch["clip_id"].to_pylist())
        outdated += batch["example_id"].filter(pa.array(~is_accepted)).to_pylist()
    for batch in tables.scan("examples", columns=["example_id"], where=~is_fresh):
        outdated += batch["example_id"].to_pylist()
    tables.delete("examples", outdated)
    runner.summary.removed_examples += len(outdated)


@dataclass(frozen=True, kw_only=True)
class Reuse(Stage):
    """Fetches the features of a clip's earlier example, so that only what is stale is encoded again."""

    name = "reuse"
    reads = ("clip_id",)
    adds = tuple(name for stage in (TextFeatures, Latents) for name in (*stage.adds, f"{stage.name}_by"))
    stamps = False

    root: str
    """Address of the tables."""

    def process(self, model: None, rows: Sequence[Row]) -> list[Row | Exception]:
        """Columns of the clips' earlier examples; nulls for a clip without one."""
        ids = [row["clip_id"] for row in rows]
        columns = ["clip_id", *self.adds]
        examples = Tables(self.root).read("examples", columns=columns, where=text("clip_id").isin(ids)).to_pylist()
        # Fingerprints of the encoders are fetched too, because stages skip rows that carry their own fingerprint.
        by_clip = {example.pop("clip_id"): example for example in examples}
        return [by_clip.get(clip_id, dict.fromkeys(self.adds)) for clip_id in ids]


@dataclass(frozen=True)
class ExampleWriter:
    """Writes finished examples to Parquet files in the worker that encoded them.

    Captions, errors and descriptions of the files are passed to the driver: the descriptions as JSON in the column
    `files` of the batch's first good row.
    """

    root: str

    def __call__(self, batch: pa.Table) -> pa.Table:
        good = batch.filter(pc.is_null(batch["failed_stage"]))
        # Examples are hundreds of kB; through the driver, its memory and network would bound the throughput of the
        # cluster.
        files = Tables(self.root).write_files("examples", _examples(good)) if good.num_rows else []
        notes: list[str | None] = [None] * batch.num_rows
        if files:
            first = batch["clip_id"].to_pylist().index(good["clip_id"][0].as_py())
            notes[first] = json.dumps([asdict(file) for file in files])
        small = batch.select(["clip_id", "uri", *CAPTIONS, *schema.FAILED])
        return small.append_column(schema.field("files"), pa.array(notes, pa.string()))


def _examples(finished: pa.Table) -> pa.Table:
    """Rows of `examples`, with ids that follow from clip, encoders and captions."""
    names = ("clip_id", "caption_by", "text_by", "latents_by", "caption_hash")
    keys = zip(*(finished[name].to_pylist() for name in names), strict=True)
    # From the content: a clip that is encoded twice after a crash gets the same id both times.
    ids = pa.array([schema.derived_id(*key) for key in keys], pa.string())
    with_ids = finished.append_column(schema.field("example_id"), ids)
    return with_ids.select(list(schema.TABLES["examples"]))
