"""Metrics of images and videos, one per file; their ordered list and the summary of their scores.

    clip_alignment        agreement of a sample with its prompt          clip_alignment.py
    aesthetic             the stage of curation                            pipelines/curation/aesthetic.py
    temporal_flickering   do adjacent frames differ                        flickering.py
    dynamic_degree        does a video move                                dynamic_degree.py
    subject_consistency   does the subject keep its appearance             subject_consistency.py

Where VBench defines a metric, its definition is used. Scores are comparable to published ones only with VBench's own
models, which the recipes of released checkpoints name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.core.stage import Stage
from pipelines.curation.aesthetic import Aesthetic
from pipelines.evaluation.metrics.clip_alignment import ClipAlignment
from pipelines.evaluation.metrics.dynamic_degree import DynamicDegree
from pipelines.evaluation.metrics.flickering import TemporalFlickering
from pipelines.evaluation.metrics.subject_consistency import SubjectConsistency

# Columns of stages, and the times of the manifest: means over samples are reported for them.
AVERAGED = (
    "clip_alignment", "aesthetic_mean", "temporal_flickering", "dynamic_degree", "subject_consistency", "seconds",
    "device_seconds",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Settings of all metrics."""

    clip_alignment: ClipAlignment
    aesthetic: Aesthetic
    flickering: TemporalFlickering = field(default_factory=TemporalFlickering)
    dynamic_degree: DynamicDegree
    subject_consistency: SubjectConsistency

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The metrics in the order in which they run."""
        return (
            self.clip_alignment, self.aesthetic, self.flickering, self.dynamic_degree, self.subject_consistency,
        )  # fmt: skip


@dataclass(frozen=True)
class Score:
    """Mean of a metric over a number of samples."""

    value: float
    samples: int


def summarise(rows: Iterable[Mapping[str, Any]]) -> dict[str, Score]:
    """Means over the samples that a metric applies to; metrics that apply to none are left out.

    Flickering is reported twice: over all videos, and over static videos alone, as VBench's protocol compares it.
    """
    samples = list(rows)
    columns = {name: [row[name] for row in samples if row.get(name) is not None] for name in AVERAGED}
    columns["temporal_flickering_static"] = [row["temporal_flickering"] for row in samples if row.get("static")]
    return {name: Score(sum(values) / len(values), len(values)) for name, values in columns.items() if values}
