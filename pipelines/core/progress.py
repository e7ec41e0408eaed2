"""Shows the progress of each stage while Ray Data runs, and measures the throughput of each stage.

Workers report every batch to one small actor (`Meter`). The driver draws its totals as bars on a terminal, and prints
them as a line every `LOG_SECONDS` where the output is a log.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich import progress as rich_progress
from rich.console import Console

# A log is read later, when a line a second would bury everything else.
LOG_SECONDS = 30.0
REFRESH_SECONDS = 0.5


@dataclass(frozen=True)
class StageTotals:
    """Rows that a stage processed, how many of them failed, and busy seconds, summed over its workers."""

    rows: int = 0
    failed: int = 0
    seconds: float = 0.0

    @property
    def rows_per_second(self) -> float:
        """Rows per busy second of a worker."""
        return self.rows / self.seconds if self.seconds else 0.0

    def plus(self, rows: int, failed: int, seconds: float) -> StageTotals:
        return StageTotals(self.rows + rows, self.failed + failed, self.seconds + seconds)


class Meter:
    """Totals per stage; `start_meter` starts it as a Ray actor."""

    def __init__(self) -> None:
        self._totals: dict[str, StageTotals] = {}

    def add(self, stage: str, rows: int, failed: int, seconds: float) -> None:
        self._totals[stage] = self._totals.get(stage, StageTotals()).plus(rows, failed, seconds)

    def totals(self) -> dict[str, StageTotals]:
        return self._totals


def start_meter() -> Any:
    """Starts a `Meter` as a Ray actor, which ends when its last handle is deleted."""
    import ray

    # It reserves no CPU: on a small machine it would otherwise take one from the stages.
    return ray.remote(num_cpus=0)(Meter).remote()


@contextmanager
def show(meter: Any, stages: Sequence[str], total: int | None, console: Console | None = None) -> Iterator[None]:
    """Draws a bar per stage until the block ends.

    Args:
        meter: the actor from `start_meter`.
        stages: names of the stages in order.
        total: number of rows that enter the first stage, None if it is unknown.
        console: console to draw on; standard error by default, so that standard output holds results only.
    """
    import ray

    console = console or Console(stderr=True)
    # A meter may have counted earlier passes over the same stages.
    before = ray.get(meter.totals.remote())
    done = threading.Event()

    def rows(name: str) -> tuple[int, int]:
        now, then = ray.get(meter.totals.remote()).get(name, StageTotals()), before.get(name, StageTotals())
        return now.rows - then.rows, now.failed - then.failed

    def log() -> None:
        while not done.wait(LOG_SECONDS):
            # Rows alone, so that it stays one line; failures are summarised at the end.
            console.print("  ".join(f"{name} {rows(name)[0]}/{total or '?'}" for name in stages), highlight=False)

    def draw() -> None:
        columns = (
            rich_progress.TextColumn("{task.description:<10}"),
            rich_progress.BarColumn(),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TimeElapsedColumn(),
            rich_progress.TextColumn("{task.fields[note]}"),
        )
        with rich_progress.Progress(*columns, console=console) as progress:
            tasks = {name: progress.add_task(name, total=total, note="") for name in stages}
            while True:
                # Drawn once more after the end, so that the bars stop at their totals.
                ended = done.wait(REFRESH_SECONDS)
                for name, task in tasks.items():
                    finished, failed = rows(name)
                    progress.update(task, completed=finished, note=f"{failed} failed" if failed else "")
                if ended:
                    return

    with in_background(draw if console.is_terminal else log, done):
        yield


@contextmanager
def in_background(work: Callable[[], None], done: threading.Event) -> Iterator[None]:
    """Runs a function in a thread until the block ends, at which `done` is set."""
    # A daemon, so that it cannot keep a driver alive that is killed.
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
