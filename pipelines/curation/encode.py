"""Pass 4 of curation: accepted clips become examples.

Examples are large, so workers write them to Parquet files and only the names of the files reach the driver, which
commits them. An example is fresh when captioner, text encoder and VAE are the ones it was made with, and so are the
captions of a source where these are encoded; of a stale example only what changed is computed again. A stale example
stays until its replacement is committed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.core.stage import Row, Stage
from pipelines.curation.latents import Latents
from pipelines.curation.locate import Locate, adopt_addresses, join_copies
from pipelines.curation.register import CLIP_FACTS
from pipelines.curation.runner import PassRunner
from pipelines.curation.text_features import TextFeatures
from pipelines.store import schema
from pipelines.store.id_index import IdIndex
from pipelines.store.tables import Tables, UncommittedFile, text

CAPTIONS = ("caption_short", "caption_long", "caption_by")


def encode_clips(runner: PassRunner, stages: Sequence[Stage], *, remove_stale: bool = False) -> None:
    """Runs accepted clips without a fresh example through `stages` (caption, text, latents) and commits examples.

    Args:
        runner: tables, commit policy and summary.
        stages: the three stages.
        remove_stale: whether examples that cannot be renewed, such as those of lost media, are removed.
    """
    freshness = Freshness(stages)
    encoded = freshness.encoded_clips(runner.tables)
    columns = [*CLIP_FACTS, "motion_score", "source_caption", *CAPTIONS]
    # Only where something is stale, as `Reuse` reads large columns of the table.
    reuse = (Reuse(root=runner.tables.root),) if runner.tables.count("examples") > len(encoded) else ()
    locate = Locate.before(stages)
    for rows in runner.due(columns, pc.field("accepted"), (locate, *stages), done=encoded):
        sink = ExampleWriter(runner.tables.root)
        clips, steps = join_copies(runner.tables, rows), (*reuse, locate, *stages)
        runner.stream(clips, steps, lambda finished: _commit(runner, finished), sink=sink)
    # After the new examples: between the two, readers find too many rows and never too few.
    outdated, runner.summary.stale_examples = freshness.outdated(runner.tables, remove_stale=remove_stale)
    runner.tables.delete("examples", outdated)
    runner.summary.removed_examples += len(outdated)


def has_unencoded(runner: PassRunner, stages: Sequence[Stage], *, remove_stale: bool = False) -> bool:
    """Whether `encode_clips` has anything to do."""
    freshness, steps = Freshness(stages), (Locate.before(stages), *stages)
    encoded = freshness.encoded_clips(runner.tables)
    if next(runner.due(["clip_id"], pc.field("accepted"), steps, done=encoded), None) is not None:
        return True
    outdated, _ = freshness.outdated(runner.tables, remove_stale=remove_stale)
    return bool(outdated)


class Freshness:
    """Says which examples the stages would make as they are.

    Args:
        stages: caption, text, latents.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        # Three stages, and not what the filters say: whether a clip is accepted is a column of `clips`.
        by_caption, by_text, by_latents = (text(stage.by) == stage.fingerprint for stage in stages)
        self.has_fingerprints = by_caption & by_text & by_latents
        texts = [stage for stage in stages if isinstance(stage, TextFeatures) and stage.captions == "source"]
        # The captioner's captions follow from its fingerprint. A source's may be corrected at any time.
        self._source_texts = texts[0] if texts else None

    def encoded_clips(self, tables: Tables) -> IdIndex:
        """Accepted clips that have a fresh example."""
        accepted = self._accepted(tables)
        batches = tables.scan("examples", columns=["clip_id", "caption_hash"], where=self.has_fingerprints)
        fresh = (batch.filter(pa.array(accepted.look_up(self._example_keys(batch))[0])) for batch in batches)
        return _index(batch["clip_id"].to_pylist() for batch in fresh)

    def outdated(self, tables: Tables, *, remove_stale: bool) -> tuple[list[str], int]:
        """Examples to remove, and the number of stale ones that stay.

        Those of clips that are not accepted any more are removed, and stale ones whose clip has a fresh one. A stale
        example without replacement stays, unless `remove_stale` is set: a file that cannot be read today would
        otherwise empty the training set.
        """
        accepted, encoded = self._accepted(tables), self.encoded_clips(tables)
        clips = accepted if self._source_texts is None else self._accepted_ids(tables)
        outdated: list[str] = []
        stale = 0
        for has_fingerprints, where in ((True, self.has_fingerprints), (False, ~self.has_fingerprints)):
            for batch in tables.scan("examples", columns=["example_id", "clip_id", "caption_hash"], where=where):
                # Hashes of ids: a false match would keep one example too many, which harms nothing.
                is_accepted, _ = clips.look_up(batch["clip_id"].to_pylist())
                is_fresh = accepted.look_up(self._example_keys(batch))[0] & has_fingerprints
                is_replaced = encoded.look_up(batch["clip_id"].to_pylist())[0] | remove_stale
                stays = is_accepted & (is_fresh | ~is_replaced)
                outdated += batch["example_id"].filter(pa.array(~stays)).to_pylist()
                stale += int((stays & ~is_fresh).sum())
        return outdated, stale

    def _accepted(self, tables: Tables) -> IdIndex:
        """Keys of the accepted clips."""
        if self._source_texts is None:
            return self._accepted_ids(tables)
        columns, stage = ["clip_id", "source_caption", "caption_short", "caption_long"], self._source_texts
        clips = (batch.to_pylist() for batch in _accepted_clips(tables, columns))
        return _index([_key(row["clip_id"], stage.caption_hash(row)) for row in rows] for rows in clips)

    def _accepted_ids(self, tables: Tables) -> IdIndex:
        return _index(batch["clip_id"].to_pylist() for batch in _accepted_clips(tables, ["clip_id"]))

    def _example_keys(self, batch: pa.RecordBatch) -> list[str]:
        """Keys of the clips as they were when they were encoded."""
        ids = batch["clip_id"].to_pylist()
        if self._source_texts is None:
            return ids
        return [_key(clip_id, digest) for clip_id, digest in zip(ids, batch["caption_hash"].to_pylist(), strict=True)]


def _key(clip_id: str, caption_hash: str) -> str:
    return f"{clip_id} {caption_hash}"


def _index(batches: Iterable[list[str]]) -> IdIndex:
    return IdIndex((ids, np.zeros(len(ids))) for ids in batches)


def _accepted_clips(tables: Tables, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    return tables.scan("clips", columns=columns, where=pc.field("accepted"))


def _commit(runner: PassRunner, rows: list[Row]) -> None:
    adopt_addresses(runner.tables, rows)
    names = ("clip_id", "uri", *CAPTIONS)
    runner.tables.upsert("clips", [{name: row[name] for name in names} for row in rows])
    files = [UncommittedFile(**file) for row in rows if row["files"] for file in json.loads(row["files"])]
    # Examples last, so that after a crash the captions of every stored example are stored too.
    runner.tables.commit_files("examples", files)
    runner.summary.new_examples += sum(file.rows for file in files)


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
        small = batch.select(["clip_id", "asset_id", "uri", "copies", *CAPTIONS, *schema.FAILED])
        return small.append_column(schema.field("files"), pa.array(notes, pa.string()))


def _examples(finished: pa.Table) -> pa.Table:
    """Rows of `examples`, with ids that follow from clip, encoders and captions."""
    names = ("clip_id", "caption_by", "text_by", "latents_by", "caption_hash")
    keys = zip(*(finished[name].to_pylist() for name in names), strict=True)
    # From the content: a clip that is encoded twice after a crash gets the same id both times.
    ids = pa.array([schema.derived_id(*key) for key in keys], pa.string())
    with_ids = finished.append_column(schema.field("example_id"), ids)
    return with_ids.select(list(schema.TABLES["examples"]))
