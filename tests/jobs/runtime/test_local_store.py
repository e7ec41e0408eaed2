"""MLflow's store in a file: any path has an address that leads to it, and what cannot be used is an error at once."""

import sqlite3
from pathlib import Path

import pytest

from jobs.runtime import local_store


@pytest.mark.odd_input(
    "Names and places",
    "`%20`, `?`, `#` or `%` in the path of MLflow's store",
    "The store is kept under just this path.",
)
@pytest.mark.parametrize("name", ["plain", "a b", "a%20b", "what?", "no#1", "100%", "[x]", "a+b", "é"])
def test_an_address_leads_to_its_file(name):
    file = Path("/work") / name / "mlflow.db"
    assert local_store.file_of(local_store.address(file)) == file


def test_a_plain_path_and_a_server_stay_as_they_are():
    assert local_store.address(Path("/work/mlflow.db")) == "sqlite:////work/mlflow.db"
    assert local_store.file_of("http://server:5000") is None
    local_store.check("http://server:5000")


def test_a_damaged_file_is_an_error_and_stays_as_it_is(tmp_path):
    file = tmp_path / "mlflow.db"
    file.write_bytes(b"no database " * 100)
    with pytest.raises(sqlite3.DatabaseError):
        local_store.check(local_store.address(file))
    assert file.read_bytes() == b"no database " * 100


def test_a_place_below_a_file_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        local_store.check(local_store.address(tmp_path / "file" / "mlflow.db"))
