"""Evaluation of images and videos, a metric a file; the ordered list of metrics and their summary.

    clip_alignment        does a sample show what its prompt says          clip_alignment.py
    aesthetic             the curation stage, as it is                      ../aesthetic.py
    temporal_flickering   do adjacent frames differ                        flickering.py
    dynamic_degree        does a video move                                dynamic_degree.py
    subject_consistency   does the subject stay itself                     subject_consistency.py

Definitions are VBench's where it has one. Scores count as VBench's own only with its models (recipe names say which).
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

AVERAGED = (
    "clip_alignment", "aesthetic_mean", "temporal_flickering", "dynamic_degree", "subject_consistency", "seconds",
    "device_seconds",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """The metrics, in order."""

    clip_alignment: ClipAlignment
    aesthetic: Aesthetic
    flickering: TemporalFlickering = field(default_factory=TemporalFlickering)
    dynamic_degree: DynamicDegree
    subject_consistency: SubjectConsistency

    @property
    def stages(self) -> tuple[Stage, ...]:
        return (
            self.clip_alignment, self.aesthetic, self.flickering, self.dynamic_degree, self.subject_consistency,
        )  # fmt: skip


@dataclass(frozen=True)
class Score:
    """A metric's mean and the number of samples it is over."""

    value: float
    samples: int


def summarise(rows: Iterable[Mapping[str, Any]]) -> dict[str, Score]:
    """Means over the samples that a metric applies to; metrics that apply to none are left out.

    Flickering is given twice: over all videos, and over the static ones that VBench's protocol compares.
    """
    listed = list(rows)
    columns = {name: [row[name] for row in listed if row.get(name) is not None] for name in AVERAGED}
    static = [row["temporal_flickering"] for row in listed if row.get("static")]
    columns["temporal_flickering_static"] = static
    return {name: Score(sum(values) / len(values), len(values)) for name, values in columns.items() if values}
