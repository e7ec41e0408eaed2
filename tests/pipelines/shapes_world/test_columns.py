"""Columns of the benchmark `shapes` are known wherever its judge runs."""

from __future__ import annotations

import pickle
import subprocess
import sys

from pipelines.shapes_world.columns import COLUMNS
from pipelines.shapes_world.verdicts import JudgeShapes

WORKER = """
import pickle, sys
from pipelines.store import schema
assert "motion_measured" not in schema.COLUMNS
stage = pickle.loads(sys.stdin.buffer.read())
assert all(schema.field(name).name == name for name in (*stage.reads, *stage.adds))
"""


def test_a_worker_that_unpickles_the_judge_knows_its_columns() -> None:
    subprocess.run([sys.executable, "-c", WORKER], input=pickle.dumps(JudgeShapes()), check=True)


def test_every_column_belongs_to_the_judge() -> None:
    assert {column.owner for column in COLUMNS.values()} == {JudgeShapes.name}
    assert set(JudgeShapes.adds) <= set(COLUMNS)
