"""Ray runs the same stages as `apply`, and its errors are as readable."""

from dataclasses import dataclass

import pyarrow as pa
import pytest

from pipelines.core import ray_data
from pipelines.core.ray_data import run_stages, stream_rows
from pipelines.core.stage import Resources, Stage
from pipelines.store import schema
from tests.pipelines.core.stages import AddOne, Doubler, rows


@pytest.mark.parametrize("workers", [None, 1])
def test_ray_runs_the_same_stages(ray_session, workers):
    frames = list(range(-1, 30))
    table = pa.Table.from_pylist(rows(*frames), schema=pa.schema([schema.field("clip_id"), schema.field("frames")]))
    need = Resources(cpus=0.5, workers=workers, batch_size=4)
    stages = [Doubler(resources=need), AddOne(resources=need)]
    done = {row["frames"]: row for block in run_stages(table, stages) for row in block.to_pylist()}
    assert sorted(done) == frames
    assert all(done[value]["aesthetic_mean"] == 2 * value + 1 for value in frames if value >= 0)
    assert done[-1]["failed_error"] == "ValueError"


@dataclass(frozen=True, kw_only=True)
class Unloadable(AddOne):
    """A stage whose settings turn out wrong when its model is loaded."""

    def load(self):
        raise ValueError("aesthetic.model is no model;\nchoose another")


@pytest.mark.parametrize("workers", [None, 1])
def test_a_model_that_cannot_be_loaded_is_one_plain_error(ray_session, workers):
    table = pa.table({"clip_id": ["c"], "motion_score": [1.0]})
    with pytest.raises(ValueError, match=r"^aesthetic.model is no model; choose another$"):
        list(run_stages(table, [Unloadable(resources=Resources(workers=workers))]))


@dataclass(frozen=True, kw_only=True)
class Captions(Stage):
    """Answers as a captioner may give them."""

    name = "caption"
    reads = ("clip_id",)
    adds = ("caption_short", "caption_long")

    def process(self, model, rows):
        return [
            {"caption_short": "cut \ud83d", "caption_long": "a"} if row["clip_id"] == "c0" else ValueError("bad \udce9")
            for row in rows
        ]


def test_half_a_character_from_a_model_is_replaced():
    table = pa.table({"clip_id": ["c0", "c1"]})
    cut, failed = ray_data._run_batch(table, Captions(), None, ()).to_pylist()
    assert cut["caption_short"] == "cut \ufffd"
    assert (failed["failed_stage"], failed["failed_message"]) == ("caption", "bad \ufffd")


def test_rows_are_streamed_with_progress_and_the_chosen_columns(ray_session):
    resources = Resources(cpus=0.5, batch_size=2)
    stages = [Doubler(resources=resources), AddOne(resources=resources)]
    with stream_rows(rows(*range(5)), stages, columns=["frames"]) as blocks:
        results = [row for block in blocks for row in block]
    assert sorted(row["aesthetic_mean"] for row in results) == [1, 3, 5, 7, 9]
    assert "clip_id" not in results[0]
