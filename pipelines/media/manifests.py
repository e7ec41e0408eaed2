"""Reads manifests: lists of media with captions, as JSON lines, CSV or Parquet, a few rows in memory at a time."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pyarrow.fs import FileSystem

# Per read from an object store, where a request takes longer than a megabyte.
BUFFER_BYTES = 1 << 20
PARQUET_ROWS = 4096

ManifestRow = Mapping[str, Any]


class Item(NamedTuple):
    """One line of a manifest."""

    uri: str
    caption: str | None


def read(filesystem: FileSystem, path: str) -> Iterator[Item | str]:
    """Yields the items of a manifest, or a message in place of each broken one.

    Raises:
        ValueError: the manifest has no column `uri`.
    """
    for row in READERS[path.rpartition(".")[2].lower()](filesystem, path):
        yield row if isinstance(row, str) else _item(row)


def _item(row: ManifestRow) -> Item | str:
    uri, caption = row.get("uri"), row.get("caption")
    if not isinstance(uri, str) or not uri.strip():
        return "no uri"
    if not isinstance(caption, str | None):
        return "the caption is not text"
    return Item(uri.strip(), (caption or "").strip() or None)


def _read_json_lines(filesystem: FileSystem, path: str) -> Iterator[ManifestRow | str]:
    lines = (line for line in _lines(filesystem, path) if line.strip())
    for number, line in enumerate(lines):
        try:
            row = json.loads(line)
        except ValueError as error:
            yield f"invalid JSON ({error})"
            continue
        if not isinstance(row, dict):
            yield "not a JSON object"
            continue
        if number == 0:  # a single row without `uri` is one broken row, but the first one means a wrong file
            _check_columns(path, row)
        yield row


def _read_csv(filesystem: FileSystem, path: str, delimiter: str = ",") -> Iterator[ManifestRow | str]:
    reader = csv.DictReader(_lines(filesystem, path), delimiter=delimiter)
    _check_columns(path, reader.fieldnames or ())
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        # The reader continues with the next line after an error, which a `for` loop over it would not allow.
        except csv.Error as error:
            yield f"invalid CSV ({error})"


def _read_tsv(filesystem: FileSystem, path: str) -> Iterator[ManifestRow | str]:
    return _read_csv(filesystem, path, delimiter="\t")


def _read_parquet(filesystem: FileSystem, path: str) -> Iterator[ManifestRow]:
    import pyarrow.parquet as pq

    with filesystem.open_input_file(path) as file:
        # By row groups: manifests of hundreds of millions of rows do not fit into memory.
        table = pq.ParquetFile(file)
        names = table.schema_arrow.names
        _check_columns(path, names)
        columns = [name for name in ("uri", "caption") if name in names]
        for batch in table.iter_batches(batch_size=PARQUET_ROWS, columns=columns):
            yield from batch.to_pylist()


READERS: dict[str, Callable[[FileSystem, str], Iterator[ManifestRow | str]]] = {
    "jsonl": _read_json_lines,
    "ndjson": _read_json_lines,
    "csv": _read_csv,
    "tsv": _read_tsv,
    "parquet": _read_parquet,
}
"""Readers by file extension."""


def _lines(filesystem: FileSystem, path: str) -> Iterator[str]:
    with io.BufferedReader(filesystem.open_input_file(path), BUFFER_BYTES) as file:
        # utf-8-sig skips the byte order mark that spreadsheets write; csv splits lines itself and needs newline="".
        yield from io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline="")


def _check_columns(path: str, names: Iterable[str]) -> None:
    names = list(names)
    if "uri" not in names:
        listed = ", ".join(names) or "none"
        raise ValueError(f"{path} has no column 'uri' (it has: {listed}); rename the column of addresses")
