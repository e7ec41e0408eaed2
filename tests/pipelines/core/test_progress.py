"""Progress: totals per stage, and lines instead of bars where the output is not a terminal."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable

import pytest
from rich.console import Console

from pipelines.core import progress
from pipelines.core.progress import Meter, StageTotals
from tests.processes import wait_until


def test_a_meter_adds_up_per_stage() -> None:
    meter = Meter()
    meter.add("motion", 8, 1, 2.0)
    meter.add("motion", 8, 0, 2.0)
    meter.add("caption", 4, 0, 8.0)
    assert meter.totals() == {"motion": StageTotals(16, 1, 4.0), "caption": StageTotals(4, 0, 8.0)}
    assert meter.totals()["motion"].rows_per_second == 4.0
    assert StageTotals().rows_per_second == 0.0


@pytest.mark.parametrize("terminal", [True, False])
def test_each_stage_is_shown_with_its_totals(
    terminal: bool, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(progress, "LOG_SECONDS", 0.1)
    monkeypatch.setattr(progress, "REFRESH_SECONDS", 0.1)
    meter = progress.start_meter()
    ray.get(meter.add.remote("motion", 5, 0, 1.0))  # of an earlier pass: does not count
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=100)
    with progress.show(meter, ["motion", "aesthetic"], 10, console):
        ray.get(meter.add.remote("motion", 7, 2, 1.0))
        wait_until(lambda: "7/10" in output.getvalue())
    assert "7/10" in output.getvalue()
    assert "aesthetic" in output.getvalue()
    if terminal:
        assert "2 failed" in output.getvalue()


class LocalMeter:
    """A `Meter` in this process with the interface of the actor: ray.get of a remote call."""

    def __init__(self, meter: Meter) -> None:
        self.totals = self
        self.remote = meter.totals


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> Meter:
    import ray

    monkeypatch.setattr(ray, "get", lambda value: dict(value))
    return Meter()


def drawn(
    meter: Meter,
    stages: list[str],
    total: int | None,
    work: Callable[[], None],
    *,
    terminal: bool,
    output: io.StringIO | None = None,
) -> str:
    output = io.StringIO() if output is None else output
    with progress.show(LocalMeter(meter), stages, total, Console(file=output, force_terminal=terminal, width=100)):
        work()
    return output.getvalue()


def test_the_last_totals_are_drawn_even_after_a_very_short_run(meter: Meter) -> None:
    output = drawn(meter, ["motion"], 3, lambda: meter.add("motion", 3, 1, 0.1), terminal=True)
    assert "3/3" in output
    assert "1 failed" in output


def test_a_log_gets_a_line_for_all_stages_at_intervals(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.05)

    output = io.StringIO()
    meter.add("motion", 7, 0, 1.0)  # of an earlier pass

    def work() -> None:
        meter.add("motion", 7, 0, 1.0)
        meter.add("caption", 2, 0, 1.0)
        wait_until(lambda: output.getvalue().count("motion 7/?  caption 2/?\n") >= 2)

    lines = drawn(meter, ["motion", "caption"], None, work, terminal=False, output=output).splitlines()
    assert set(lines) <= {"motion 0/?  caption 0/?", "motion 7/?  caption 0/?", "motion 7/?  caption 2/?"}


def test_a_log_gets_no_line_for_a_very_short_run(meter: Meter) -> None:
    assert drawn(meter, ["motion"], 3, lambda: meter.add("motion", 3, 0, 0.1), terminal=False) == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_an_error_passes_through_and_the_painter_ends(terminal: bool, meter: Meter) -> None:
    started: set[threading.Thread] = set()
    before = set(threading.enumerate())

    def work() -> None:
        started.update(set(threading.enumerate()) - before)
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        drawn(meter, ["motion"], 3, work, terminal=terminal)
    assert started
    wait_until(lambda: not any(thread.is_alive() for thread in started))
