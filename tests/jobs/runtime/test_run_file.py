"""The MLflow run of a folder: kept across restarts and renames, and never shared with a copy."""

import json
import shutil

import pytest

from jobs.runtime.run_file import recall, remember

STORE = "http://server:5000"


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    remember(tmp_path / "run" / "mlflow.json", uri=STORE, run_id="abc")
    return tmp_path / "run"


def test_a_restart_and_a_renamed_folder_keep_their_run(run):
    assert recall(run / "mlflow.json", uri=STORE) == "abc"
    assert recall(run / "mlflow.json", uri="http://other:5000") is None
    renamed = run.rename(run.with_name("renamed"))
    assert recall(renamed / "mlflow.json", uri=STORE) == "abc"


@pytest.mark.odd_input(
    "Moved and changed data",
    "A copy of a run's folder",
    "It gets an MLflow run of its own; a renamed one keeps its run.",
)
def test_a_copied_folder_is_another_run(run):
    copy = run.with_name("copy")
    shutil.copytree(run, copy)
    assert recall(copy / "mlflow.json", uri=STORE) is None
    assert recall(run / "mlflow.json", uri=STORE) == "abc"


def test_a_linked_folder_is_the_same(run):
    link = run.with_name("link")
    link.symlink_to(run)
    assert recall(link / "mlflow.json", uri=STORE) == "abc"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"uri": "http://server:5000"}'])
def test_a_damaged_file_is_forgotten(run, text):
    (run / "mlflow.json").write_text(text)
    assert recall(run / "mlflow.json", uri=STORE) is None


def test_files_of_version_0_1_go_on(run):
    (run / "mlflow.json").write_text(json.dumps({"uri": "sqlite:////a b/mlflow.db", "run_id": "abc"}))
    assert recall(run / "mlflow.json", uri="sqlite:////a%20b/mlflow.db") == "abc"
