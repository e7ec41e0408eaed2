"""`nova submit` against a real Ray cluster with tokens: logs, exit statuses, names, and what it says when it cannot."""

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from jobs import submit
from tests.conftest import SHARED
from tests.processes import PATIENCE, wait_until

ROOT = Path(__file__).parents[2]
JOINS = """
import json
from jobs.runtime.cluster import connect
print("resources", json.dumps(connect()))
"""


@dataclass(frozen=True)
class Cluster:
    """A running cluster; its token is needed for everything but the metrics."""

    address: str
    token: str

    def begin(self, *arguments: str, **variables: str) -> subprocess.Popen:
        """Starts `nova submit` as a user would, with the token unless `variables` take it away."""
        known = {name: value for name, value in os.environ.items() if not name.startswith("RAY_A")}
        environment = known | {"RAY_AUTH_TOKEN": self.token} | variables
        command = [sys.executable, "-m", "jobs.cli", "submit", *arguments]
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
        return _finish(self.begin(*arguments, **variables))


def _finish(process: subprocess.Popen) -> subprocess.CompletedProcess:
    out, err = process.communicate(timeout=PATIENCE)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture(scope="module")
def cluster():
    """`ray start --head` on free ports in a session of its own, so that it ends without touching another Ray."""
    ports = dict(zip(("gcs", "dashboard", "agent", "client"), _free_ports(4), strict=True))
    token = secrets.token_hex(32)
    folder = tempfile.mkdtemp(prefix="nova-ray-", dir="/tmp")  # sockets allow short paths only
    tools = Path(sys.executable).parent
    process = subprocess.Popen(
        [
            tools / "ray", "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=2", "--num-gpus=0",
            f"--port={ports['gcs']}", "--dashboard-host=127.0.0.1", f"--dashboard-port={ports['dashboard']}",
            f"--dashboard-agent-listen-port={ports['agent']}", f"--ray-client-server-port={ports['client']}",
            f"--object-store-memory={128 * 2**20}", f"--temp-dir={folder}", '--resources={"this_cluster": 1}',
        ],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("RAY_A")}
        | {"PATH": f"{tools}:{os.environ['PATH']}", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        address = f"http://127.0.0.1:{ports['dashboard']}"
        _wait_for(f"{address}/api/version", token, process)
        yield Cluster(address, token)
    finally:
        _stop(process)
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(count):
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in opened:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in opened]


def _wait_for(url, token, process):
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})

    def answers():
        assert process.poll() is None, "ray start has ended"
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=5):
            return True
        return False

    wait_until(answers, "the Ray cluster did not start")


def _stop(process):
    """Asks Ray to end, then kills whatever is left of its session: its workers have process groups of their own."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(20)
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(int(each.name)) == process.pid:
                os.kill(int(each.name), signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def sent(cluster):
    """Three jobs at once, as each takes a while to start: one succeeds, one fails, one joins Ray."""
    from ray.job_submission import JobSubmissionClient

    client = JobSubmissionClient(cluster.address, headers={"Authorization": f"Bearer {cluster.token}"})
    config = submit.SubmitConfig(address=cluster.address, env=("NOVA_TEST=1",))
    joining = client.submit_job(entrypoint=f"{sys.executable} -c '{JOINS}'", runtime_env=dict(config.runtime_env()))
    succeeding = cluster.begin("--address", cluster.address, "--env", "NOVA_TEST=1", "generate", "--help")
    failing = cluster.begin("curate", "--address", cluster.address, "--submission-id", "no-input")
    return SimpleNamespace(
        client=client, joining=joining, succeeded=_finish(succeeding), failed=_finish(failing)
    )  # fmt: skip


def test_a_job_shows_its_log_and_succeeds(cluster, sent):
    done = sent.succeeded
    assert done.returncode == 0, done.stderr
    assert "usage: nova generate" in done.stdout
    assert "started raysubmit_" in done.stderr
    assert cluster.token not in done.stdout + done.stderr


def test_a_failing_command_gives_its_own_exit_status(sent):
    assert sent.failed.returncode == 2
    assert "nova: error: --input is missing" in sent.failed.stdout
    assert "no-input failed with exit status 2" in sent.failed.stderr


def test_a_name_is_run_once_and_means_one_command(cluster, sent):
    again = cluster.begin("--address", cluster.address, "--submission-id", "no-input", "curate")
    other = cluster.begin("--address", cluster.address, "--submission-id", "no-input", "train")
    again, other = _finish(again), _finish(other)
    assert again.returncode == 2
    assert "followed, not started again" in again.stderr
    assert again.stdout == sent.failed.stdout  # one log of one run
    assert other.returncode == 2
    assert "belongs to another command (python -m jobs.cli curate)" in other.stderr


def test_a_job_runs_on_the_cluster_that_it_was_sent_to(sent):
    """What `nova` does inside a job to find Ray: the cluster's own resources come back, not those of a new one."""
    wait_until(lambda: sent.client.get_job_status(sent.joining).is_terminal())
    assert '"this_cluster": 1.0' in sent.client.get_job_logs(sent.joining)
    assert sent.client.get_job_status(sent.joining) == "SUCCEEDED"


def test_without_a_token_one_line_says_what_to_set(cluster):
    attempts = [cluster.begin("curate", "--address", cluster.address, RAY_AUTH_TOKEN=token) for token in ("", "wrong")]
    for refused in map(_finish, attempts):
        assert refused.returncode == 2
        assert refused.stderr.startswith("nova: error: the Ray cluster at http://127.0.0.1")
        assert "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN" in refused.stderr
        assert refused.stderr.count("\n") == 1


@pytest.mark.slow
def test_curate_runs_as_a_job(cluster, tmp_path):
    if not SHARED.is_dir():
        pytest.skip("the reference material (../shared) is not here")
    media = next(path for path in sorted((SHARED / "media").rglob("*")) if path.suffix in (".jpg", ".png"))
    done = cluster.run("curate", "--input", str(media), "--tables", str(tmp_path / "t"), "--address", cluster.address)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "t" / "examples" / "_delta_log").is_dir()


def test_an_unreachable_address_gives_one_line():
    (port,) = _free_ports(1)
    with pytest.raises(ValueError, match=r"no Ray dashboard answers at http://127\.0\.0\.1") as error:
        submit.main(["--address", f"http://user:hidden@127.0.0.1:{port}", "curate"])
    assert "ray start --head" in str(error.value)
    assert "hidden" not in str(error.value)


# What needs no cluster


def test_options_may_stand_before_or_behind_the_command():
    given = "--env A=1 B=2 --no-follow curate --env C=3 --input x --address=http://h:1 --set decide.low=2 --help"
    ours, command = submit.split(given.split())
    assert command == ["curate", "--input", "x", "--set", "decide.low=2", "--help"]
    config, only_print = submit.parse(ours)
    assert config == submit.SubmitConfig(address="http://h:1", env=("A=1", "B=2", "C=3"), follow=False)
    assert not only_print


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("crate --input x", "cannot send 'crate'; did you mean curate"),
        ("submit curate", "cannot send 'submit'"),
        ("--adress http://h:1 curate", "unknown option --adress.*did you mean --address"),
        ("--recipe demo curate", "write it after COMMAND"),
        ("curate --address", "--address needs a value"),
        ("--set adress=http://h:1 curate", "did you mean address"),
        ("", "COMMAND is missing"),
    ],
)
def test_wrong_use_names_the_remedy_before_anything_is_sent(given, message):
    with pytest.raises(ValueError, match=message):
        submit.main(given.split())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("address", "ray://h:10001", "give the cluster's dashboard, as in http://HOST:8265"),
        ("address", "h:8265", "give the cluster's dashboard"),
        ("working_dir", "/no/such/folder", "/no/such/folder is not a folder"),
        ("env", ("TOKEN hidden",), "write KEY=VALUE"),
    ],
)
def test_values_are_checked(field, value, message):
    with pytest.raises(ValueError, match=message) as error:
        submit.SubmitConfig(**{field: value})
    assert "hidden" not in str(error.value)


def test_print_config_hides_values_of_the_environment(capsys):
    assert submit.main("--print-config --env TOKEN=hidden --address http://user:hidden@h:1".split()) == 0
    printed = capsys.readouterr().out
    assert "address=http://h:1" in printed
    assert "env=TOKEN=***" in printed
    assert "hidden" not in printed


def test_the_address_comes_from_the_environment_only_where_it_is_a_dashboard(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    assert submit.SubmitConfig().address == "http://127.0.0.1:8265"
    monkeypatch.setenv("RAY_ADDRESS", "http://10.0.0.1:8265")
    assert submit.SubmitConfig().address == "http://10.0.0.1:8265"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "https://ray.example")
    assert submit.SubmitConfig().address == "https://ray.example"


def test_the_job_gets_the_tracking_server_and_what_env_says(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert submit.SubmitConfig().runtime_env() == {"env_vars": {"MLFLOW_TRACKING_URI": "http://mlflow:5000"}}
    chosen = submit.SubmitConfig(env=("MLFLOW_TRACKING_URI=http://other:1", "A=b=c"), working_dir=str(ROOT))
    assert chosen.runtime_env() == {
        "env_vars": {"MLFLOW_TRACKING_URI": "http://other:1", "A": "b=c"},
        "working_dir": str(ROOT),
    }
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert submit.SubmitConfig().runtime_env() == {}


class Server:
    """A job server whose connection breaks after `cuts` pieces of the log, once each; the log starts over each time."""

    def __init__(self, log, status="SUCCEEDED", code=0, cuts=(), missing=False):
        self.log, self.status, self.code, self.cuts, self.missing = log, status, code, list(cuts), missing

    async def tail_job_logs(self, job):
        if self.missing:
            raise RuntimeError(f"Request failed with status code 404: Job {job} does not exist.")
        for number, piece in enumerate(self.log):
            if self.cuts and number == self.cuts[0]:
                self.cuts.pop(0)
                raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")
            yield piece
            await asyncio.sleep(0)

    def get_job_info(self, job):
        running = self.cuts or self.missing
        status = SimpleNamespace(value=self.status, is_terminal=lambda: not running)
        return SimpleNamespace(status=status, driver_exit_code=self.code, message="setting up failed: A=hidden\nmore")


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 2, 2),
        ("FAILED", -9, 137),
        ("FAILED", None, 1),
        ("STOPPED", None, 1),
    ],
)
def test_a_broken_connection_is_taken_up_where_it_broke(monkeypatch, capsys, status, code, expected):
    monkeypatch.setattr(submit, "RETRY_SECONDS", 0)
    server = Server(["a\n", "b\nc\n", "d\n"], status, code, cuts=(1, 2, 2))
    config = submit.SubmitConfig(address="http://h:1", env=("A=hidden",))
    assert submit.follow(server, config, "job") == expected
    printed = capsys.readouterr()
    assert printed.out == "a\nb\nc\nd\n"
    assert "lost the connection" in printed.err
    assert "hidden" not in printed.err


def test_a_log_gone_silent_is_asked_for_anew(monkeypatch, capsys):
    monkeypatch.setattr(submit, "RETRY_SECONDS", 0)
    monkeypatch.setattr(submit, "QUIET_SECONDS", 0.05)
    server = Server(["a\n", "b\n"])
    calls = []

    async def silent_at_first(job):
        calls.append(job)
        yield "a\n"
        if len(calls) == 1:
            server.cuts = [1]  # still running
            await asyncio.sleep(60)
        server.cuts = []
        yield "b\n"

    server.tail_job_logs = silent_at_first
    assert submit.follow(server, submit.SubmitConfig(address="http://h:1"), "job") == 0
    assert capsys.readouterr().out == "a\nb\n"
    assert len(calls) == 2


def test_a_connection_that_breaks_while_sending_gives_one_line():
    def broken(**_):
        raise requests.ConnectionError("Connection aborted")

    config = submit.SubmitConfig(address="http://h:1", env=("A=hidden",))
    with pytest.raises(ValueError, match="send it again, with a --submission-id"):
        submit.start(SimpleNamespace(submit_job=broken), config, "python -m jobs.cli curate")


def test_a_refusal_by_the_cluster_hides_the_environment():
    def refused(**_):
        raise RuntimeError(
            "Request failed with status code 500: Traceback\nValueError: bad runtime_env {'A': 'hidden'}"
        )

    config = submit.SubmitConfig(address="http://h:1", env=("A=hidden",))
    with pytest.raises(ValueError, match="does not take the job: ValueError: bad runtime_env") as error:
        submit.start(SimpleNamespace(submit_job=refused), config, "python -m jobs.cli curate")
    assert "hidden" not in str(error.value)


def test_a_cluster_that_was_replaced_ends_the_following(capsys):
    assert submit.follow(Server([], missing=True), submit.SubmitConfig(address="http://h:1"), "job") == 1
    assert "has no such job any more" in capsys.readouterr().err


def test_ctrl_c_leaves_the_job_running_and_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(submit, "connect", lambda config: None)
    monkeypatch.setattr(submit, "start", lambda client, config, entrypoint: "job-1")
    monkeypatch.setattr(submit, "follow", interrupted)
    assert submit.main(["curate", "--address", "http://h:1"]) == 130
    said = capsys.readouterr().err
    assert "ray job logs --follow job-1 --address http://h:1" in said
    assert "ray job stop job-1 --address http://h:1" in said


def test_the_command_reaches_the_shell_unharmed(monkeypatch):
    sent = []
    monkeypatch.setattr(submit, "connect", lambda config: None)
    monkeypatch.setattr(submit, "start", lambda client, config, entrypoint: sent.append(entrypoint) or "job-1")
    assert submit.main(["--no-follow", "generate", "--prompt", "a cat's $HOME; rm *", "--output", "x y"]) == 0
    assert sent == ["""python -m jobs.cli generate --prompt 'a cat'"'"'s $HOME; rm *' --output 'x y'"""]
