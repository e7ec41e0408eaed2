"""Progress: totals per stage, and lines instead of bars where nobody looks at a terminal."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from pipelines import progress
from pipelines.progress import Meter, StageTotals


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
        time.sleep(0.5)
    assert "7/10" in said.getvalue()
    assert "aesthetic" in said.getvalue()
    if terminal:
        assert "2 failed" in said.getvalue()
