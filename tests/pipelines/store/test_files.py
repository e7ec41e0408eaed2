"""Files and folders appear when they are complete, and stay as they were when writing fails."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.store.files import replacing, replacing_folder, write_json, write_parquet, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_replaces_the_old_one_when_it_is_complete(tmp_path):
    path = tmp_path / "deep" / "note.txt"
    write_text(path, "old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(path.parent) == ["note.txt"]


def test_a_name_may_be_as_long_as_the_file_system_takes(tmp_path):
    for name in ("n" * 251 + ".txt", "ü" * 125 + ".txt"):
        write_text(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text"
    assert len(names(tmp_path)) == 2


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "note.txt"
    write_text(path, "old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half of it")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["note.txt"]


def test_json_and_parquet_are_read_back(tmp_path):
    write_json(tmp_path / "values.json", {"größe": [1, None]})
    assert json.loads((tmp_path / "values.json").read_text()) == {"größe": [1, None]}
    table = pa.table({"id": ["a", "b"]})
    write_parquet(tmp_path / "rows.parquet", table)
    assert pq.read_table(tmp_path / "rows.parquet") == table
    assert names(tmp_path) == ["rows.parquet", "values.json"]


def test_a_folder_replaces_the_old_one_and_the_remains_of_a_killed_run(tmp_path):
    for name in ("model", ".model.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old.txt").write_text("old")
    with replacing_folder(tmp_path / "model") as temporary:
        (temporary / "new.txt").write_text("new")
        assert names(tmp_path / "model") == ["old.txt"]
    assert names(tmp_path / "model") == ["new.txt"]
    assert names(tmp_path) == ["model"]


def test_a_failure_leaves_the_old_folder_and_nothing_else(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old.txt").write_text("old")

    def fail():
        with replacing_folder(tmp_path / "model") as temporary:
            (temporary / "new.txt").write_text("new")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        fail()
    assert names(tmp_path) == ["model"]
    assert names(tmp_path / "model") == ["old.txt"]
