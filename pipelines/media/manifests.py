"""Reads manifests: lists of media with captions, as JSON lines, CSV or Parquet, a few rows in memory at a time.

Lines of text end with \\n or \\r\\n. Bytes that are not UTF-8 are kept as surrogates: an address may name a file by
them. In captions they are replaced.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow.fs import FileSystem

from pipelines.media.captions import caption_text, encoding_of
from pipelines.store.filesystems import encode_path

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
    uri = row.get("uri")
    if isinstance(uri, bytes):
        uri = uri.decode("utf-8", "surrogateescape")
    if not isinstance(uri, str) or not uri.strip():
        return "no uri"
    return Item(uri.strip(), caption_text(row.get("caption")))


def _read_json_lines(filesystem: FileSystem, path: str) -> Iterator[ManifestRow | str]:
    # Concatenated files may have byte order marks on the way.
    lines = (line.strip("\ufeff \t\r\n") for line in _lines(filesystem, path, newline="\n"))
    lines = (line for line in lines if line)
    for number, line in enumerate(lines):
        try:
            # Integers as floats, as Python refuses those of thousands of digits; the columns that are read have none.
            row = json.loads(line, parse_int=float)
        except (ValueError, RecursionError) as error:  # the latter for brackets in brackets in brackets
            yield f"invalid JSON ({error})"
            continue
        if not isinstance(row, dict):
            yield "not a JSON object"
            continue
        if number == 0:  # a single row without `uri` is one broken row, but the first one means a wrong file
            _check_columns(path, row)
        yield row


def _read_csv(filesystem: FileSystem, path: str, delimiter: str = ",") -> Iterator[ManifestRow | str]:
    # csv splits lines itself: those in quotes belong to a field.
    reader = csv.DictReader(_lines(filesystem, path, newline=""), delimiter=delimiter)
    try:
        names = reader.fieldnames or ()
    except csv.Error as error:
        raise ValueError(f"{path} does not begin with a line of column names ({error})") from error
    _check_columns(path, names)
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

    with filesystem.open_input_file(encode_path(path)) as file:
        # By row groups: manifests of hundreds of millions of rows do not fit into memory.
        table = pq.ParquetFile(file)
        names = table.schema_arrow.names
        _check_columns(path, names)
        columns = [name for name in ("uri", "caption") if name in names]
        for batch in table.iter_batches(batch_size=PARQUET_ROWS, columns=columns):
            # By position, as two columns may have one name; the first counts.
            texts = [_texts(batch.column(batch.schema.names.index(name))) for name in columns]
            yield from (dict(zip(columns, values, strict=True)) for values in zip(*texts, strict=True))


def _texts(column: pa.Array) -> list[bytes | None]:
    """Texts of a Parquet column as bytes; None in place of anything else.

    As bytes, because one text that is not UTF-8 would fail its whole batch; and only text is converted, because dates
    and numbers may be out of Python's range.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    names = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
    if str(column.type) not in names:
        return [None] * len(column)
    return column.cast(pa.large_binary()).to_pylist()


READERS: dict[str, Callable[[FileSystem, str], Iterator[ManifestRow | str]]] = {
    "jsonl": _read_json_lines,
    "ndjson": _read_json_lines,
    "csv": _read_csv,
    "tsv": _read_tsv,
    "parquet": _read_parquet,
}
"""Readers by file extension."""


def _lines(filesystem: FileSystem, path: str, newline: str) -> Iterator[str]:
    with io.BufferedReader(filesystem.open_input_file(encode_path(path)), BUFFER_BYTES) as file:
        encoding = encoding_of(file.peek(2))
        errors = "replace" if encoding == "utf-16" else "surrogateescape"
        yield from io.TextIOWrapper(file, encoding=encoding, errors=errors, newline=newline)


def _check_columns(path: str, names: Iterable[str]) -> None:
    names = list(names)
    if "uri" not in names:
        listed = ", ".join(names) or "none"
        raise ValueError(f"{path} has no column 'uri' (it has: {listed}); rename the column of addresses")
