"""A folder with other files is refused, and one that the command wrote before is accepted."""

import errno

import pytest

from pipelines.store.folders import check_output_folder, create_folder, local_folder


def test_new_empty_and_earlier_output_folders_are_accepted(tmp_path):
    check_output_folder(tmp_path / "new", "--output")
    check_output_folder(tmp_path, "--output")
    (tmp_path / ".DS_Store").write_text("")
    check_output_folder(tmp_path, "--output")
    with pytest.raises(ValueError, match=r"\.DS_Store"):
        check_output_folder(tmp_path, "--output", allow_hidden=False)
    (tmp_path / "full-seed0").mkdir()
    check_output_folder(tmp_path, "--output", contents=("full*",))
    (tmp_path / "thesis.txt").write_text("mine")
    (tmp_path / "summary.json").write_text("{}")
    check_output_folder(tmp_path, "--output", markers=("manifest.parquet", "summary.json"))


def test_a_folder_with_other_files_is_refused_with_the_name_of_one(tmp_path):
    (tmp_path / "samples").mkdir()
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"^--run .* holds other files \(thesis.txt\); give an empty or new folder$"):
        check_output_folder(tmp_path, "--run", markers=("run.json",), contents=("samples",))


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "output").write_text("mine")
    with pytest.raises(ValueError, match=r"^--output .* is a file; give a folder$"):
        check_output_folder(tmp_path / "output", "--output")


def test_a_folder_is_given_as_a_path_or_an_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert local_folder("a%20b", "--run") == tmp_path / "a%20b"
    assert local_folder((tmp_path / "a b").as_uri(), "--run") == tmp_path / "a b"
    with pytest.raises(ValueError, match=r"^--run s3://bucket/run is not on a disk; give a folder$"):
        local_folder("s3://bucket/run", "--run")


@pytest.mark.odd_input(
    "Names and places", "A `--tables`, `--run` or `--output` that cannot be written", "One line that names the option."
)
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ValueError, match=r"^cannot write to --tables .*file/x: Not a directory; give another --tables$"
    ):
        create_folder(tmp_path / "file" / "x", "--tables")
    create_folder(tmp_path / "new" / "folder", "--tables")
    assert list((tmp_path / "new" / "folder").iterdir()) == []


def test_a_full_disk_keeps_its_own_error(tmp_path, monkeypatch):
    def full(**options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(OSError, match="No space left"):
        create_folder(tmp_path, "--tables")
