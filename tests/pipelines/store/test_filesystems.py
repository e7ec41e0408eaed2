"""Paths and addresses lead to the same files, and messages hide credentials."""

from pathlib import Path

import pyarrow.fs
import pytest

from pipelines.store.filesystems import open_filesystem


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
