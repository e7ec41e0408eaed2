"""Every column of every table: its type, its unit, and the stage or job that writes it.

Stages declare which of these columns they read and add, and every batch is built with the types defined here, so that a
column cannot be declared under one name and written under another. A package with additional stages, such as a
benchmark, adds their columns by `register`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.store.texts import repair_all


@dataclass(frozen=True)
class Column:
    """One column: its Arrow type, its owner (the stage or job that writes it), and its content with the unit."""

    type: pa.DataType
    owner: str
    doc: str


# Plain types only, which every reader of Parquet and Delta has: no float16, no extension types, no dictionaries.
STRING, BINARY, BOOL = pa.string(), pa.binary(), pa.bool_()
INT, FLOAT, TIME = pa.int64(), pa.float64(), pa.timestamp("us", tz="UTC")
SHAPE = pa.list_(pa.int64())
SHOTS = pa.list_(
    pa.struct([("start", FLOAT), ("end", FLOAT), ("frames", INT), ("fps", FLOAT), ("width", INT), ("height", INT)])
)
COPIES = pa.list_(pa.struct([("uri", STRING), ("modified", TIME), ("last_seen", TIME), ("captions", pa.list_(STRING))]))


def array_columns(name: str, owner: str, doc: str) -> dict[str, Column]:
    """The three columns of one array: raw bytes, shape and dtype, from which any Parquet reader can rebuild it."""
    return {
        name: Column(BINARY, owner, doc),
        f"{name}_shape": Column(SHAPE, owner, f"shape of {name}"),
        f"{name}_dtype": Column(STRING, owner, f"numpy dtype of {name}"),
    }


COLUMNS: dict[str, Column] = {
    # sources
    "uri": Column(STRING, "sources", "address of the media file"),
    "source_caption": Column(STRING, "sources", "caption that came with the file, null without one"),
    "source": Column(STRING, "sources", "the --input that listed it"),
    "source_error": Column(STRING, "sources", "in flight only: reason why the listing could not read the item"),
    "modified": Column(TIME, "sources", "when the file was last modified, null if the listing does not say"),
    "bytes": Column(INT, "ingest", "file size in bytes"),
    # files
    "asset_id": Column(STRING, "ingest", "first 32 hexadecimal digits of the content's SHA-256"),
    "kind": Column(STRING, "ingest", "image or video"),
    "codec": Column(STRING, "ingest", "codec name as FFmpeg gives it"),
    "width": Column(INT, "ingest", "width in square pixels, before rotation; in clips, of the clip"),
    "height": Column(INT, "ingest", "height in pixels, before rotation; in clips, of the clip"),
    "rotation": Column(INT, "ingest", "degrees counter-clockwise to turn decoded frames: 0, 90, 180, 270"),
    "fps": Column(FLOAT, "ingest", "frames per second without pauses, null for images; in clips, of the clip"),
    "frames": Column(INT, "ingest", "number of frames (1 for images); in clips, of the clip"),
    "duration": Column(FLOAT, "ingest", "seconds, null for images"),
    "other_uris": Column(pa.list_(STRING), "curate", "further addresses with the same content"),
    "source_captions": Column(
        pa.list_(STRING), "curate", "distinct captions that came with the content; clips carry the first one"
    ),
    "copies": Column(
        COPIES,
        "curate",
        "addresses that hold the content, the one to read first: when the file was modified (null if unknown), when it "
        "was last read, and the captions listed with it; empty if no file has the content any more",
    ),
    "first_seen": Column(TIME, "curate", "when the content was first read"),
    "last_seen": Column(TIME, "curate", "when the content was last read"),
    # clips
    "shots": Column(SHOTS, "shots", "in flight only: seconds, frame count, rate and size of each shot"),
    "shots_dropped": Column(INT, "shots", "shots dropped because they are shorter than the minimum"),
    "shots_by": Column(STRING, "shots", "fingerprint of the shot detector"),
    "clip_id": Column(STRING, "curate", "hash of asset, start and end"),
    "start": Column(FLOAT, "shots", "start in seconds"),
    "end": Column(FLOAT, "shots", "end in seconds (exclusive); 0 for images"),
    # scores and their raw statistics
    "motion_score": Column(FLOAT, "motion", "mean flow in pixels at a short side of 256 per 1/12 s; 0 for images"),
    "motion_raw_mean": Column(FLOAT, "motion", "mean flow magnitude in pixels per pair at the size flow ran at"),
    "motion_raw_std": Column(FLOAT, "motion", "standard deviation over pairs of the pair means, same unit"),
    "motion_raw_max": Column(FLOAT, "motion", "largest pair mean, same unit"),
    "motion_pairs": Column(INT, "motion", "number of frame pairs measured"),
    "motion_interval": Column(FLOAT, "motion", "mean seconds between the frames of a pair"),
    "motion_short_side": Column(INT, "motion", "short side in pixels that flow ran at"),
    "motion_by": Column(STRING, "motion", "fingerprint of the flow model and its settings"),
    "aesthetic_mean": Column(FLOAT, "aesthetic", "aesthetic score, about 1 to 10, mean over frames"),
    "aesthetic_min": Column(FLOAT, "aesthetic", "aesthetic score, lowest over frames"),
    "aesthetic_by": Column(STRING, "aesthetic", "fingerprint of the CLIP model and the head"),
    **array_columns("embedding", "aesthetic", "unit-length mean CLIP image embedding [D]"),
    "thumbnails": Column(BINARY, "aesthetic", "the frames that were scored, RGB uint8 [frames, 16, 16, 3]"),
    # decisions
    "duplicate_group": Column(STRING, "dedup", "smallest clip_id of the near-duplicate group, null when alone"),
    "dedup_by": Column(STRING, "dedup", "fingerprint of the embedding and thresholds that grouped it"),
    "accepted": Column(BOOL, "decide", "whether the clip is used for training, null before deciding"),
    "reason": Column(STRING, "decide", "why the clip was rejected, null when accepted"),
    # captions
    "caption_short": Column(STRING, "caption", "one sentence"),
    "caption_long": Column(STRING, "caption", "a detailed description"),
    "caption_by": Column(STRING, "caption", "fingerprint of the captioner"),
    "caption_hash": Column(STRING, "text", "hash of the two captions that were encoded"),
    "files": Column(STRING, "curate", "in flight only: JSON of the uncommitted Parquet files of a batch"),
    # encodings
    "example_id": Column(STRING, "curate", "hash of clip and encoder fingerprints"),
    "bucket": Column(STRING, "latents", "frames x height x width in pixels, such as 17x64x64"),
    "bucket_frames": Column(INT, "latents", "pixel frames encoded"),
    "bucket_height": Column(INT, "latents", "pixel rows encoded"),
    "bucket_width": Column(INT, "latents", "pixel columns encoded"),
    "bucket_fps": Column(FLOAT, "latents", "frames per second of the encoded frames (12 for images)"),
    **array_columns("moments", "latents", "VAE mean and log-variance [2C, t, h, w]"),
    "latents_by": Column(STRING, "latents", "fingerprint of VAE, buckets and target rate"),
    **array_columns("short_text", "text", "features of the short caption [tokens, dim], unpadded"),
    **array_columns("long_text", "text", "features of the long caption [tokens, dim], unpadded"),
    "text_by": Column(STRING, "text", "fingerprint of text encoder and tokenizer"),
    # generated samples
    "sample_id": Column(STRING, "generate", "hash of prompt, seeds, place and settings"),
    "path": Column(STRING, "generate", "file of the sample, relative to the output folder"),
    "prompt": Column(STRING, "generate", "prompt of the sample"),
    "seeds": Column(SHAPE, "generate", "seed of each image in the file; several form a grid"),
    "asked_frames": Column(INT, "generate", "in flight only: frames to generate, null for the setting of the run"),
    "asked_motion": Column(FLOAT, "generate", "requested motion score, null for the setting of the run"),
    "first_frame": Column(STRING, "generate", "image to continue, null for the setting of the run"),
    "seconds": Column(FLOAT, "generate", "wall-clock seconds of the sample: its share of its batch"),
    "device_seconds": Column(FLOAT, "generate", "seconds times devices of the worker"),
    "checkpoint": Column(STRING, "generate", "checkpoint that generated it"),
    "data_version": Column(INT, "generate", "version of `examples` that the checkpoint was trained on"),
    "settings": Column(STRING, "generate", "JSON of all other settings that the result depends on"),
    # evaluation of samples
    "clip_alignment": Column(FLOAT, "metrics", "cosine of CLIP features of frames and prompt, mean over frames"),
    "temporal_flickering": Column(
        FLOAT, "metrics", "(255 - mean difference of adjacent frames) / 255, null for images"
    ),
    "static": Column(BOOL, "metrics", "whether the video hardly moves; flickering is averaged over static videos only"),
    "dynamic_degree": Column(FLOAT, "metrics", "1 if the video moves, 0 if not, null for images"),
    "dynamic_pairs": Column(INT, "metrics", "frame pairs that move"),
    "dynamic_magnitude": Column(FLOAT, "metrics", "mean over pairs of the mean of the largest 5 % of flow, pixels"),
    "subject_consistency": Column(FLOAT, "metrics", "DINO similarity to first and previous frame, null for images"),
    # failures
    "stage": Column(STRING, "curate", "stage that failed"),
    "by": Column(STRING, "curate", "fingerprint of the stage that failed, under which the row is not tried again"),
    "item": Column(STRING, "curate", "uri of a file or clip_id of a clip"),
    "error": Column(STRING, "curate", "class of the error"),
    "message": Column(STRING, "curate", "message of the error, one line"),
    "attempt": Column(INT, "curate", "1 for the first attempt"),
    "time": Column(TIME, "curate", "when it happened"),
    # in flight only: the error of this row; later stages skip it
    "failed_stage": Column(STRING, "stage", "stage that failed on this row, null if none did"),
    "failed_error": Column(STRING, "stage", "class of the error"),
    "failed_message": Column(STRING, "stage", "what the error said, one line"),
}

FAILED = ("failed_stage", "failed_error", "failed_message")

_SCORES = (
    "motion_score motion_raw_mean motion_raw_std motion_raw_max motion_pairs motion_interval motion_short_side "
    "motion_by aesthetic_mean aesthetic_min aesthetic_by embedding embedding_shape embedding_dtype thumbnails"
).split()
_ENCODINGS = (
    "bucket bucket_frames bucket_height bucket_width bucket_fps moments moments_shape moments_dtype latents_by "
    "short_text short_text_shape short_text_dtype long_text long_text_shape long_text_dtype caption_hash text_by"
).split()

TABLES: dict[str, tuple[str, ...]] = {
    "assets": (
        "asset_id", "uri", "other_uris", "kind", "bytes", "codec", "width", "height", "rotation", "fps", "frames",
        "duration", "source", "source_captions", "shots_dropped", "shots_by", "first_seen", "last_seen",
        "copies",
    ),
    "clips": (
        "clip_id", "asset_id", "uri", "kind", "start", "end", "frames", "width", "height", "rotation", "fps",
        *_SCORES, "duplicate_group", "dedup_by", "source_caption", "caption_short", "caption_long", "caption_by",
        "accepted", "reason", "last_seen",
    ),
    "examples": (
        "example_id", "clip_id", "asset_id", "uri", "kind", *_ENCODINGS, "motion_score", "caption_short",
        "caption_long", "caption_by",
    ),
    "failures": ("stage", "by", "item", "uri", "error", "message", "attempt", "time", "modified"),
}  # fmt: skip
KEYS = {"assets": "asset_id", "clips": "clip_id", "examples": "example_id"}
# A training batch holds one bucket, so its files must too.
PARTITIONS = {"examples": ["bucket"]}
# Whether a version mixes encoders is read from the log.
RANGES = {"examples": ("latents_by", "text_by")}


def table_schema(table: str) -> pa.Schema:
    """Arrow schema of a stored table; the documentation of its columns is stored as field metadata."""
    return pa.schema([field(name) for name in TABLES[table]])


def field(name: str) -> pa.Field:
    """Arrow field of a column; an unknown name is a programming error (KeyError)."""
    column = COLUMNS[name]
    return pa.field(name, column.type, metadata={"doc": column.doc, "owner": column.owner})


def arrow_table(rows: Sequence[Mapping[str, Any]], fields: Iterable[pa.Field]) -> pa.Table:
    """Rows as an Arrow table; text that Arrow cannot store, as a model may answer, is repaired in its row alone."""
    stored = pa.schema(fields)
    try:
        return pa.Table.from_pylist(list(rows), schema=stored)
    except UnicodeEncodeError:  # rare, so that other batches are not searched for it
        return pa.Table.from_pylist([repair_all(dict(row)) for row in rows], schema=stored)


def register(columns: Mapping[str, Column]) -> None:
    """Adds columns to `COLUMNS`; registering the same definition again has no effect.

    Call it in the module that defines the stage. A Ray worker imports that module to unpickle the stage, and thereby
    knows the columns as the driver does.

    Raises:
        ValueError: another definition of a column is registered already; no column is added then.
    """
    for name, column in columns.items():
        registered = COLUMNS.get(name, column)
        if registered != column:
            raise ValueError(f"column {name!r} is already defined as {registered}, not {column}; choose another name")
    COLUMNS.update(columns)


def derived_id(*values: object) -> str:
    """An id of 32 hexadecimal digits that depends only on the values, so that a repeated run computes the same id."""
    # A control character, which no value contains: otherwise ("ab", "c") and ("a", "bc") would be the same.
    text = "\x1f".join(map(str, values))
    # Surrogates too, as paths of files that are not UTF-8 hold them.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
