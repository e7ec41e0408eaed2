"""The only file that uses MLflow: one run per command, across restarts, closed with its true status.

    with start("train", config=flat, beside=folder) as run:
        run.log_metrics({"loss": 0.5}, step=10)

Runs are stored on the server that MLFLOW_TRACKING_URI names, else in a sqlite file `mlflow.db` beside the outputs. If
a store fails, no work is lost: a warning is issued, and the run is recorded in the next one. That is the local file
after a server, and `mlflow-2.db` after a file that is damaged or of another version of MLflow. If none works, the
command runs without a record. Look at local runs with `mlflow ui --backend-store-uri sqlite:///PATH/mlflow.db`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jobs.runtime import local_store, run_file
from pipelines.store.filesystems import local_path
from pipelines.store.texts import repair

EXPERIMENT = "nova"
LOCAL_STORES = ("mlflow.db", "mlflow-2.db", "mlflow-3.db")
"""Files of the local store: each after the first is for runs that the ones before it cannot record."""
# A frozen server holds up every call for this long; MLflow's own default is two minutes, with retries on top.
SERVER_SECONDS = 5
# Database columns of older servers end here, and longer values are refused.
PARAM_CHARACTERS = 500
PARAM_BATCH = 100
"""MLflow's limit for one request."""
_SECRET = re.compile(r"token|password|secret|api_?key", re.IGNORECASE)
_CREDENTIALS = re.compile(r"(\w+://)[^/@\s]+@")


@dataclass(frozen=True)
class Handle:
    """Identifies a run to another process."""

    uri: str
    """Address of the store; empty where no store records the run."""
    run_id: str


class _NoStore:
    """Takes the entries of a run that no store records."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments, **options: None


class Run:
    """A run that is written to; trouble with the server is reported once and then ignored."""

    def __init__(self, handle: Handle) -> None:
        self.uri, self.id = handle.uri, handle.run_id
        self._client: Any = _client(handle.uri) if handle.uri else _NoStore()
        self._warned = False

    def handle(self) -> Handle:
        """What `attach` needs in another process."""
        return Handle(self.uri, self.id)

    @property
    def hint(self) -> str:
        """How to look at the run."""
        if not self.uri:
            return "not recorded"
        if self.uri.startswith("sqlite"):
            return f"mlflow ui --backend-store-uri {shlex.quote(self.uri)}"
        return _CREDENTIALS.sub(r"\1", self.uri)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Logs settings; values that look like secrets are masked.

        A parameter never changes in MLflow. One that a restart changes becomes a tag `changed.NAME`.
        """
        from mlflow.entities import Param

        before = self._logged_params()
        masked = {key: _masked(key, value) for key, value in params.items()}
        new = [Param(key, value) for key, value in masked.items() if key not in before]
        self.set_tags({f"changed.{key}": v for key, v in masked.items() if key in before and before[key] != v})
        for start in range(0, len(new), PARAM_BATCH):
            self._try(partial(self._client.log_batch, self.id, params=new[start : start + PARAM_BATCH]))

    def _logged_params(self) -> dict[str, str]:
        with contextlib.suppress(Exception):  # a server that cannot be reached is reported when it is written to
            return dict(self._client.get_run(self.id).data.params)
        return {}

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs numbers, at a step of the training where there is one."""
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        now = get_current_time_millis()
        # MLflow refuses names with other characters.
        listed = [
            Metric(re.sub(r"[^\w\-. /]", "_", key), float(value), now, step or 0) for key, value in metrics.items()
        ]
        self._try(lambda: self._client.log_batch(self.id, metrics=listed))

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Logs a file, or a folder with what is in it."""
        path = Path(path)
        log = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
        self._try(lambda: log(self.id, str(path), folder))

    def log_text(self, text: str, name: str) -> None:
        """Logs a text as a file."""
        self._try(lambda: self._client.log_text(self.id, text, name))

    def log_figure(self, figure: Any, name: str) -> None:
        """Logs a matplotlib figure as a file."""
        self._try(lambda: self._client.log_figure(self.id, figure, name))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Sets tags of the run."""
        for key, value in tags.items():
            self._try(partial(self._client.set_tag, self.id, key, repair(value)))

    def log_dataset(self, tables: str, version: int, context: str) -> None:
        """Logs a version of the tables as an input of the run.

        Args:
            tables: address of the tables.
            version: version of `examples`; becomes the digest.
            context: purpose of the data, such as training or curated.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        address = _CREDENTIALS.sub(r"\1", tables)
        source = json.dumps({"uri": address, "version": version})
        dataset = Dataset(
            name="examples", digest=str(version), source_type="delta", source=source,
            profile=json.dumps({"version": version}),
        )  # fmt: skip
        dataset_input = DatasetInput(dataset=dataset, tags=[InputTag("mlflow.data.context", context)])
        self._try(lambda: self._client.log_inputs(self.id, datasets=[dataset_input]))
        self.set_tags({"tables": address, "data_version": str(version)})

    def end(self, status: str) -> None:
        """Closes the run as FINISHED, FAILED or KILLED."""
        self._try(lambda: self._client.set_terminated(self.id, status))

    def _try(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:  # a tracking server must never stop the work
            if not self._warned:
                warn(f"MLflow at {self.hint} rejects entries ({type(error).__name__}); continuing without them")
            self._warned = True


@contextmanager
def start(
    command: str,
    *,
    config: Mapping[str, Any],
    beside: str | Path,
    parent: str | None = None,
    resume: Path | None = None,
    forget: bool = False,
) -> Iterator[Run]:
    """Opens a run for a command and closes it with its true status.

    Args:
        command: names the run.
        config: flat settings, logged as parameters.
        beside: folder of the local store.
        parent: id of the run that this one belongs to.
        resume: file that remembers the run, so that a killed command and its restart are one run.
        forget: delete that file on success, so that the next command is another run (as with refreshes).
    """
    run = _open(command, beside=Path(beside), parent=parent, resume=resume)
    run.log_params(config)
    status = "FAILED"
    try:
        with _terminated_as_exception():
            yield run
        status = "FINISHED"
        if forget and resume is not None:
            resume.unlink(missing_ok=True)
    except (KeyboardInterrupt, _Terminated):
        status = "KILLED"
        raise
    finally:
        run.end(status)


def attach(handle: Handle) -> Run:
    """The run of a handle, in another process."""
    return Run(handle)


@contextmanager
def stored_with(run: Run) -> Iterator[None]:
    """Commands inside the block store their runs where this one is stored, wherever their outputs are."""
    if not run.uri:
        yield
        return
    before = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = run.uri
    try:
        yield
    finally:
        if before is None:
            del os.environ["MLFLOW_TRACKING_URI"]
        else:
            os.environ["MLFLOW_TRACKING_URI"] = before


def store_folder(output: str) -> Path:
    """The folder that holds MLflow's local store: the one that contains the output.

    Args:
        output: folder or address that a command writes to; for an address the working directory is taken.
    """
    path = local_path(output)
    if path is None:
        return Path.cwd()
    parent = Path(path).parent
    # A volume mounted into a container often is the only folder that may be written.
    return parent if not parent.exists() or os.access(parent, os.W_OK) else Path(path)


def resume_file(command: str, output: str) -> Path:
    """The file that remembers a command's run on an output until the command has completed."""
    return store_folder(output) / f".{command}-{Path(output).name}-mlflow.json"


def warn(message: str) -> None:
    """Prints a warning on standard error."""
    print(f"nova: warning: {message}", file=sys.stderr, flush=True)


def _open(command: str, *, beside: Path, parent: str | None, resume: Path | None) -> Run:
    server = os.environ.get("MLFLOW_TRACKING_URI")
    failure = ""
    for uri in [*filter(None, [server]), *(local_store.address(beside / name) for name in LOCAL_STORES)]:
        try:
            local_store.check(uri)
            run = _begin(command, uri, parent, resume)
        except Exception as error:
            address = _CREDENTIALS.sub(r"\1", uri)
            failure = failure or f"no MLflow at {address} ({_reason(error)})"
        else:
            if failure:
                warn(f"{failure}; this run is kept in {uri} instead")
            return run
    warn(f"{failure}; this run is not recorded")
    return Run(Handle("", ""))


def _reason(error: Exception) -> str:
    # The first line alone: below it are statements of SQL and addresses of documentation.
    lines = _CREDENTIALS.sub(r"\1", str(error)).splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _begin(command: str, uri: str, parent: str | None, resume: Path | None) -> Run:
    client = _client(uri)
    # A restart continues the run of the killed command: otherwise every crash would leave a run that seems to be
    # running.
    remembered = run_file.recall(resume, uri=uri)
    if remembered is not None:
        with contextlib.suppress(Exception):  # the run or the store may have been deleted since
            client.update_run(remembered, status="RUNNING")
            run_file.remember(resume, uri=uri, run_id=remembered)  # type: ignore[arg-type]
            return Run(Handle(uri, remembered))
    tags = {"mlflow.runName": command, "nova.command": command}
    # The tag is what MLflow's user interface nests by; its fluent API keeps nested runs in the state of one process.
    if parent:
        tags["mlflow.parentRunId"] = parent
    run_id = client.create_run(_experiment(client, uri), tags=tags).info.run_id
    if resume is not None:
        run_file.remember(resume, uri=uri, run_id=run_id)
    return Run(Handle(uri, run_id))


def _experiment(client: Any, uri: str) -> str:
    """The id of the experiment that runs belong to; it is created where there is none."""
    file = local_store.file_of(uri)
    # A local store keeps its artifacts beside it; MLflow's default would be the working directory.
    artifacts = None if file is None else (file.parent / "mlartifacts").as_uri()
    name = EXPERIMENT
    for number in itertools.count(2):
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            with contextlib.suppress(Exception):  # another run may create it at the same moment
                return client.create_experiment(name, artifact_location=artifacts)
            return client.get_experiment_by_name(name).experiment_id
        following = f"{EXPERIMENT}-{number}"
        if experiment.lifecycle_stage != "active":
            # Not restored, as all runs that the user deleted would come back with it.
            warn(f"MLflow's experiment {name!r} was deleted; this run belongs to {following!r}")
        # In a copy of a store, the experiment's artifacts are still those beside the original.
        elif artifacts is None or experiment.artifact_location in (artifacts, None) or not _is_ours(experiment):
            return experiment.experiment_id
        name = following
    raise AssertionError("numbers do not end")


def _is_ours(experiment: Any) -> bool:
    """Whether the artifacts of an experiment are where this module puts them."""
    return experiment.artifact_location.endswith("/mlartifacts")


def _client(uri: str) -> Any:
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(SERVER_SECONDS))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    # Without git, which images lack, MLflow's import prints a page of warnings.
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    from mlflow import MlflowClient

    for name in ("mlflow", "mlflow.store.db.utils", "alembic"):  # mlflow sets its own levels when it is imported
        logging.getLogger(name).setLevel(logging.CRITICAL)  # `Run` and `start` report its errors, in a line

    return MlflowClient(tracking_uri=uri)


def _masked(key: str, value: Any) -> str:
    if _SECRET.search(key) and not isinstance(value, int | float) and value is not None:
        return "***"
    return _CREDENTIALS.sub(r"\1", repair(str(value)))[:PARAM_CHARACTERS]


class _Terminated(SystemExit):
    """Raised on SIGTERM, with which schedulers stop a job."""


@contextmanager
def _terminated_as_exception() -> Iterator[None]:
    """Turns SIGTERM into an exception, so that the run is closed as KILLED."""
    # Python installs signal handlers in the main thread only.
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise _Terminated(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
