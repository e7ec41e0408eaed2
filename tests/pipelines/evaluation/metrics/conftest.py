"""The metrics with untrained models."""

from __future__ import annotations

import pytest

from pipelines.curation.aesthetic import Aesthetic
from pipelines.evaluation.metrics import Metrics
from pipelines.evaluation.metrics.clip_alignment import ClipAlignment
from pipelines.evaluation.metrics.dynamic_degree import DynamicDegree
from pipelines.evaluation.metrics.subject_consistency import SubjectConsistency


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(
        clip_alignment=ClipAlignment(model="fake/clip"),
        aesthetic=Aesthetic(model="fake/clip", head="fake/aesthetic"),
        dynamic_degree=DynamicDegree(weights="fake/raft"),
        subject_consistency=SubjectConsistency(model="fake/dino"),
    )
