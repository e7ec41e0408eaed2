"""Every row of a manifest is an item or an error of its own, whatever it contains."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies

from pipelines.media import manifests
from pipelines.media.captions import caption_text
from pipelines.media.sources import Source, list_sources
from pipelines.store import schema
from pipelines.store.filesystems import open_filesystem

NO_CAPTIONS = [float("nan"), None, "", 12, ["a", "b"], {"a": 1}, True]


def read(path: Path) -> list[manifests.Item | str]:
    return list(manifests.read(*open_filesystem(str(path))))


def captions(path: Path) -> list[str | None]:
    return [item.caption for item in read(path) if isinstance(item, manifests.Item)]


@pytest.mark.odd_input(
    "Text",
    "Captions of a JSONL manifest that are NaN, null, a number or a list",
    "The image is curated without a caption.",
)
def test_a_caption_of_json_that_is_no_text_is_no_caption(tmp_path: Path) -> None:
    path = tmp_path / "media.jsonl"
    path.write_text("".join(json.dumps({"uri": "a.png", "caption": value}) + "\n" for value in NO_CAPTIONS))
    assert captions(path) == [None] * len(NO_CAPTIONS)
    path.write_text('{"uri": "a.png", "caption": ' + "9" * 5000 + "}\n")
    assert captions(path) == [None]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([float("nan"), 1.5]), [None, None]),
        (pa.nulls(2), [None, None]),
        (pa.array([["a"], None]), [None, None]),
        (pa.array([1 << 60, 1], pa.timestamp("ms")), [None, None]),
        (pa.array([{"a": 1}, {"a": 2}]), [None, None]),
        (pa.array(["a cat", None]), ["a cat", None]),
        (pa.array(["a cat", "NaN"], pa.large_string()), ["a cat", None]),
        (pa.array(["a cat", "a cat"]).dictionary_encode(), ["a cat", "a cat"]),
        (pa.array([b"a cat", b"caf\xe9"]), ["a cat", "caf\ufffd"]),
        (pa.StringArray.from_buffers(2, *pa.array([b"a cat", b"caf\xe9"]).buffers()[1:]), ["a cat", "caf\ufffd"]),
    ],
)
@pytest.mark.odd_input(
    "Text",
    "A caption column of Parquet with another type than text, or text that is not UTF-8",
    "Numbers, lists and dates are no captions; bytes are read as text, with U+FFFD for what is not UTF-8.",
)
def test_a_caption_column_of_parquet_may_have_any_type(tmp_path: Path, column: pa.Array, expected: list[Any]) -> None:
    path = tmp_path / "media.parquet"
    pq.write_table(pa.table({"uri": ["a.png", "b.png"], "caption": column}), path)
    assert captions(path) == expected


def test_addresses_of_parquet_may_be_bytes(tmp_path: Path) -> None:
    path = tmp_path / "media.parquet"
    pq.write_table(pa.table({"uri": [b"a.png", b"caf\xe9.png"]}), path)
    assert read(path) == [("a.png", None), ("caf\udce9.png", None)]


def test_words_for_missing_values_in_csv_are_no_captions(tmp_path: Path) -> None:
    path = tmp_path / "media.csv"
    path.write_text("uri,caption\na.png,nan\nb.png,\nc.png,NULL\nd.png\ne.png,7\n")
    assert captions(path) == [None, None, None, None, "7"]


@pytest.mark.odd_input(
    "Text",
    "U+2028, U+0085, form feeds and other breaks inside the captions of a manifest or the prompts of a file",
    "Lines end with `\\n` or `\\r\\n` alone, so captions and prompts stay in one piece.",
)
def test_lines_of_json_end_at_line_ends_alone(tmp_path: Path) -> None:
    caption = "one\u2028still\u2029one\x85and\x7fone"
    path = tmp_path / "media.jsonl"
    lines = [json.dumps({"uri": uri, "caption": caption}, ensure_ascii=False) for uri in ("a.png", "b.png", "c.png")]
    path.write_bytes("\r\n".join([*lines[:2], "\ufeff" + lines[2]]).encode())
    assert read(path) == [("a.png", caption), ("b.png", caption), ("c.png", caption)]
    table = tmp_path / "media.csv"
    table.write_bytes(f'uri,caption\r\na.png,"{caption}\r\ntwo"\r\nb.png,{caption}\r\n'.encode())
    assert read(table) == [("a.png", f"{caption}\r\ntwo"), ("b.png", caption)]


def test_tables_of_windows_in_utf16_are_read(tmp_path: Path) -> None:
    path = tmp_path / "media.tsv"
    path.write_bytes("uri\tcaption\r\nkäse.png\tein Käse\r\n".encode("utf-16"))
    assert read(path) == [("käse.png", "ein Käse")]


@pytest.mark.parametrize("line", ["[" * 100_000, '{"uri": "a.png", "caption": "' + "x" * 10, '"a.png"', "{}", "\0"])
def test_a_broken_line_is_an_error_of_its_own(tmp_path: Path, line: str) -> None:
    path = tmp_path / "media.jsonl"
    path.write_text('{"uri": "first.png"}\n' + line + '\n{"uri": "last.png"}\n')
    first, broken, last = read(path)
    assert (first, last) == (("first.png", None), ("last.png", None))
    assert isinstance(broken, str)
    assert broken


def test_a_table_without_a_readable_head_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "media.csv"
    path.write_text("uri" + "x" * 200_000 + "\na.png\n")
    with pytest.raises(ValueError, match="does not begin with a line of column names"):
        read(path)


# Whatever a manifest contains

FUZZ = hypothesis.settings(
    derandomize=True, deadline=None, max_examples=60, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
TEXT = strategies.text(strategies.characters(codec=None, exclude_categories=()), max_size=12)
URIS = TEXT | strategies.sampled_from(
    ["a.png", "sub/ü.png", "caf\udce9.png", "\ud83d.png", "s3://b/c.png", "/x\0y", ".."]
)
VALUES = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.floats() | strategies.integers() | TEXT,
    lambda inner: strategies.lists(inner, max_size=2) | strategies.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)


def sources_of(path: Path, content: bytes) -> list[Source]:
    """The sources of a manifest, each of which a table can store and has an address."""
    path.write_bytes(content)
    sources = list(list_sources(str(path)))
    rows = [{"uri": source.uri, "source_caption": source.caption, "source_error": source.error} for source in sources]
    table = pa.Table.from_pylist(rows, schema=pa.schema([schema.field(name) for name in rows[0]]))
    assert table.to_pylist() == rows
    assert all(source.uri and source.error != "" for source in sources)
    return sources


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("manifests")


@FUZZ
@hypothesis.given(rows=strategies.lists(strategies.fixed_dictionaries({"uri": URIS | VALUES, "caption": VALUES})))
@pytest.mark.odd_input(
    "Text",
    "A manifest of arbitrary values and texts",
    "Each row becomes an item, or an error of its own; every address, caption and message can be stored.",
)
def test_each_row_of_json_is_an_item_or_an_error(folder: Path, rows: list[dict[str, Any]]) -> None:
    rows = [{"uri": "first.png"}, *rows]
    sources = sources_of(folder / "media.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    assert len(sources) == len(rows)
    for row, source in zip(rows, sources, strict=True):
        is_text = isinstance(row["uri"], str) and row["uri"].strip()
        assert is_text or source.error is not None
        assert source.caption == (None if source.error else caption_text(row.get("caption")))


@FUZZ
@hypothesis.given(
    lines=strategies.lists(strategies.binary(max_size=20), max_size=4), kind=strategies.sampled_from(["jsonl", "csv"])
)
def test_a_manifest_of_arbitrary_bytes_is_read(folder: Path, lines: list[bytes], kind: str) -> None:
    first = b'{"uri": "first.png"}' if kind == "jsonl" else b"uri,caption\nfirst.png,"
    sources = sources_of(folder / f"bytes.{kind}", b"\n".join([first, *lines]))
    assert sources[0].uri.endswith("/first.png")


@FUZZ
@hypothesis.given(
    rows=strategies.lists(strategies.tuples(URIS, TEXT), min_size=1),
    write=strategies.sampled_from(["csv", "tsv", "parquet"]),
)
def test_each_row_of_a_table_is_an_item_or_an_error(folder: Path, rows: list[tuple[str, str]], write: str) -> None:
    # Rows without any text are blank lines of CSV, which are none.
    rows = [(uri, caption) for uri, caption in rows if uri.strip()]
    sources = sources_of(folder / f"media.{write}", WRITERS[write]([("first.png", ""), *rows]))
    assert len(sources) == len(rows) + 1
    for (_, caption), source in zip(rows, sources[1:], strict=True):
        assert source.caption == (None if source.error else caption_text(caption.encode("utf-8", "surrogatepass")))


def _separated(rows: list[tuple[str, str]], delimiter: str) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([("uri", "caption"), *rows])
    return text.getvalue().encode("utf-8", "surrogatepass")


def _parquet(rows: list[tuple[str, str]]) -> bytes:
    columns = [[value.encode("utf-8", "surrogatepass") for value in values] for values in zip(*rows, strict=True)]
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, names=["uri", "caption"]), buffer)
    return buffer.getvalue().to_pybytes()


WRITERS: dict[str, Callable[[list[tuple[str, str]]], bytes]] = {
    "csv": lambda rows: _separated(rows, ","),
    "tsv": lambda rows: _separated(rows, "\t"),
    "parquet": _parquet,
}
