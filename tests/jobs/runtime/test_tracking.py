"""MLflow: one run across restarts with its true status, and no server trouble that costs work."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from jobs.runtime import tracking
from tests.processes import PATIENCE, wait_until


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for local stores; making one takes seconds, so the tests share it."""
    return tmp_path_factory.mktemp("store")


def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def read(run: tracking.Run) -> Any:
    return client(run.uri).get_run(run.id)


def test_what_is_logged_can_be_read_back(store: Path, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<p>all is well</p>")
    with tracking.start("curate", config={"input": "x", "limit": None}, beside=store) as parent:
        pass
    with tracking.start("train", config={"lr": 1e-4, "steps": 3}, beside=store, parent=parent.id) as run:
        for step in (1, 2, 3):
            run.log_metrics({"loss": 1 / step}, step=step)
        run.log_artifact(tmp_path / "report.html")
        run.log_text("hello", "notes.txt")
        run.log_dataset("s3://key:secret@bucket/tables", 7, "training")
    found = read(run)
    assert found.info.status == "FINISHED"
    assert (found.data.params["lr"], found.data.params["steps"]) == ("0.0001", "3")
    assert found.data.tags["mlflow.parentRunId"] == parent.id
    assert found.data.tags["data_version"] == "7"
    assert [point.value for point in client(run.uri).get_metric_history(run.id, "loss")] == [1.0, 0.5, 1 / 3]
    assert {each.path for each in client(run.uri).list_artifacts(run.id)} == {"report.html", "notes.txt"}
    (data,) = found.inputs.dataset_inputs
    assert (data.dataset.digest, json.loads(data.dataset.source)["version"]) == ("7", 7)
    assert "secret" not in str(found.to_dictionary())


def test_secrets_are_masked(store: Path) -> None:
    config = {"hub_token": "abc", "address": "https://me:hidden@host/x", "max_tokens": 16}
    with tracking.start("curate", config=config, beside=store) as run:
        pass
    params = read(run).data.params
    assert params == {"hub_token": "***", "address": "https://host/x", "max_tokens": "16"}


def test_a_restart_is_the_same_run_and_says_what_changed(store: Path, tmp_path: Path) -> None:
    resume = tmp_path / "mlflow.json"
    with (
        pytest.raises(RuntimeError),
        tracking.start("train", config={"steps": 5, "lr": 1}, beside=store, resume=resume) as first,
    ):
        raise RuntimeError("a bug")
    assert read(first).info.status == "FAILED"
    with tracking.start("train", config={"steps": 9, "lr": 1}, beside=store, resume=resume) as second:
        assert read(second).info.status == "RUNNING"
    assert second.id == first.id
    found = read(second)
    assert found.info.status == "FINISHED"
    assert found.data.params["steps"] == "5"
    assert found.data.tags["changed.steps"] == "9"
    assert "changed.lr" not in found.data.tags


def test_a_good_end_is_forgotten_where_the_next_command_is_another_run(store: Path, tmp_path: Path) -> None:
    resume = tmp_path / "mlflow.json"
    with (
        pytest.raises(RuntimeError),
        tracking.start("refresh", config={}, beside=store, resume=resume, forget=True) as killed,
    ):
        raise RuntimeError("a bug")
    with tracking.start("refresh", config={}, beside=store, resume=resume, forget=True) as finished:
        pass
    with tracking.start("refresh", config={}, beside=store, resume=resume, forget=True) as following:
        pass
    assert finished.id == killed.id
    assert following.id != finished.id


def test_a_terminated_command_is_a_killed_run(store: Path, tmp_path: Path) -> None:
    program = (
        "import sys, time; from jobs.runtime import tracking\n"
        f"with tracking.start('train', config={{}}, beside={str(store)!r}) as run:\n"
        "    print(run.uri, run.id, flush=True); time.sleep(3600)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    uri, run_id = process.stdout.readline().split()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=PATIENCE) == 128 + signal.SIGTERM
    assert client(uri).get_run(run_id).info.status == "KILLED"


Server = tuple[str, subprocess.Popen[bytes]]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """All servers that this module started; `server` adds one where there is none or the last one was killed."""
    started: list[Server] = []
    yield started
    for _, process in started:
        _kill(process)


@pytest.fixture
def server(servers: list[Server], tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A real `mlflow server` on this machine, shared by tests as long as none kills it: it takes a while to start."""
    if not servers or servers[-1][1].poll() is not None:
        servers.append(_start_server(tmp_path_factory.mktemp("server")))
    return servers[-1]


def _start_server(folder: Path) -> Server:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=folder)

    def is_ready() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        return _answers(f"http://127.0.0.1:{port}/health")

    try:
        wait_until(is_ready, "the MLflow server did not start")
    except BaseException:
        _kill(process)
        raise
    return f"http://127.0.0.1:{port}", process


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


@contextlib.contextmanager
def _hanging_up() -> Iterator[tuple[int, list[object]]]:
    """A port on which every connection is closed at once, and the connections so far."""
    connections: list[object] = []

    class HangUp(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            connections.append(self.client_address)

    with socketserver.TCPServer(("127.0.0.1", 0), HangUp) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        yield listener.server_address[1], connections
        listener.shutdown()


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_server_keeps_all_of_a_run_and_its_restart(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, _ = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # its first answer takes long on a busy machine
    (tmp_path / "sheet").mkdir()
    (tmp_path / "sheet" / "a.txt").write_text("hello")
    resume = tmp_path / "run" / "mlflow.json"
    config = {"lr": 0.1, "token": "abc"}
    settings: Any = {"beside": tmp_path, "parent": "cafe", "resume": resume}
    with contextlib.suppress(KeyboardInterrupt), tracking.start("train", config=config, **settings) as first:
        first.log_metrics({"loss": 1.0}, step=1)
        raise KeyboardInterrupt  # what Ctrl-C gives; the signal itself is ignored where tests run in the background
    assert read(first).info.status == "KILLED"
    with tracking.start("train", config={"lr": 0.1}, **settings) as second:
        second.log_metrics({"loss": 0.5}, step=2)
        second.log_dataset("s3://key:hidden@bucket/tables", 7, "training")
        second.log_artifact(tmp_path / "sheet", "pictures")
    assert (second.uri, second.id) == (address, first.id)
    found = read(second)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"lr": "0.1", "token": "***"}
    assert found.data.tags["mlflow.parentRunId"] == "cafe"
    history = client(address).get_metric_history(second.id, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 0.5)]
    (data,) = found.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("examples", "7")
    assert json.loads(data.dataset.source) == {"uri": "s3://bucket/tables", "version": 7}
    assert [(tag.key, tag.value) for tag in data.tags] == [("mlflow.data.context", "training")]
    copy = client(address).download_artifacts(second.id, "pictures/a.txt", str(tmp_path))
    assert Path(copy).read_text() == "hello"
    assert not (tmp_path / "mlflow.db").exists()


def test_a_server_gets_the_run_and_its_death_costs_nothing(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    address, process = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with tracking.start("curate", config={"input": "x"}, beside=tmp_path) as run:
        run.log_metrics({"clips": 3})
        run.log_text("hello", "notes.txt")
    assert run.uri == address
    found = read(run)
    assert (found.info.status, found.data.metrics["clips"]) == ("FINISHED", 3)
    assert [each.path for each in client(address).list_artifacts(run.id)] == ["notes.txt"]
    assert not (tmp_path / "mlflow.db").exists()

    with tracking.start("train", config={}, beside=tmp_path) as run:
        _kill(process)
        run.log_metrics({"loss": 1.0})
        run.log_metrics({"loss": 0.5})
    said = capsys.readouterr().err
    assert said.count("nova: warning") == 1
    assert "rejects entries" in said


def test_a_server_that_is_down_is_replaced_by_the_local_store(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with _hanging_up() as (port, connections):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:hidden@127.0.0.1:{port}")
        with tracking.start("train", config={}, beside=store) as run:
            run.log_metrics({"loss": 1.0})
    assert 1 <= len(connections) <= 4, "many attempts take minutes: MLflow waits longer before each"
    said = capsys.readouterr().err
    assert f"sqlite:///{store}/mlflow.db" in said
    assert "hidden" not in said
    assert run.uri == f"sqlite:///{store}/mlflow.db"
    assert read(run).info.status == "FINISHED"


def test_another_process_writes_to_the_same_run(store: Path) -> None:
    with tracking.start("train", config={}, beside=store) as run:
        tracking.attach(run.handle()).log_metrics({"loss": 2.0}, step=4)
    assert read(run).data.metrics["loss"] == 2.0


def test_children_are_kept_with_their_parent(store: Path, tmp_path: Path) -> None:
    with (
        tracking.start("demo", config={}, beside=store) as parent,
        tracking.stored_with(parent),
        tracking.start("generate", config={}, beside=tmp_path, parent=parent.id) as child,
    ):
        pass
    assert child.uri == parent.uri
    assert read(child).data.tags["mlflow.parentRunId"] == parent.id
    assert "MLFLOW_TRACKING_URI" not in os.environ


@pytest.mark.parametrize(
    ("error", "status"),
    [(KeyboardInterrupt(), "KILLED"), (SystemExit(2), "FAILED"), (ValueError("a user's mistake"), "FAILED")],
)
def test_what_ends_a_command_is_its_status(error: BaseException, status: str, store: Path) -> None:
    with pytest.raises(type(error)), tracking.start("train", config={}, beside=store) as run:
        raise error
    assert read(run).info.status == status
    assert read(run).info.end_time >= read(run).info.start_time


def test_a_command_that_was_killed_outright_goes_on_as_the_same_run(store: Path, tmp_path: Path) -> None:
    resume = tmp_path / "run" / "mlflow.json"
    program = (
        "import os, signal; from jobs.runtime import tracking; from pathlib import Path\n"
        f"with tracking.start('train', config={{}}, beside={str(store)!r}, resume=Path({str(resume)!r})) as run:\n"
        "    run.log_metrics({'loss': 2.0}, step=1); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", program], check=False)
    assert ended.returncode == -signal.SIGKILL
    killed = json.loads(resume.read_text())["run_id"]
    assert client(f"sqlite:///{store}/mlflow.db").get_run(killed).info.status == "RUNNING"
    with tracking.start("train", config={}, beside=store, resume=resume) as run:
        run.log_metrics({"loss": 1.0}, step=2)
    assert run.id == killed
    assert read(run).info.status == "FINISHED"
    assert [point.step for point in client(run.uri).get_metric_history(run.id, "loss")] == [1, 2]
    assert [path.name for path in resume.parent.iterdir()] == ["mlflow.json"]


def test_a_run_that_the_store_no_longer_knows_begins_anew(store: Path, tmp_path: Path) -> None:
    resume = tmp_path / "mlflow.json"
    uri = f"sqlite:///{store}/mlflow.db"
    resume.write_text(json.dumps({"uri": uri, "run_id": "0" * 32}))
    with tracking.start("train", config={"lr": 1}, beside=store, resume=resume) as run:
        pass
    assert (read(run).info.status, read(run).data.params) == ("FINISHED", {"lr": "1"})
    stored = json.loads(resume.read_text())
    assert (stored["uri"], stored["run_id"]) == (uri, run.id)


@pytest.mark.odd_input(
    "Runs", "MLflow's experiment was deleted", "Runs go into a new one, `nova-2`; what was deleted stays deleted."
)
def test_a_deleted_experiment_is_followed_by_another(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with tracking.start("train", config={}, beside=store) as before:
        pass
    deleted = read(before).info.experiment_id
    client(before.uri).delete_experiment(deleted)
    try:
        with tracking.start("train", config={}, beside=store) as run:
            run.log_metrics({"loss": 1.0})
        assert read(run).data.metrics == {"loss": 1.0}
        assert client(run.uri).get_experiment(read(run).info.experiment_id).name == "nova-2"
        assert "experiment 'nova' was deleted; this run belongs to 'nova-2'" in capsys.readouterr().err
    finally:
        client(before.uri).restore_experiment(deleted)


@pytest.mark.odd_input(
    "Runs",
    "MLflow's local database is damaged, outdated or cannot be written",
    "The run goes on; one line says where it is kept.",
)
def test_a_damaged_store_is_left_alone_and_replaced(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 100)
    # A store that exists, as creating one takes seconds.
    (tmp_path / "mlflow-2.db").write_bytes((store / "mlflow.db").read_bytes())
    with tracking.start("train", config={"lr": 1}, beside=tmp_path) as run:
        pass
    assert run.uri == f"sqlite:///{tmp_path}/mlflow-2.db"
    assert (read(run).info.status, read(run).data.params) == ("FINISHED", {"lr": "1"})
    assert (tmp_path / "mlflow.db").read_bytes() == b"no database" * 100
    (warning,) = capsys.readouterr().err.splitlines()
    assert "file is not a database" in warning
    assert warning.endswith(f"this run is kept in {run.uri} instead")
    # The store is a copy, whose experiment names the artifacts of the original.
    assert read(run).info.artifact_uri.startswith((tmp_path / "mlartifacts").as_uri())


def test_without_any_store_the_work_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    with tracking.start("train", config={"lr": 1}, beside=tmp_path / "file") as run, tracking.stored_with(run):
        assert "MLFLOW_TRACKING_URI" not in os.environ
        run.log_metrics({"loss": 1.0})
        run.log_artifact(tmp_path / "file")
        run.set_tags({"a": "b"})
        tracking.attach(run.handle()).log_text("text", "name")
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.endswith("this run is not recorded")
    assert run.hint == "not recorded"


def test_the_store_lies_in_an_output_whose_parent_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracking.store_folder("/") == Path("/")
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != "/")
    assert tracking.store_folder("/tmp") == Path("/tmp")
    assert tracking.store_folder("/tmp/run") == Path("/tmp")
    assert tracking.store_folder("s3://bucket/tables") == Path.cwd()


def test_a_run_of_another_store_is_not_taken_for_one_of_this(store: Path, tmp_path: Path) -> None:
    resume = tmp_path / "mlflow.json"
    with tracking.start("train", config={}, beside=store) as other:
        pass
    resume.write_text(json.dumps({"uri": "http://elsewhere:5000", "run_id": other.id}))
    with tracking.start("train", config={}, beside=store, resume=resume) as run:
        pass
    assert run.id != other.id


def test_many_long_and_odd_settings_and_numbers_are_kept(store: Path) -> None:
    config = {**{f"setting.{index}": index for index in range(230)}, "long": "x" * 9000, "none": None, "flags": (1, 2)}
    with tracking.start("train", config=config, beside=store) as run:
        run.log_metrics({"grad norm/p=0.5@end": 2.0, "bad": float("nan")}, step=3)
        run.log_metrics({"clips": 7})
    found = read(run)
    assert len(found.data.params) == 233
    assert found.data.params["setting.229"] == "229"
    assert found.data.params["long"] == "x" * 500
    assert (found.data.params["none"], found.data.params["flags"]) == ("None", "(1, 2)")
    assert found.data.metrics["grad norm/p_0.5_end"] == 2.0
    assert found.data.metrics["bad"] != found.data.metrics["bad"]
    assert [point.step for point in client(run.uri).get_metric_history(run.id, "clips")] == [0]


@pytest.mark.parametrize("key", ["hub_token", "AWS_SECRET_ACCESS_KEY", "api_key", "apikey", "db.password"])
def test_whatever_looks_like_a_secret_is_masked(key: str) -> None:
    assert tracking._masked(key, "hidden") == "***"
    assert tracking._masked(key, None) == "None"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("s3://key:hidden@bucket/tables", "s3://bucket/tables"),
        ("postgresql://me:hidden@host:5432/db", "postgresql://host:5432/db"),
        (("a.mp4", "s3://key:hidden@bucket/b"), "('a.mp4', 's3://bucket/b')"),
        ("https://host/user@example.org", "https://host/user@example.org"),  # no credentials: behind the host
        ("s3://bucket/tables", "s3://bucket/tables"),
        ("cut \ud83d\0", "cut \ufffd "),
    ],
)
def test_credentials_in_addresses_are_left_out(value: object, shown: str) -> None:
    assert tracking._masked("input", value) == shown


def test_a_figure_and_files_lie_beside_the_local_store(store: Path, tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    (tmp_path / "notes.txt").write_text("hello")
    with tracking.start("evaluate", config={}, beside=store) as run:
        run.log_figure(Figure(), "plots/loss.png")
        run.log_artifact(tmp_path / "notes.txt", "texts")
    files = {path.name: path for path in (store / "mlartifacts").glob(f"{run.id}/**/*") if path.is_file()}
    assert set(files) == {"loss.png", "notes.txt"}
    assert files["loss.png"].read_bytes().startswith(b"\x89PNG")
    assert files["notes.txt"].parent.name == "texts"


def test_what_cannot_be_logged_is_said_once_and_costs_nothing(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tracking.start("train", config={}, beside=store) as run:
        run.log_artifact(tmp_path / "gone.html")
        run.log_artifact(tmp_path / "gone too.html")
        run.log_metrics({"loss": 1.0})
    assert capsys.readouterr().err.count("nova: warning") == 1
    assert (read(run).info.status, read(run).data.metrics) == ("FINISHED", {"loss": 1.0})


def test_commands_of_one_store_share_an_experiment(store: Path) -> None:
    with (
        tracking.start("curate", config={}, beside=store) as one,
        tracking.start("train", config={}, beside=store) as two,
    ):
        pass
    assert read(one).info.experiment_id == read(two).info.experiment_id
    assert client(one.uri).get_experiment(read(one).info.experiment_id).name == "nova"
    assert [read(run).info.run_name for run in (one, two)] == ["curate", "train"]


def test_the_signal_is_given_back_and_a_thread_may_start_a_run(store: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with tracking.start("train", config={}, beside=store):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
    runs: list[tracking.Run] = []

    def work() -> None:
        with tracking.start("train", config={}, beside=store) as run:
            runs.append(run)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert read(runs[0]).info.status == "FINISHED"


def test_the_hint_shows_no_credentials(store: Path) -> None:
    run = tracking.attach(tracking.Handle("http://me:hidden@mlflow:5000", "0" * 32))
    assert run.hint == "http://mlflow:5000"
    local = tracking.attach(tracking.Handle(f"sqlite:///{store}/mlflow.db", "0" * 32))
    assert local.hint == f"mlflow ui --backend-store-uri sqlite:///{store}/mlflow.db"
