"""Columns of samples that the judge of the benchmark `shapes` reads and adds."""

from __future__ import annotations

from pipelines.store.schema import BOOL, FLOAT, STRING, Column

COLUMNS: dict[str, Column] = {
    "task": Column(STRING, "judge_shapes", "task of the prompt, see pipelines/shapes_world/prompts.py"),
    "asked": Column(STRING, "judge_shapes", "JSON of the scene that the prompt describes"),
    "seen": Column(STRING, "judge_shapes", "description of what the sample shows"),
    "right": Column(BOOL, "judge_shapes", "whether it shows what was asked for; null if only motion is measured"),
    "fault": Column(STRING, "judge_shapes", "reason why it is wrong, null if it is right"),
    "color_right": Column(BOOL, "judge_shapes", "of one object: whether the largest has the requested colour"),
    "shape_right": Column(BOOL, "judge_shapes", "of one object: whether it has the requested shape"),
    "direction_right": Column(BOOL, "judge_shapes", "whether it moves in the requested direction, null for images"),
    "color_kept": Column(BOOL, "judge_shapes", "whether it keeps its colour through the clip, null for images"),
    "shape_kept": Column(BOOL, "judge_shapes", "whether it keeps its shape through the clip, null for images"),
    "motion_measured": Column(
        FLOAT, "judge_shapes", "its speed times its share of the frame, in the unit of motion_score"
    ),
}
