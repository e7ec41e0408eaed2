"""Listings are complete and free of duplicates, and every file has its own caption: they decide what is curated."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import hypothesis
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies

from pipelines.media import sources as sources_module
from pipelines.media.errors import MediaError
from pipelines.media.frames import read_frames
from pipelines.media.probe import open_media
from pipelines.media.sources import Source, list_sources
from pipelines.store.filesystems import open_filesystem
from tests.media_files import write_picture


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * len(path.name))
    return folder


def names(where: str | Path, folder: Path, **settings: bool) -> list[str]:
    return [os.path.relpath(source.uri, folder) for source in list_sources(str(where), **settings)]


# Folders and globs


def test_a_folder_gives_media_in_order_and_counts_the_rest(tmp_path):
    touch(tmp_path, "b.PNG", "a.mp4", "z/deep/c.webm", "m.jpg", "notes.md", "z/x.json", ".hidden.png", ".git/d.png")
    listing = list_sources(str(tmp_path))
    sources = list(listing)
    assert [os.path.relpath(source.uri, tmp_path) for source in sources] == ["a.mp4", "b.PNG", "m.jpg", "z/deep/c.webm"]
    assert listing.ignored == 2
    modified = os.stat(tmp_path / "a.mp4").st_mtime_ns / 1e9  # getmtime rounds otherwise
    assert sources[0] == Source(uri=str(tmp_path / "a.mp4"), bytes=5, modified=modified)
    assert names(tmp_path, tmp_path, recursive=False) == ["a.mp4", "b.PNG", "m.jpg"]


def test_relative_places_give_absolute_addresses(tmp_path, monkeypatch):
    touch(tmp_path, "media/a.mp4")
    monkeypatch.chdir(tmp_path)
    assert [source.uri for source in list_sources("media")] == [str(tmp_path / "media/a.mp4")]
    assert [source.uri for source in list_sources("media/../media/*.mp4")] == [str(tmp_path / "media/a.mp4")]


def test_circular_links_end_and_links_are_followed(tmp_path):
    touch(tmp_path / "place", "sub/a.png")
    touch(tmp_path / "elsewhere", "b.png")
    (tmp_path / "place/sub/up").symlink_to("..")
    (tmp_path / "place/other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "place")
    assert names(tmp_path / "place", tmp_path / "place") == ["other/b.png", "sub/a.png"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.png", ["a.png", "c.png"]),
        ("?.png", ["a.png", "c.png"]),
        ("[ab].*", ["a.png", "b.mp4"]),
        ("*/*.png", ["x/d.png"]),
        ("**/*.png", ["a.png", "c.png", "x/d.png", "x/y/e.png"]),
        ("x/**", ["x/d.png", "x/y/e.png"]),
        ("*", ["a.png", "b.mp4", "c.png"]),
        ("*.dat", ["f.dat"]),
    ],
)
def test_globs(tmp_path, pattern, expected):
    touch(tmp_path, "a.png", "b.mp4", "c.png", "x/d.png", "x/y/e.png", "f.dat", "readme.md")
    assert names(tmp_path / pattern, tmp_path) == expected


def test_a_folder_named_like_a_glob_is_a_folder(tmp_path):
    touch(tmp_path / "photos [2020]", "a.png")
    assert names(tmp_path / "photos [2020]", tmp_path) == ["photos [2020]/a.png"]


def test_a_single_file_is_listed_whatever_its_name(tmp_path):
    touch(tmp_path, "upload.bin")
    (tmp_path / "upload.txt").write_text("beside it\n")
    assert [(source.uri, source.caption) for source in list_sources(str(tmp_path / "upload.bin"))] == [
        (str(tmp_path / "upload.bin"), "beside it")
    ]


def test_captions_beside_files(tmp_path):
    touch(tmp_path, "a.png", "b.mp4", "c.png", "notes.txt")
    (tmp_path / "a.txt").write_text("\ufeffA cat.\n", encoding="utf-8")
    (tmp_path / "b.txt").write_bytes(b"caf\xe9 " + b"x" * 100)
    (tmp_path / "c.txt").write_text("  \n")
    listing = list_sources(str(tmp_path))
    captions = {Path(source.uri).name: source.caption or "" for source in listing}
    assert captions["a.png"] == "A cat."
    assert captions["b.mp4"].startswith("caf\ufffd x")
    assert captions["c.png"] == ""
    assert listing.ignored == 1  # notes.txt; the captions are none


# Object stores


def test_addresses_round_trip_through_names_with_special_characters(tmp_path):
    folder = tmp_path / "a #1"
    folder.mkdir()
    write_picture(folder / "b%20 c?ü.png")
    base = f"file://{tmp_path}/a%20%231"
    for where in (base, f"{base}/", f"{base}/*.png", f"file://{tmp_path}/a*/*"):
        (source,) = list_sources(where)
        assert source.uri.startswith("file:///")
        assert read_frames(source.uri).shape == (1, 64, 96, 3)


def test_another_kind_of_store(tmp_path):
    store, root = open_filesystem("mock://bucket")
    store.create_dir("shop/deep")
    for name in ("shop/b.png", "shop/deep/a.mp4", "shop/list.jsonl"):
        with store.open_output_stream(root + name) as file:
            file.write(b'{"uri": "deep/a.mp4", "caption": "x"}\n')
    assert [source.uri for source in list_sources("mock://bucket/shop")] == [
        "mock://bucket/shop/b.png",
        "mock://bucket/shop/deep/a.mp4",
    ]
    assert [source.uri for source in list_sources("mock://bucket/shop/**/*.mp4")] == ["mock://bucket/shop/deep/a.mp4"]
    (source,) = list_sources("mock://bucket/shop/list.jsonl")
    assert (source.uri, source.caption) == ("mock://bucket/shop/deep/a.mp4", "x")


# Manifests

ROWS = [{"uri": "sub/a.png", "caption": "A cat, “asleep”.\nOn a mat."}, {"uri": "../b.mp4"}, {"uri": "s3://b/c.png"}]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "parquet"])
def test_manifests_give_captions_and_resolve_addresses(tmp_path, kind):
    path = tmp_path / "lists" / f"media.{kind}"
    path.parent.mkdir()
    rows = [{"extra": 1, "uri": row["uri"], "caption": row.get("caption")} for row in ROWS]
    if kind == "jsonl":
        path.write_text("\n\n".join(map(json.dumps, ROWS)))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        table = pa.Table.from_pylist(rows).to_pandas()
        table.to_csv(path, index=False, sep="," if kind == "csv" else "\t", encoding="utf-8-sig")
    assert list(list_sources(str(path))) == [
        Source(uri=str(tmp_path / "lists/sub/a.png"), caption=ROWS[0]["caption"]),
        Source(uri=str(tmp_path / "b.mp4")),
        Source(uri="s3://b/c.png"),
    ]


def test_manifests_give_size_and_time_of_files_on_disk(tmp_path):
    touch(tmp_path, "a.png", "folder/b.png")
    uris = ["a.png", str(tmp_path / "folder"), "gone.png", "s3://bucket/c.png"]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps({"uri": uri}) + "\n" for uri in uris))
    sources = list(list_sources(str(tmp_path / "m.jsonl")))
    (listed,) = list_sources(str(tmp_path / "a.png"))
    assert sources[0] == listed, "as in the listing of a folder, or every file would count as modified"
    assert [(source.bytes, source.modified) for source in sources[1:]] == [(None, None)] * 3


def test_a_bad_manifest_line_is_a_source_with_an_error(tmp_path):
    path = tmp_path / "media.jsonl"
    path.write_text('{"uri": "a.png"}\n{"uri": \n[1]\n{"uri": ""}\n{"uri": 3}\n{"uri": "c.png"}\n')
    sources = list(list_sources(str(path)))
    assert [source.uri for source in sources if source.error is None] == [
        str(tmp_path / "a.png"),
        str(tmp_path / "c.png"),
    ]
    errors = {source.uri: source.error for source in sources if source.error is not None}
    assert list(errors) == [f"{path}#{number}" for number in (2, 3, 4, 5)]
    assert errors[f"{path}#2"].startswith("item 2: invalid JSON (")
    assert errors[f"{path}#4"] == "item 4: no uri"


def test_manifests_are_read_as_they_are_needed(tmp_path):
    path = tmp_path / "media.jsonl"
    with path.open("w") as file:
        for index in range(200_000):
            file.write(f'{{"uri": "{index}.png"}}\n')
    listing = list_sources(str(path))
    assert next(listing).uri == str(tmp_path / "0.png")
    path.write_text("")  # what has been read so far is a buffer, not the file
    assert sum(1 for _ in listing) < 100_000


# Mistakes


@pytest.mark.parametrize("name", ["media.jsonl", "media.csv", "media.parquet"])
def test_a_manifest_without_uri_names_its_columns(tmp_path, name):
    path = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.table({"url": ["a"], "text": ["b"]}), path)
    else:
        path.write_text('{"url": "a", "text": "b"}\n' if name.endswith("jsonl") else "url,text\na,b\n")
    with pytest.raises(ValueError, match=r"no column 'uri' \(it has: url, text\)"):
        list_sources(str(path))


def test_mistakes_are_one_line_with_a_remedy(tmp_path):
    touch(tmp_path, "empty/readme.md", "broken.parquet")
    cases = {
        str(tmp_path / "gone"): "nothing at .*give a folder",
        str(tmp_path / "gone" / "*.png"): "nothing at",
        str(tmp_path / "empty"): r"no images or videos in .* \(1 other files\)",
        str(tmp_path / "*.png"): "no images or videos",
        str(tmp_path / "broken.parquet"): "cannot read .*broken.parquet",
        "ftp://host/x": "no ftp:// address",
        "s3://key:secret@bucket/x": "password",
    }
    for where, message in cases.items():
        with pytest.raises(ValueError, match=message) as caught:
            list_sources(where)
        assert "\n" not in str(caught.value)
        assert "secret" not in str(caught.value)


def test_locked_folders_do_not_hide_other_files(tmp_path, monkeypatch):
    touch(tmp_path, "a.png", "locked/b.png", "z.png")
    original = pyarrow.fs.FileSelector

    def refuse(folder: str) -> pyarrow.fs.FileSelector:  # permissions do not stop root, as whom tests may run
        if folder.endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return original(folder)

    monkeypatch.setattr(pyarrow.fs, "FileSelector", refuse)
    sources = list(list_sources(str(tmp_path)))
    assert [source.error is None for source in sources] == [True, False, True]
    assert sources[1].uri == str(tmp_path / "locked")
    with pytest.raises(ValueError, match=r"cannot read .*Permission denied"):
        list_sources(str(tmp_path / "locked"))


def test_pipes_are_skipped(tmp_path):
    touch(tmp_path, "a.png")
    os.mkfifo(tmp_path / "b.png")
    assert names(tmp_path, tmp_path) == ["a.png"]


# Names and captions that are not valid text


def place_odd_names(folder: Path) -> None:
    """Files and a folder whose names are not UTF-8, and one whose name has a line end."""
    root = os.fsencode(folder)
    os.mkdir(os.path.join(root, b"ordner\xe9"))
    for name in (b"caf\xe9.png", b"ordner\xe9/b.png", b"a.png", b"line\nend.png", b"notes\xff.txt"):
        with open(os.path.join(root, name), "wb") as file:
            file.write(name)
    with open(os.path.join(root, b"caf\xe9.txt"), "wb") as file:
        file.write(b"A caf\xc3\xa9.")


@pytest.mark.odd_input(
    "Names and places",
    "Names of files and folders that are not UTF-8",
    "They are curated like others; their address quotes the bytes, as in file:///photos/caf%E9.png.",
)
def test_names_that_are_not_utf8_are_listed_and_opened(tmp_path):
    place_odd_names(tmp_path)
    listing = list_sources(str(tmp_path))
    sources = list(listing)
    assert [source.uri for source in sources] == [
        str(tmp_path / "a.png"),
        f"file://{tmp_path}/caf%E9.png",
        str(tmp_path / "line\nend.png"),
        f"file://{tmp_path}/ordner%E9/b.png",
    ]
    assert [source.caption for source in sources] == [None, "A café.", None, None]
    assert listing.ignored == 1
    contents = [open_media(source.uri).read() for source in sources]
    assert contents == [b"a.png", b"caf\xe9.png", b"line\nend.png", b"ordner\xe9/b.png"]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("{}/caf*", "caf%E9.png"),
        ("{}/caf\udce9.png", "caf%E9.png"),
        ("file://{}/caf%E9.png", "caf%E9.png"),
        ("{}/ordner\udce9", "ordner%E9/b.png"),
        ("{}/ordner\udce9/*", "ordner%E9/b.png"),
        ("{}/*/*.png", "ordner%E9/b.png"),
        ("file://{}/ordner%E9/*.png", "ordner%E9/b.png"),
    ],
)
def test_every_kind_of_place_may_have_a_name_that_is_not_utf8(tmp_path, where, expected):
    place_odd_names(tmp_path)
    assert [source.uri for source in list_sources(where.format(tmp_path))] == [f"file://{tmp_path}/{expected}"]


def test_a_manifest_names_files_that_are_not_utf8_by_their_bytes_or_escapes(tmp_path):
    place_odd_names(tmp_path)
    path = tmp_path / "media.jsonl"
    path.write_bytes(
        b'{"uri": "caf\xe9.png"}\n{"uri": "caf\\udce9.png"}\n{"uri": "cut \\ud83d.png"}\n{"uri": "a\\u0000"}\n'
    )
    *named, cut, nul = list_sources(str(path))
    assert {(source.uri, source.bytes) for source in named} == {(f"file://{tmp_path}/caf%E9.png", 8)}
    assert cut.uri == f"{path}#3"
    assert "can name no file" in (cut.error or "")
    with pytest.raises(MediaError, match="NUL"):  # recorded as a failure of the item when it is read
        open_media(nul.uri)


@pytest.mark.odd_input(
    "Text",
    "A caption with half a character, such as an emoji that was cut in the middle",
    "The half becomes U+FFFD and the image is curated.",
)
def test_half_a_character_in_a_caption_is_replaced(tmp_path):
    path = tmp_path / "media.jsonl"
    path.write_text(
        '{"uri": "a.png", "caption": "good"}\n{"uri": "b.png", "caption": "cut emoji \\ud83d"}\n'
        '{"uri": "c.png", "caption": "\\ud83d\\ude00 \\u0000"}\n'
    )
    assert [source.caption for source in list_sources(str(path))] == ["good", "cut emoji \ufffd", "\U0001f600"]


def test_a_caption_that_cannot_be_read_fails_its_item_alone(tmp_path):
    touch(tmp_path, "a.png", "b.png", "c.png", "c.txt/not-a-caption.md")
    (tmp_path / "a.txt").symlink_to("gone.txt")
    listing = list_sources(str(tmp_path))
    assert [source.caption for source in listing] == [None, None, None]


def test_a_listing_goes_on_after_a_caption_without_permission(tmp_path, monkeypatch):
    touch(tmp_path, "a.png", "b.png", "a.txt")

    def refuse(*arguments):  # permissions do not stop root, as whom tests may run
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sources_module, "decode", refuse)
    first, second = list_sources(str(tmp_path))
    assert first.error == "cannot read the caption beside it: [Errno 13] Permission denied"
    assert second.error is None


NAMES = strategies.binary(min_size=1, max_size=40).filter(
    lambda name: not set(name) & {0, ord("/")} and not name.startswith(b".")
)


@hypothesis.settings(derandomize=True, deadline=None, max_examples=40)
@hypothesis.given(names=strategies.sets(NAMES, min_size=1, max_size=4))
@pytest.mark.odd_input(
    "Names and places",
    "Files with arbitrary names",
    "Each is listed once, under an address that can be stored and leads back to it.",
)
def test_files_of_any_name_are_listed_and_opened(names):
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            with open(os.path.join(os.fsencode(folder), name + b".png"), "wb") as file:
                file.write(name)
        for where in (folder, f"file://{folder}"):
            uris = [source.uri for source in list_sources(where)]
            assert all(uri.encode() for uri in uris)
            assert sorted(open_media(uri).read() for uri in uris) == sorted(names)


@pytest.mark.odd_input(
    "Names and places", "A folder named `[raw]` or `what?` in a glob", "The name of a folder that exists is no pattern."
)
@pytest.mark.parametrize("name", ["[raw]", "what?", "a*", "no#1", "a%20b"])
@pytest.mark.parametrize("as_address", [False, True])
def test_a_folder_may_have_the_name_of_a_pattern(tmp_path, name, as_address):
    (tmp_path / name / "sub").mkdir(parents=True)
    (tmp_path / name / "sub" / "x.png").write_bytes(b"")
    base = (tmp_path / name).as_uri() if as_address else str(tmp_path / name)
    for where in (base, f"{base}/*/*.png", f"{base}/**/*.png", f"{base}/sub/x.png"):
        (source,) = list_sources(where)
        assert open_filesystem(source.uri)[1] == str(tmp_path / name / "sub" / "x.png")
