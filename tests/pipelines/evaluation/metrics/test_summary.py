"""The summary of an evaluation: means over the samples that a metric applies to, with how many those are."""

from __future__ import annotations

import pytest

from pipelines.evaluation.metrics import AVERAGED, Metrics, Score, summarise
from pipelines.store import schema


def test_scores_of_zero_and_false_count() -> None:
    rows = [{"dynamic_degree": 0.0}, {"dynamic_degree": 1.0}, {"dynamic_degree": 1.0}, {"dynamic_degree": None}]
    assert summarise(rows)["dynamic_degree"] == Score(pytest.approx(2 / 3), 3)
    assert summarise([{"dynamic_degree": 0.0}]) == {"dynamic_degree": Score(0.0, 1)}


def test_metrics_that_apply_to_no_sample_are_left_out() -> None:
    rows = [dict.fromkeys(AVERAGED), {"clip_alignment": 0.25, "uri": "a.png", "height": 64}]
    assert summarise(rows) == {"clip_alignment": Score(0.25, 1)}


def test_static_flickering_is_over_static_videos_alone() -> None:
    rows = [
        {"temporal_flickering": 0.5, "static": False},
        {"temporal_flickering": 0.9, "static": True},
        {"temporal_flickering": 1.0, "static": True},
    ]
    found = summarise(iter(rows))
    assert found["temporal_flickering"] == Score(pytest.approx(0.8), 3)
    assert found["temporal_flickering_static"] == Score(pytest.approx(0.95), 2)
    assert "temporal_flickering_static" not in summarise(rows[:1])


def test_every_metric_is_averaged_by_one_of_its_columns(metrics: Metrics) -> None:
    stages = metrics.stages
    assert len({stage.name for stage in stages}) == len(stages) == 5
    for stage in stages:
        assert set(stage.adds) & set(AVERAGED), f"{stage.name} never gets into the summary"


def test_the_columns_of_the_metrics_are_in_the_schema(metrics: Metrics) -> None:
    for stage in metrics.stages:
        assert set(stage.adds) <= set(schema.COLUMNS), stage.name
