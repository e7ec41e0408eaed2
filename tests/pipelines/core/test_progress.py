"""Progress: totals per stage, and lines instead of bars where nobody looks at a terminal."""

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
def test_each_stage_is_shown_with_what_it_has_done(
    terminal: bool, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(progress, "LOG_SECONDS", 0.1)
    monkeypatch.setattr(progress, "REFRESH_SECONDS", 0.1)
    meter = progress.start_meter()
    ray.get(meter.add.remote("motion", 5, 0, 1.0))  # of an earlier pass: not counted again
    said = io.StringIO()
    console = Console(file=said, force_terminal=terminal, width=100)
    with progress.show(meter, ["motion", "aesthetic"], 10, console):
        ray.get(meter.add.remote("motion", 7, 2, 1.0))
        wait_until(lambda: "7/10" in said.getvalue())
    assert "7/10" in said.getvalue()
    assert "aesthetic" in said.getvalue()
    if terminal:
        assert "2 failed" in said.getvalue()


class Told:
    """A `Meter` in this process that is asked as the actor is: ray.get of a remote call."""

    def __init__(self, meter: Meter) -> None:
        self.totals = self
        self.remote = meter.totals


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> Meter:
    import ray

    monkeypatch.setattr(ray, "get", lambda value: dict(value))
    return Meter()


def shown(
    meter: Meter,
    stages: list[str],
    total: int | None,
    work: Callable[[], None],
    *,
    terminal: bool,
    said: io.StringIO | None = None,
) -> str:
    said = io.StringIO() if said is None else said
    with progress.show(Told(meter), stages, total, Console(file=said, force_terminal=terminal, width=100)):
        work()
    return said.getvalue()


def test_the_last_totals_are_drawn_however_short_the_work_was(meter: Meter) -> None:
    said = shown(meter, ["motion"], 3, lambda: meter.add("motion", 3, 1, 0.1), terminal=True)
    assert "3/3" in said
    assert "1 failed" in said


def test_a_log_gets_a_line_for_all_stages_now_and_then(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.05)

    said = io.StringIO()
    meter.add("motion", 7, 0, 1.0)  # of an earlier pass

    def work() -> None:
        meter.add("motion", 7, 0, 1.0)
        meter.add("caption", 2, 0, 1.0)
        wait_until(lambda: said.getvalue().count("motion 7/?  caption 2/?\n") >= 2)

    lines = shown(meter, ["motion", "caption"], None, work, terminal=False, said=said).splitlines()
    assert set(lines) <= {"motion 0/?  caption 0/?", "motion 7/?  caption 0/?", "motion 7/?  caption 2/?"}


def test_a_log_says_nothing_of_what_is_done_at_once(meter: Meter) -> None:
    assert shown(meter, ["motion"], 3, lambda: meter.add("motion", 3, 0, 0.1), terminal=False) == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_an_error_passes_through_and_the_painter_ends(terminal: bool, meter: Meter) -> None:
    started: set[threading.Thread] = set()
    before = set(threading.enumerate())

    def work() -> None:
        started.update(set(threading.enumerate()) - before)
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        shown(meter, ["motion"], 3, work, terminal=terminal)
    assert started
    wait_until(lambda: not any(thread.is_alive() for thread in started))
