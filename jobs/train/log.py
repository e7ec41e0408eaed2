"""The log of a training run: RUN/metrics.jsonl and MLflow, written by the first worker."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.runtime import tracking
from pipelines.store.files import write_text

if TYPE_CHECKING:
    from jobs.train.state import Progress


class TrainLog:
    """Writes metrics to RUN/metrics.jsonl and to MLflow.

    Args:
        path: path of the file; lines of steps after `step` are dropped, because those steps are repeated.
        handle: handle of the MLflow run.
        step: number of completed steps.
    """

    def __init__(self, path: Path, handle: tracking.Handle, step: int) -> None:
        earlier = [line for line in _lines(path) if json.loads(line)["step"] <= step]
        write_text(path, "".join(earlier))
        # Line by line, so that the bar of the driver and a reader after a crash see whole entries.
        self._file = path.open("a", buffering=1)
        self._run = tracking.attach(handle)
        self._since: list[dict[str, float]] = []
        self._seconds, self._waited = 0.0, 0.0

    def add(self, metrics: dict[str, float], seconds: float, waited: float, progress: Progress, due: bool) -> None:
        """Adds the metrics of a step; if an entry is due, writes their means since the last entry.

        Args:
            metrics: metrics of the step, from `Trainer.step`.
            seconds: duration of the step, waiting included.
            waited: seconds spent waiting for data since the start.
            progress: progress after the step.
            due: whether to write now.
        """
        self._since.append(metrics)
        self._seconds += seconds
        if not due:
            return
        names = dict.fromkeys(name for entry in self._since for name in entry)
        means = {name: _mean(entry[name] for entry in self._since if name in entry) for name in names}
        samples, tokens = (sum(entry[name] for entry in self._since) for name in ("samples", "tokens"))
        # These are sums for the rates below; their means would say nothing.
        del means["samples"], means["tokens"]
        averages = means | {
            "samples_per_second": samples / self._seconds,
            "tokens_per_second": tokens / self._seconds,
            "data_wait_share": (waited - self._waited) / self._seconds,
            "device_hours": progress.device_hours,
        }
        self._file.write(json.dumps({"step": progress.step, **averages}) + "\n")
        self._run.log_metrics(averages, step=progress.step)
        self._since, self._seconds, self._waited = [], 0.0, waited

    def close(self) -> None:
        self._file.close()


def _mean(values: Iterator[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def _lines(path: Path) -> list[str]:
    """Complete lines of a file whose last line may be truncated."""
    with contextlib.suppress(FileNotFoundError):
        *lines, _ = path.read_text(encoding="utf-8").split("\n")
        return [f"{line}\n" for line in lines]
    return []
