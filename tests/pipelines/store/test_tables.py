"""Delta tables: committed rows exist once, uncommitted rows are invisible, and old versions stay readable."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipelines.store import schema
from pipelines.store.tables import Tables, split_version, text


@pytest.fixture
def tables(tmp_path):
    tables = Tables(tmp_path / "tables")
    tables.create()
    return tables


def examples(*ids, bucket="1x64x64"):
    rows = [{"example_id": name, "clip_id": name, "bucket": bucket, "moments": b"\x00\x01"} for name in ids]
    full = [{name: row.get(name) for name in schema.TABLES["examples"]} for row in rows]
    return pa.Table.from_pylist(full, schema=schema.table_schema("examples"))


def ids(tables, version=None):
    return sorted(tables.read("examples", columns=["example_id"], version=version)["example_id"].to_pylist())


def test_upsert_inserts_then_updates_only_the_columns_given(tables):
    tables.upsert("clips", [{"clip_id": "a", "motion_score": 1.5}, {"clip_id": "b", "motion_score": 2.5}])
    tables.upsert("clips", [{"clip_id": "b", "accepted": True}, {"clip_id": "c", "accepted": False}])
    rows = tables.read("clips", columns=["clip_id", "motion_score", "accepted"]).sort_by("clip_id").to_pylist()
    assert rows == [
        {"clip_id": "a", "motion_score": 1.5, "accepted": None},
        {"clip_id": "b", "motion_score": 2.5, "accepted": True},
        {"clip_id": "c", "motion_score": None, "accepted": False},
    ]


def test_files_are_invisible_until_committed(tables):
    files = tables.write_files("examples", examples("a", "b"))
    assert ids(tables) == []
    tables.commit_files("examples", files)
    assert ids(tables) == ["a", "b"]


def test_files_are_split_by_bucket_and_counted_without_opening(tables):
    mixed = pa.concat_tables([examples("a", "b"), examples("c", bucket="5x64x64")])
    tables.commit_files("examples", tables.write_files("examples", mixed))
    assert {(file.partition["bucket"], file.rows) for file in tables.files("examples")} == {
        ("1x64x64", 2),
        ("5x64x64", 1),
    }
    buckets = tables.read("examples", columns=["example_id", "bucket"]).sort_by("example_id")["bucket"].to_pylist()
    assert buckets == ["1x64x64", "1x64x64", "5x64x64"]


def test_versions_keep_what_later_commits_remove(tables):
    tables.commit_files("examples", tables.write_files("examples", examples("a", "b")))
    version = tables.version("examples")
    tables.delete("examples", ["a"])
    assert ids(tables) == ["b"]
    assert ids(tables, version) == ["a", "b"]


def test_a_version_that_does_not_exist_names_the_newest(tables):
    with pytest.raises(ValueError, match="no version 9; the newest is 0"):
        tables.read("examples", version=9)


def test_an_error_about_missing_tables_names_the_command_that_creates_them(tmp_path):
    with pytest.raises(ValueError, match="nova curate"):
        Tables(tmp_path / "nothing").version("examples")


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        Tables(tmp_path).create()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "tables").write_text("mine")
    with pytest.raises(ValueError, match="is a file"):
        Tables(tmp_path / "tables").create()


def test_creating_again_keeps_the_rows(tables):
    tables.upsert("clips", [{"clip_id": "a", "accepted": True}])
    Tables(tables.root).create()
    assert tables.count("clips") == 1


def test_tables_of_an_older_version_get_the_columns_that_they_lack(tmp_path, monkeypatch):
    with monkeypatch.context() as older:
        older.setitem(schema.TABLES, "clips", tuple(name for name in schema.TABLES["clips"] if name != "thumbnails"))
        Tables(tmp_path).create()
        Tables(tmp_path).upsert("clips", [{"clip_id": "a", "motion_score": 1.5}])
    tables = Tables(tmp_path)
    tables.create()
    tables.upsert("clips", [{"clip_id": "a", "thumbnails": b"seen"}, {"clip_id": "b", "thumbnails": None}])
    rows = tables.read("clips", columns=["clip_id", "motion_score", "thumbnails"]).sort_by("clip_id").to_pylist()
    assert rows == [
        {"clip_id": "a", "motion_score": 1.5, "thumbnails": b"seen"},
        {"clip_id": "b", "motion_score": None, "thumbnails": None},
    ]
    before = tables.version("clips")
    tables.create()
    assert tables.version("clips") == before, "nothing is written where nothing is missing"


def test_tables_of_an_older_version_may_document_their_columns_otherwise(tmp_path, monkeypatch):
    tables = Tables(tmp_path)
    with monkeypatch.context() as older:
        for name, column in schema.COLUMNS.items():
            older.setitem(schema.COLUMNS, name, replace(column, doc=f"formerly {column.doc}"))
        tables.create()
    tables.create()
    tables.append("failures", [dict.fromkeys(schema.TABLES["failures"])])
    tables.upsert("clips", [{"clip_id": "a", "accepted": True}])
    tables.commit_files("examples", tables.write_files("examples", examples("a", "b")))
    tables.delete("examples", ["a"])
    assert (ids(tables), tables.count("clips"), tables.count("failures")) == (["b"], 1, 1)


def test_scan_filters_in_batches(tables):
    tables.upsert("clips", [{"clip_id": f"{n:03d}", "accepted": n % 2 == 0} for n in range(100)])
    batches = list(tables.scan("clips", columns=["clip_id"], where=pc.field("accepted"), batch_rows=10))
    assert sum(batch.num_rows for batch in batches) == 50
    assert max(batch.num_rows for batch in batches) <= 10


def test_other_readers_read_the_tables(tables):
    import duckdb
    from deltalake import DeltaTable

    tables.upsert("clips", [{"clip_id": "a", "motion_score": 1.0}, {"clip_id": "b", "motion_score": 3.0}])
    clips = duckdb.from_arrow(DeltaTable(tables.uri("clips")).to_pyarrow_dataset())
    assert clips.query("clips", "select avg(motion_score) from clips").fetchall() == [(2.0,)]
    assert DeltaTable(tables.uri("clips")).to_pandas().motion_score.sum() == 4.0
    assert pa.dataset.dataset(tables.uri("clips"), format="parquet", exclude_invalid_files=True).count_rows() == 2


@pytest.mark.parametrize(
    ("address", "expected"),
    [("work/t", ("work/t", None)), ("work/t@3", ("work/t", 3)), ("s3://user@bucket/t", ("s3://user@bucket/t", None))],
)
def test_split_version(address, expected):
    assert split_version(address) == expected


def test_a_version_that_is_not_a_number_is_refused():
    with pytest.raises(ValueError, match="a version is a number"):
        split_version("work/t@latest")


def test_every_stored_column_has_a_type_and_an_owner():
    for table, names in schema.TABLES.items():
        assert len(set(names)) == len(names), table
        for field in schema.table_schema(table):
            assert field.metadata[b"owner"], f"{table}.{field.name}"
            assert field.metadata[b"doc"], f"{table}.{field.name}"


@pytest.mark.parametrize("where", [text("uri") == "m", text("uri").isin(["c", "m", "zz"])])
def test_filters_on_strings_work_within_the_range_of_a_file(tables, where):
    rows = [{"asset_id": name, "uri": name} for name in ("a", "m", "z")]
    tables.upsert("assets", rows)
    tables.upsert("assets", rows)  # merged into what is there: another writer than the first time
    assert tables.read("assets", columns=["uri"], where=where)["uri"].to_pylist() == ["m"]


def test_partition_values_are_read_and_filtered(tables):
    for bucket in ("1x64x64", "5x64x64"):
        tables.commit_files("examples", tables.write_files("examples", examples(bucket, bucket=bucket)))
    rows = tables.read("examples", columns=["example_id", "bucket"], where=text("bucket") == "5x64x64")
    assert rows.to_pylist() == [{"example_id": "5x64x64", "bucket": "5x64x64"}]


def test_values_of_fingerprints_are_read_from_the_log_and_from_mixed_files(tables, monkeypatch):
    def commit(names, *fingerprints):
        rows = examples(*names)
        for column, values in zip(("latents_by", "text_by"), fingerprints, strict=True):
            rows = rows.set_column(rows.schema.get_field_index(column), column, pa.array(values, pa.string()))
        files = tables.write_files("examples", rows)
        tables.commit_files("examples", files)
        return files

    columns = ["latents_by", "text_by"]
    (file,) = commit("ab", ["v1", "v1"], ["t1", "t1"])
    assert file.ranges == {"latents_by": ("v1", "v1"), "text_by": ("t1", "t1")}
    with monkeypatch.context() as patch:
        patch.setattr(pq, "read_table", None)
        assert tables.values("examples", columns) == {("v1", "t1")}, "a file was opened"
    commit("cd", ["v1", "v2"], ["t1", "t1"])
    assert tables.values("examples", columns) == {("v1", "t1"), ("v2", "t1")}
    tables.delete("examples", ["d"])
    assert tables.values("examples", columns) == {("v1", "t1")}
    assert tables.values("examples", columns, version=2) == {("v1", "t1"), ("v2", "t1")}
    tables.commit_files("examples", [replace(file, ranges={}) for file in commit("e", ["v3"], ["t1"])])
    assert tables.values("examples", columns) == {("v1", "t1"), ("v3", "t1")}, "as version 0.1 wrote files"


@pytest.mark.odd_input(
    "Runs",
    "Two rows with one id in a commit, as of a file that gave the same clip twice",
    "The last one is stored; tables that hold an id twice already can be written again.",
)
def test_a_duplicate_key_cannot_reach_a_commit(tmp_path):
    tables = Tables(tmp_path / "tables")
    tables.create()
    tables.upsert("clips", [{"clip_id": "a", "start": 0.0}, {"clip_id": "a", "start": 1.0}])
    assert tables.read("clips", columns=["clip_id", "start"]).to_pylist() == [{"clip_id": "a", "start": 1.0}]
    tables.append("clips", [{"clip_id": "a"}])  # as version 0.1 stored it
    tables.upsert("clips", [{"clip_id": "a", "end": 2.0}, {"clip_id": "a", "end": 3.0}])
    assert set(tables.read("clips", columns=["end"])["end"].to_pylist()) == {3.0}


@pytest.mark.odd_input(
    "Names and places",
    "Blanks, `?`, `#`, `%`, `+` or `é` in the path of tables",
    "The tables are stored under this path.",
)
@pytest.mark.parametrize("as_address", [False, True])
def test_tables_are_stored_under_just_the_path_that_is_given(tmp_path, as_address):
    folder = tmp_path / "a b?#100%+é@x" / "tables"
    tables = Tables(folder.as_uri() if as_address else folder)
    tables.create()
    for uri in ("x", "y"):  # the second one is merged with the file of the first
        tables.upsert("assets", [{"asset_id": "a", "uri": uri}])
    tables.commit_files("examples", tables.write_files("examples", examples("e")))
    assert tables.read("assets", columns=["uri"])["uri"].to_pylist() == ["y"]
    assert ids(tables) == ["e"]
    assert tables.root == str(tables.folder) == str(folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(schema.TABLES)
    assert [path.name for path in tmp_path.iterdir()] == ["a b?#100%+é@x"]


@pytest.mark.odd_input(
    "Names and places",
    "`%20`, a bracket, a backslash, a bar or a caret in the path of tables",
    "One line: Delta cannot store tables there, or would read those of another folder.",
)
@pytest.mark.parametrize("name", ["a%20b", "%C3%A9", "[x]", "a\\b", "a|b", "a^b", "a\nb"])
def test_a_path_that_delta_mistakes_for_another_is_refused(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / name)
    for folder in (tmp_path / name, tmp_path / "link", (tmp_path / name).as_uri()):
        with pytest.raises(ValueError, match=r"Delta cannot store tables below a folder with .*; rename the folder"):
            Tables(folder)
    assert list((tmp_path / name).iterdir()) == []


def test_addresses_of_object_stores_are_quoted_for_delta():
    assert Tables("s3://bucket/no#1/what?/").root == "s3://bucket/no%231/what%3F"
    assert Tables("s3://bucket/a%20b").folder is None
    with pytest.raises(ValueError, match="tables take no options"):
        Tables("s3://bucket/tables?endpoint_override=HOST")


def test_a_folder_with_an_at_sign_is_no_version(tmp_path):
    (tmp_path / "data@home").mkdir()
    assert split_version(str(tmp_path / "data@home")) == (str(tmp_path / "data@home"), None)
    with pytest.raises(ValueError, match="a version is a number"):
        split_version("data@newest")


def test_tables_that_cannot_be_written_are_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"^cannot write to --tables .*; give another --tables$"):
        Tables(tmp_path / "file" / "tables").create()
