"""Folders of a local Ray: where the usual ones cannot be used, others are, before Ray starts."""

import os

import pytest

from jobs.runtime import ray_folders


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("RAY_TMPDIR", "TMPDIR", *ray_folders.TOKEN_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    yield
    for name in ("RAY_TMPDIR", "RAY_AUTH_TOKEN"):  # what `prepare` set
        os.environ.pop(name, None)


@pytest.mark.odd_input(
    "Names and places", "A TMPDIR that is too long for sockets, or cannot be written", "Ray uses another short folder."
)
def test_a_long_temporary_folder_is_replaced(tmp_path, monkeypatch):
    short = tmp_path / "s"
    monkeypatch.setattr(ray_folders, "SHORT_FOLDERS", (str(short),))
    monkeypatch.setattr(ray_folders, "SOCKET_BYTES", len(f"{short}{ray_folders.SOCKET}"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "longer"))
    ray_folders.prepare()
    assert os.environ["RAY_TMPDIR"] == str(short)


def test_a_short_temporary_folder_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_folders, "SOCKET_BYTES", 1000)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    ray_folders.prepare()
    assert "RAY_TMPDIR" not in os.environ


def test_the_limit_is_that_of_a_socket():
    assert ray_folders._is_short("/" + "x" * (ray_folders.SOCKET_BYTES - len(ray_folders.SOCKET) - 1))
    assert not ray_folders._is_short("/" + "x" * (ray_folders.SOCKET_BYTES - len(ray_folders.SOCKET)))


def test_without_any_folder_it_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(ray_folders, "SHORT_FOLDERS", (str(tmp_path / "file"),))
    with pytest.raises(ValueError, match="set RAY_TMPDIR to a short folder"):
        ray_folders.prepare()


@pytest.mark.odd_input(
    "Names and places", "A HOME that is missing or cannot be written", "Ray's token stays in memory, caches in TMPDIR."
)
def test_without_a_home_the_token_stays_in_memory(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "home"))
    ray_folders.prepare()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("HOME", str(tmp_path))
    ray_folders.prepare()
    assert "RAY_AUTH_TOKEN" not in os.environ
