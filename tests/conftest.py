"""What all tests share: one small Ray a process, tables and a model of a small corpus, and the reference material."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from filelock import FileLock

from pipelines.shapes_world import zoo
from tests.fakes import register_fakes

if TYPE_CHECKING:
    from jobs.train.config import TrainConfig

# One thread a process: tests share few cores with Ray's workers, which inherit this.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


register_fakes()
zoo.register()

SHARED = Path(__file__).parents[2] / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts files that need no Ray first: its processes, once started, take a part of the few cores all the time."""
    with_ray = {item.path for item in items if "ray_session" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: item.path in with_ray)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Undoes what a command under test set: threads of two processes that wait for each other take twice the time."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray for the whole session: 2 logical CPUs, no dashboard, a small object store."""
    import ray
    import ray.data

    ray.init(
        num_cpus=1,
        num_gpus=0,
        include_dashboard=False,
        object_store_memory=256 * 2**20,
        logging_level="ERROR",
        log_to_driver=False,
    )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all test processes of this session have in common."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "common"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def alone(common: Path) -> Iterator[None]:
    """Held by tests whose commands start a Ray of their own: one at a time in all test processes, on few cores."""
    with FileLock(common / "alone.lock"):
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference material; tests that need it are skipped where it is missing."""
    if not SHARED.is_dir():
        pytest.skip("the reference material (../shared) is not here")
    return SHARED


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what the commands of this process write; its MLflow store is made once."""
    return tmp_path_factory.mktemp("work")


def make_once(folder: Path, make: Callable[[], object]) -> Path:
    """The folder, made by the first test process that asks for it; the others wait. No test may change it."""
    finished = folder.with_name(f"{folder.name}.finished")
    with FileLock(f"{folder}.lock"):
        if not finished.exists():
            make()
            finished.touch()
    return folder


@pytest.fixture(scope="session")
def media(common: Path) -> Path:
    """Media with known contents: 4 pictures, 3 videos (one of two shots), a copy and an empty file."""
    return make_once(common / "media", lambda: _write_media(common / "media"))


def _write_media(folder: Path) -> None:
    from pipelines.media.write import write_image, write_video

    for index in range(4):
        write_image(folder / f"picture{index}.png", _picture(index, 64, 96))
    for index in range(2):
        write_video(folder / f"video{index}.mp4", _moving(10 + index, 24), 12)
    write_video(folder / "two_shots.mp4", np.concatenate([_moving(20, 18), _moving(27, 18)]), 12)
    (folder / "copy.png").write_bytes((folder / "picture0.png").read_bytes())
    (folder / "empty.mp4").write_bytes(b"")


def _picture(seed: int, height: int, width: int) -> np.ndarray:
    """Blocks of random colours: pictures of two seeds have little in common."""
    cells = np.random.default_rng(seed).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    return np.kron(cells, np.ones((height // 4, width // 6, 1), np.uint8))


def _moving(seed: int, frames: int) -> np.ndarray:
    """A picture that moves two pixels to the right with each frame."""
    wide = _picture(seed, 64, 96)
    return np.stack([np.roll(wide, 2 * index, axis=1) for index in range(frames)])


@pytest.fixture(scope="session")
def curated(common: Path, media: Path, ray_session: None) -> Path:
    """Tables curated from `media` with the debug recipe."""
    from jobs.curate import curate
    from jobs.recipes.registry import config_of

    tables = common / "tables"
    config = replace(config_of("debug", "curate"), input=str(media), tables=str(tables))
    return make_once(tables, lambda: curate(config))


@pytest.fixture(scope="session")
def trained(common: Path, curated: Path) -> Path:
    """A run of eight steps on `curated`, without an interruption."""
    from jobs.train.job import train

    run = common / "run"
    return make_once(run, lambda: train(train_config(tables=str(curated), run=str(run), steps=8)))


def train_config(groups: Mapping[str, Any] | None = None, **changes: Any) -> TrainConfig:
    """The debug recipe with both optimizers, a checkpoint every other step and a log entry at each.

    Args:
        groups: values under dotted keys.
        changes: values of TrainConfig's own fields.
    """
    from jobs import settings
    from jobs.recipes.registry import config_of

    usual = {"checkpoint.every": 2, "log_every": 1, "ema.every": 2, "optimizer.name": "muon"}
    return settings.updated(config_of("debug", "train"), usual | dict(groups or {}) | changes)
