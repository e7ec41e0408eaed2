"""Shows the progress of a training run, from the metrics that its first worker writes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich import progress as rich_progress
from rich.console import Console

from pipelines.core.progress import in_background

LOG_SECONDS = 15.0
REFRESH_SECONDS = 1.0


@contextmanager
def show(metrics: Path, steps: int, console: Console | None = None) -> Iterator[None]:
    """Draws a bar until the block ends, or prints a line every LOG_SECONDS where the output is no terminal.

    Args:
        metrics: RUN/metrics.jsonl, which may not be there yet.
        steps: the last step.
        console: standard error by default, so that standard output stays for results.
    """
    console = console or Console(stderr=True)
    done = threading.Event()

    def log() -> None:
        printed_step, printed_at = -1, 0.0
        while not done.is_set():
            done.wait(REFRESH_SECONDS)
            entry = last_entry(metrics)
            due = time.monotonic() - printed_at >= LOG_SECONDS or done.is_set()
            if entry is not None and entry["step"] > printed_step and due:
                console.print(f"step {entry['step']}/{steps}  {_note(entry)}", highlight=False)
                printed_step, printed_at = entry["step"], time.monotonic()

    def draw() -> None:
        columns = (
            rich_progress.TextColumn("train"),
            rich_progress.BarColumn(),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TimeElapsedColumn(),
            rich_progress.TimeRemainingColumn(),
            rich_progress.TextColumn("{task.fields[note]}"),
        )
        with rich_progress.Progress(*columns, console=console) as progress:
            task = progress.add_task("train", total=steps, note="starting workers")
            while not done.is_set():
                done.wait(REFRESH_SECONDS)
                entry = last_entry(metrics)
                if entry is not None:
                    progress.update(task, completed=entry["step"], note=_note(entry))

    with in_background(draw if console.is_terminal else log, done):
        yield


def last_entry(metrics: Path) -> dict[str, Any] | None:
    """The newest complete line of a metrics file."""
    try:
        with metrics.open("rb") as file:
            file.seek(0, 2)
            # The end of the file alone: it is read every second, and a long run has tens of thousands of entries.
            file.seek(max(0, file.tell() - 8192))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return None
    complete = [line for line in lines[:-1] if line.startswith(b"{")]  # the first may be cut off by the seek
    return json.loads(complete[-1]) if complete else None


def _note(entry: dict[str, Any]) -> str:
    return f"loss {entry['loss']:.4f}  {entry['samples_per_second']:.1f} samples/s"
