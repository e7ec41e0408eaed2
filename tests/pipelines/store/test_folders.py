"""A folder with other files is refused, and one that the command wrote before is accepted."""

import pytest

from pipelines.store.folders import check_output_folder


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
