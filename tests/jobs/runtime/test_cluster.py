"""Joining a cluster: an address where nothing listens is an error at once, before anything is written."""

import socket
from pathlib import Path

import pytest

from jobs import cli
from jobs.runtime import cluster


@pytest.fixture
def port():
    """A port that nothing listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_a_dead_address_is_an_error_at_once(port, form, monkeypatch):
    with pytest.raises(ValueError, match=f"no Ray cluster at {form.format(port)} .*leave --address out"):
        cluster.check(form.format(port))
    monkeypatch.setenv("RAY_ADDRESS", form.format(port))
    with pytest.raises(ValueError, match="no Ray cluster at"):
        cluster.check()


def test_no_address_and_names_for_one_pass(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for address in (None, "", "auto", "local"):
        cluster.check(address)


def test_something_that_listens_passes():
    with socket.create_server(("127.0.0.1", 0)) as server:
        cluster.check(f"127.0.0.1:{server.getsockname()[1]}")


@pytest.mark.parametrize("command", ["curate", "train", "generate", "evaluate", "refresh", "demo"])
def test_every_command_connects_before_it_writes_anything(command, port, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    options = {
        "curate": ["--input", "in", "--tables", "out"],
        "train": ["--tables", "in", "--run", "out"],
        "generate": ["--checkpoint", "in", "--prompt", "x", "--output", "out"],
        "evaluate": ["--samples", "in", "--output", "out"],
        "refresh": ["--input", "in", "--tables", "out"],
        "demo": ["--output", "out"],
    }[command]
    with pytest.raises(SystemExit) as end:
        cli.main([command, *options, "--address", f"127.0.0.1:{port}"])
    assert end.value.code == 2
    assert f"no Ray cluster at 127.0.0.1:{port}" in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == ["in"]


def test_ray_is_started_again_after_a_slow_start(monkeypatch):
    import ray

    calls = []

    def slow(**settings):
        calls.append(settings)
        if len(calls) < 2:
            raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", slow)
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("shut down"))
    cluster._start_here()
    assert [call == "shut down" for call in calls] == [False, True, False]


def test_another_failure_of_ray_is_not_tried_again(monkeypatch):
    import ray

    def broken(**settings):
        raise RuntimeError("no memory")

    monkeypatch.setattr(ray, "init", broken)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(RuntimeError, match="no memory"):
        cluster._start_here()
