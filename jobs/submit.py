"""`nova submit`: sends a nova command to a running Ray cluster as a Ray job and follows it.

    nova submit curate --recipe debug --input /data/photos --tables /data/tables --address http://HOST:8265

The command runs on the cluster's head node, where the project is installed (`infra/docker` builds such an image),
and reads and writes what that machine sees. It finds its cluster through RAY_ADDRESS, which Ray sets inside a job.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from jobs import settings
from jobs.cli import COMMANDS, take_common
from jobs.settings import nearest

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

LOCAL_DASHBOARD = "http://127.0.0.1:8265"
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
# The tracking server is the same for everyone; secrets such as AWS keys stay out, since the dashboard shows the
# environment of every job.
PASSED_ON = ("MLFLOW_TRACKING_URI",)
TAKES_VALUE = ("--address", "--submission-id", "--working-dir")
SWITCHES = ("--follow", "--no-follow")
HELPERS = ("--help", "-h", "--print-config")

ANSWER_SECONDS = 10.0
"""Time limit for the dashboard's first answer."""
RETRY_SECONDS = 2.0
"""Pause before reconnecting."""
QUIET_SECONDS = 300.0
"""A log that is silent for this long is requested again: a connection can die without an error."""
LOST_SECONDS = 900.0
"""After this time without an answer the cluster is given up; the job itself may continue."""


def _default_address() -> str:
    values = (os.environ.get(name, "") for name in ADDRESS_VARIABLES)
    return next((value for value in values if value.startswith(("http://", "https://"))), LOCAL_DASHBOARD)


@dataclass(frozen=True, kw_only=True)
class SubmitConfig:
    """Sends a nova command to a Ray cluster as a job: nova submit [OPTIONS] COMMAND [OPTIONS OF THE COMMAND].

    COMMAND is any other nova command. The options below may stand before or after it; --help and --print-config after
    COMMAND belong to the command. Its paths are those of the cluster. Exits as the command does.

    Example: nova submit curate --recipe debug --input /data/photos --tables /data/tables --address http://HOST:8265
    """

    address: str = field(default_factory=_default_address)
    """Ray's dashboard, http://HOST:8265; by default RAY_API_SERVER_ADDRESS, else RAY_ADDRESS if that is http, else this
    machine. A cluster that asks for tokens needs RAY_AUTH_MODE=token and RAY_AUTH_TOKEN too."""
    submission_id: str | None = None
    """Name of the job. A job that exists under this name already is followed, not started a second time."""
    working_dir: str | None = None
    """Folder to upload and run in, to try code that is not installed on the cluster; none by default."""
    env: tuple[str, ...] = ()
    """KEY=VALUE for the job's environment, which everybody who sees the dashboard can read: no secrets here.
    MLFLOW_TRACKING_URI is passed on if it is set."""
    follow: bool = True
    """Show the job's log until it ends and exit with its status; otherwise print its name and stop."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"--address {self.shown_address}: give the cluster's dashboard, as in http://HOST:8265")
        for assignment in self.env:
            if not _is_assignment(assignment):
                raise ValueError("--env: write KEY=VALUE, as in --env LOGLEVEL=debug")
        if self.working_dir is not None and "://" not in self.working_dir and not Path(self.working_dir).is_dir():
            raise ValueError(f"--working-dir {self.working_dir} is not a folder")

    @property
    def shown_address(self) -> str:
        """The address without a user name and password."""
        return re.sub(r"//[^/@]*@", "//", self.address)

    def runtime_env(self) -> dict[str, object]:
        """Ray's runtime environment of the job; set here only, as Ray refuses a field that job and driver both set."""
        variables = {name: os.environ[name] for name in PASSED_ON if os.environ.get(name)}
        variables |= dict(assignment.split("=", 1) for assignment in self.env)
        chosen: dict[str, object] = {"env_vars": variables} if variables else {}
        return chosen | ({"working_dir": self.working_dir} if self.working_dir else {})


def main(argv: Sequence[str]) -> int:
    """Sends a command and follows it.

    Args:
        argv: arguments after `nova submit`.

    Returns:
        The command's exit status; 0 at once with --no-follow; 1 where the job ended without one; 130 after Ctrl-C.

    Raises:
        ValueError: wrong use, or a cluster that does not answer, asks for a token, or does not take the job.
    """
    own_options, command = split(argv)
    config, print_only = parse(own_options)
    if print_only:
        masked = tuple(f"{assignment.partition('=')[0]}=***" for assignment in config.env)
        print(settings.show(replace(config, address=config.shown_address, env=masked)))
        return 0
    if not command:
        raise ValueError("COMMAND is missing, as in: nova submit curate --input /data/photos --tables /data/tables")
    return submit(config, command)


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separates the options of submit from the command that is sent; does not look at what the command takes.

    Raises:
        ValueError: an unknown command or option of submit; the nearest is named.
    """
    sendable = [name for name in COMMANDS if name != "submit"]
    own_options: list[str] = []
    variables: list[str] = []
    command: list[str] = []
    # By hand, as a parser would have to know the options of all commands to tell where COMMAND's begin.
    waiting = list(argv)
    while waiting:
        argument = waiting.pop(0)
        name = argument.partition("=")[0].replace("_", "-")
        if name in (*TAKES_VALUE, *(() if command else ("--set",))):
            if argument == argument.partition("=")[0]:
                if not waiting:
                    raise ValueError(f"{name} needs a value")
                argument = f"{argument}={waiting.pop(0)}"
            own_options.append(f"{name}={argument.partition('=')[2]}")
        elif name == "--env":
            variables += [argument.partition("=")[2]] if "=" in argument else []
            while waiting and _is_assignment(waiting[0]):
                variables.append(waiting.pop(0))
        elif name in SWITCHES or (name in HELPERS and not command):
            own_options.append(name)
        elif command:
            command.append(argument)
        elif name == "--recipe":
            raise ValueError("--recipe belongs to the command: write it after COMMAND")
        elif argument.startswith("-"):
            options = [*TAKES_VALUE, "--env", *SWITCHES, *HELPERS]
            raise ValueError(f"unknown option {name} of nova submit{nearest(name, options)}")
        elif argument not in sendable:
            raise ValueError(f"nova submit cannot send {argument!r}{nearest(argument, sendable)}")
        else:
            command.append(argument)
    return [*own_options, *(["--env", *variables] if variables else [])], command


def parse(arguments: Sequence[str]) -> tuple[SubmitConfig, bool]:
    """The config, and whether it is only to be printed.

    Raises:
        ValueError: an unknown key, or a value that the config refuses.
    """
    invocation = take_common(arguments)
    flags = settings.to_flags(SubmitConfig(), invocation.assignments)
    return settings.parse(SubmitConfig, args=[*flags, *invocation.options], prog="nova submit"), invocation.print_config


def submit(config: SubmitConfig, command: Sequence[str]) -> int:
    """Starts the job, or finds the one that exists under its name, and follows it.

    Raises:
        ValueError: as `main`.
    """
    # `python` and no path: the interpreter is the cluster's, at a place that this machine does not know.
    entrypoint = shlex.join(["python", "-m", "jobs.cli", *command])
    client = connect(config)
    job = start(client, config, entrypoint)
    if not config.follow:
        print(job)
        return 0
    try:
        return follow(client, config, job)
    except KeyboardInterrupt:
        _say(f"stopped following; {job} continues; {_remedies(config, job)}")
        return 130


def connect(config: SubmitConfig) -> JobSubmissionClient:
    """A client of the cluster's job server.

    Raises:
        ValueError: nothing answers, what answers is no Ray dashboard, or a token is missing or wrong.
    """
    import requests

    where = config.shown_address
    try:  # Ray's own first request has no time limit
        requests.get(f"{config.address.rstrip('/')}/api/version", timeout=ANSWER_SECONDS)
    except requests.RequestException as error:
        raise ValueError(
            f"no Ray dashboard answers at {where} ({_root(error)}); start a cluster with `ray start --head`, or give "
            "its --address"
        ) from error
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # read once, when ray is imported
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        with _without(ADDRESS_VARIABLES):  # Ray prefers these variables to its argument
            return JobSubmissionClient(config.address)
    except AuthenticationError as error:
        raise ValueError(
            f"the Ray cluster at {where} refuses access (401 or 403); set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to "
            "the cluster's token, which `ray get-auth-token` prints on its head node"
        ) from error
    except (RuntimeError, ConnectionError, requests.RequestException) as error:
        raise ValueError(f"{where} does not answer as a Ray dashboard ({_root(error)}); give its --address") from error


def start(client: JobSubmissionClient, config: SubmitConfig, entrypoint: str) -> str:
    """Starts the job and returns its name; a job that exists under this name already is returned instead.

    Raises:
        ValueError: the name belongs to another command, or the cluster does not take the job.
    """
    import requests
    from ray.exceptions import AuthenticationError

    try:
        job = client.submit_job(
            entrypoint=entrypoint, submission_id=config.submission_id, runtime_env=dict(config.runtime_env())
        )
    except (requests.RequestException, AuthenticationError) as error:
        raise ValueError(
            f"{config.shown_address} did not answer when the job was sent ({_root(error)}); send it again, with a "
            "--submission-id so that it runs once"
        ) from error
    except RuntimeError as error:
        # Ray answers a repeated submission id with a bare RuntimeError, as it does for other refusals, so the job list
        # decides which of them it is. That makes a submission safe to repeat: after a lost answer, the job still runs
        # once.
        existing = _find(client, config.submission_id)
        if existing is None:
            reason = _masked(str(error).strip().rpartition("\n")[2], config)
            raise ValueError(f"the cluster at {config.shown_address} does not take the job: {reason}") from error
        if existing.entrypoint != entrypoint:
            raise ValueError(
                f"--submission-id {config.submission_id} belongs to another command ({existing.entrypoint})"
            ) from error
        _say(
            f"{config.submission_id} exists already ({existing.status}), so it is followed, not started again; "
            "choose another --submission-id to start a new job"
        )
        return str(config.submission_id)
    _say(f"started {job} on {config.shown_address}")
    return job


def follow(client: JobSubmissionClient, config: SubmitConfig, job: str) -> int:
    """Prints the job's log until it ends, reconnecting where the connection is lost; returns its exit status."""
    import aiohttp
    import requests
    from ray.exceptions import AuthenticationError

    # Ray's client passes on what its HTTP libraries raise, aiohttp for the log and requests for everything else.
    failures = (RuntimeError, OSError, aiohttp.ClientError, requests.RequestException, AuthenticationError)
    log = _Log()
    answered = time.monotonic()
    lost = False
    while True:
        try:
            # The log ends with the job or with the connection; only the job's status tells which, so it is asked for
            # each time.
            asyncio.run(log.print(client, job))
            details = client.get_job_info(job)
            if details.status.is_terminal():
                return _ended(details, config, job)
            lost, answered = False, time.monotonic()
        except failures as error:
            # A head node that was restarted answers, but has no jobs of its predecessor.
            missing = getattr(error, "status", None) == 404 or "status code 404" in str(error)
            if missing or time.monotonic() - answered > LOST_SECONDS:
                why = "has no such job any more" if missing else f"has not answered for {LOST_SECONDS:.0f} s"
                _say(f"lost {job}: {config.shown_address} {why}; {_remedies(config, job)}")
                return 1
            if not lost:
                _say(f"lost the connection ({_root(error)}); reconnecting, {job} continues")
            lost = True
        time.sleep(RETRY_SECONDS)


class _Log:
    """Prints a job's log without repetition: after a reconnection Ray sends it from the beginning."""

    def __init__(self) -> None:
        self.printed = 0

    async def print(self, client: JobSubmissionClient, job: str) -> None:
        stream = client.tail_job_logs(job)
        skip = self.printed
        with contextlib.suppress(StopAsyncIteration, TimeoutError):
            while True:
                # `tail_job_logs` waits without a limit, also on a connection that died silently.
                text = await asyncio.wait_for(anext(stream), QUIET_SECONDS)
                sys.stdout.write(text[skip:])
                sys.stdout.flush()
                # Characters and not lines: a chunk may end in the middle of a line.
                self.printed += max(0, len(text) - skip)
                skip = max(0, skip - len(text))


def _ended(details: JobDetails, config: SubmitConfig, job: str) -> int:
    """Reports how a job ended; returns its exit status."""
    status, code = str(details.status.value), details.driver_exit_code
    if status == "SUCCEEDED":
        return 0
    message = (details.message or "no reason given").partition("\n")[0]
    reason = "" if code is not None else f": {_masked(message, config)}"
    _say(f"{job} {status.lower()}" + (f" with exit status {code}" if code is not None else reason))
    # A job that was stopped or lost has no exit status, and one that failed must not end with 0.
    if not code:
        return 1
    # A negative status is a signal; shells report 128 and its number.
    return code if code > 0 else 128 - code


def _find(client: JobSubmissionClient, job: str | None) -> JobDetails | None:
    if job is None:
        return None
    with contextlib.suppress(RuntimeError):
        return client.get_job_info(job)
    return None


def _remedies(config: SubmitConfig, job: str) -> str:
    where = f"--address {config.shown_address}"
    return f"follow it with: ray job logs --follow {job} {where}; stop it with: ray job stop {job} {where}"


def _is_assignment(text: str) -> bool:
    return re.match(r"[A-Za-z_]\w*=", text) is not None


def _masked(text: str, config: SubmitConfig) -> str:
    """Ray's messages may quote the job's environment."""
    variables = config.runtime_env().get("env_vars", {})
    assert isinstance(variables, dict)
    for value in filter(None, variables.values()):
        text = text.replace(value, "***")
    return text


def _root(error: BaseException) -> str:
    """The first cause in a few words, without the address that its message may quote."""
    # Down to the operating system's error: the messages on the way repeat the address, which may hold a password.
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return getattr(error, "strerror", None) or type(error).__name__


def _say(message: str) -> None:
    print(f"nova submit: {message}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _without(names: Sequence[str]) -> Iterator[None]:
    """Hides environment variables."""
    # Taken out of the environment, as Ray's client offers no argument that has precedence.
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)
