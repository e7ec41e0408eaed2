"""Paths and addresses lead to the same files, and messages hide credentials."""

import os
from pathlib import Path

import pyarrow.fs
import pytest

from pipelines.store.filesystems import (
    encode_path,
    list_folder,
    local_path,
    open_filesystem,
    split_options,
    storable_address,
)


def test_paths_are_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    filesystem, path = open_filesystem("a/b.txt")
    assert isinstance(filesystem, pyarrow.fs.LocalFileSystem)
    assert path == str(tmp_path / "a" / "b.txt")
    assert open_filesystem("~/b.txt")[1] == str(Path.home() / "b.txt")


def test_an_address_leads_to_the_same_file_as_its_path(tmp_path):
    (tmp_path / "a b.txt").write_text("text")
    filesystem, path = open_filesystem(f"file://{tmp_path}/a%20b.txt")
    assert path == str(tmp_path / "a b.txt")
    assert filesystem.get_file_info(path).size == 4


def test_an_unknown_kind_of_address_is_refused_without_its_credentials():
    with pytest.raises(ValueError, match=r"no ftp:// address.*s3://") as caught:
        open_filesystem("ftp://user:secret@host/a.png")
    assert "secret" not in str(caught.value)


def test_a_name_that_is_not_utf8_has_an_address_of_ascii_that_leads_to_its_file(tmp_path):
    names = [b"caf\xe9.txt", b"\xff\xfe", "ü%E9.txt".encode()]
    for name in names:
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).write_bytes(name)
    filesystem, folder = open_filesystem(str(tmp_path))
    infos = {info.name: info for info in list_folder(filesystem, folder)}
    assert sorted(infos) == sorted(name.decode("utf-8", "surrogateescape") for name in names)
    for info in infos.values():
        assert (info.type, info.size) == (pyarrow.fs.FileType.File, len(encode_path(info.name)))
        address = storable_address(info.path)
        address.encode()
        store, path = open_filesystem(address)
        assert store.open_input_file(encode_path(path)).read() == encode_path(info.name)
    assert storable_address(f"{tmp_path}/caf\udce9.txt") == f"file://{tmp_path}/caf%E9.txt"
    assert storable_address(f"{tmp_path}/ü%E9.txt") == f"{tmp_path}/ü%E9.txt"
    assert storable_address("s3://bucket/caf\udce9.txt") == "s3://bucket/caf%E9.txt"


def test_half_a_character_names_no_file():
    with pytest.raises(ValueError, match=r"'/a\\ud83d' can name no file"):
        storable_address("/a\ud83d")


ODD_NAMES = ["a b", "a%20b", "what?", "no#1", "100%", "[x]", "a+b", "é", "a=b&c", "a:b", "x@y"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_path_is_taken_as_it_is_and_its_address_leads_to_it(name, tmp_path):
    path = tmp_path / name
    assert open_filesystem(str(path))[1] == str(path)
    assert open_filesystem(path.as_uri())[1] == local_path(path.as_uri()) == str(path)


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("file:///photos/a b.png", "/photos/a b.png"),
        ("file:///photos/what?.png", "/photos/what?.png"),
        ("file:///photos/no#1.png", "/photos/no#1.png"),
        ("file://localhost/photos/a%20b.png", "/photos/a b.png"),
        ("file:/photos/a.png", "/photos/a.png"),
        ("FILE:///photos/100%.png", "/photos/100%.png"),
        ("/photos/http://x/a.png", "/photos/http:/x/a.png"),
    ],
)
def test_an_address_need_not_be_quoted(address, path):
    assert local_path(address) == path


def test_options_of_a_store_are_told_from_names():
    place, options = split_options("s3://bucket/a?endpoint_override=HOST:9000&scheme=http")
    assert (place, options) == ("s3://bucket/a", "?endpoint_override=HOST:9000&scheme=http")
    assert split_options("s3://bucket/what?.png") == ("s3://bucket/what?.png", "")
    assert split_options("file:///a?b=c") == ("file:///a?b=c", "")
    assert split_options("/photos/a?b=c") == ("/photos/a?b=c", "")
    assert local_path("s3://bucket/a") is None
