"""Starts Ray on this machine, or joins a cluster."""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING, Any

from jobs import search_path
from jobs.runtime import ray_folders
from pipelines.core.devices import cores
from pipelines.store.texts import first_line

if TYPE_CHECKING:
    from ray.job_config import JobConfig

# Ray would take 30 % of the memory, which on a laptop is then missing for the models. Blocks are small here: addresses
# and scores travel, and no frames.
OBJECT_STORE_SHARE = 0.2
MAX_OBJECT_STORE_BYTES = 4 * 2**30
# Ray refuses less than 75 MB; some more lets several blocks be in flight.
MIN_OBJECT_STORE_BYTES = 128 * 2**20
# Enough for another continent. `ray.init` itself would retry a dead address for minutes.
CONNECT_SECONDS = 5.0
# A machine that is short of CPUs starts Ray's processes too slowly for its fixed timeouts, often only the first time.
START_ATTEMPTS = 3


def check(address: str | None = None) -> None:
    """Checks that something listens at the cluster's address (or RAY_ADDRESS): Ray itself would try for minutes.

    Raises:
        ValueError: nothing listens there.
    """
    address = address or os.environ.get("RAY_ADDRESS") or ""
    host, _, port = address.rpartition("://")[2].partition("/")[0].rpartition(":")
    if not host or not port.isdigit():  # none, "auto" or "local"
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise ValueError(
            f"no Ray cluster at {address} ({error.strerror or error}); start one or leave --address out"
        ) from error


def connect(address: str | None = None) -> dict[str, float]:
    """Joins the cluster at `address` (or RAY_ADDRESS), else starts Ray in this process; returns its resources.

    A local Ray gets a CPU slot per core, so that the stages of a pipeline share the cores instead of starving each
    other, and an object store small enough for a laptop (no decoded frames travel through it). Calling it again in
    the same process changes nothing.

    Args:
        address: ray://HOST:10001, HOST:6379 or "auto".

    Raises:
        ValueError: no cluster answers at the address.
    """
    import ray

    if not ray.is_initialized():
        _start(address or os.environ.get("RAY_ADDRESS") or None)
    _quieten_ray_data()
    return dict(ray.cluster_resources())


def _start(address: str | None) -> None:
    import ray

    # Ray would recognise a driver under `uv run` and build the same environment again for the workers.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # The reports and checkpoints of `jobs.train` have the form of the second version of Ray Train.
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    common: dict[str, Any] = {"log_to_driver": bool(os.environ.get("NOVA_WORKER_LOGS")), "logging_level": logging.ERROR}
    if address is None or "://" not in address:  # a client of ray:// sends no paths to workers
        common["job_config"] = workers_without_working_directory()
    if address is not None:
        check(address)
        try:
            ray.init(address=address, **common)
        except (ConnectionError, RuntimeError, OSError) as error:
            reason = first_line(error)
            raise ValueError(f"no Ray cluster at {address} ({reason}); start one or leave --address out") from error
        return
    ray_folders.prepare()
    _start_here(**common)


def workers_without_working_directory() -> JobConfig:
    """A config by which Ray's workers import what this process imports, and not what its working directory holds.

    Ray puts the working directory of the driver first into the search path of every worker, where a folder `torch/` or
    a file `types.py` of the user's would replace the package of this name.
    """
    from ray.job_config import JobConfig

    class WithoutWorkingDirectory(JobConfig):
        def _runtime_env_has_working_dir(self) -> bool:
            return True  # what makes Ray leave its search path alone

    source = search_path.source_folder()
    return WithoutWorkingDirectory(_py_driver_sys_path=[] if source is None else [source])


def _start_here(**common: Any) -> None:
    """Starts Ray in this process; a busy machine may take longer than Ray waits, so there are several attempts."""
    import psutil
    import ray

    earlier_children = {process.pid for process in psutil.Process().children(recursive=True)}
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            ray.init(
                address="local",
                num_cpus=cores(),
                object_store_memory=_object_store_bytes(),
                include_dashboard=False,
                **common,
            )
            return
        except Exception as error:  # Ray raises a bare Exception when its processes do not start in time
            ray.shutdown()
            for process in psutil.Process().children(recursive=True):  # Ray leaves some after a failed start
                if process.pid not in earlier_children:
                    process.kill()
            if attempt == START_ATTEMPTS or "timed out" not in str(error):
                raise


def _object_store_bytes() -> int:
    # Of the machine: a container with a smaller limit is covered by the maximum.
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(min(max(memory * OBJECT_STORE_SHARE, MIN_OBJECT_STORE_BYTES), MAX_OBJECT_STORE_BYTES))


def _quieten_ray_data() -> None:
    """Ray Data draws its own bars and prints its plan; `pipelines.core.progress` shows the stages instead."""
    import ray.data

    # Ray Data sets its own level on import. Failures that it would log are raised as well.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = 4 * 3600  # a cold download of a large captioner takes long
