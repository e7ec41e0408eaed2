"""What every stage relies on: rows keep their results, bad rows go their own way, fresh rows are left alone."""

from dataclasses import dataclass

import pyarrow as pa
import pytest

from pipelines.core.ray_data import run_stages
from pipelines.core.stage import Resources, Stage, apply
from pipelines.store import schema


@dataclass(frozen=True, kw_only=True)
class Doubler(Stage):
    """Motion score = twice the number of frames; negative numbers are bad input."""

    name = "motion"
    reads = ("frames",)
    adds = ("motion_score",)

    factor: float = 2.0

    def process(self, model, rows):
        if any(row["frames"] == -2 for row in rows):
            raise RuntimeError("the whole batch\nbroke")
        return [
            ValueError("negative") if row["frames"] < 0 else {"motion_score": self.factor * row["frames"]}
            for row in rows
        ]


@dataclass(frozen=True, kw_only=True)
class AddOne(Stage):
    name = "aesthetic"
    reads = ("motion_score",)
    adds = ("aesthetic_mean",)

    def process(self, model, rows):
        return [{"aesthetic_mean": row["motion_score"] + 1} for row in rows]


def rows(*frames):
    return [{"clip_id": f"c{number}", "frames": value} for number, value in enumerate(frames)]


def test_results_go_to_their_own_rows():
    done = apply(Doubler(), None, rows(1, 5, 3))
    assert [row["motion_score"] for row in done] == [2, 10, 6]
    assert {row["motion_by"] for row in done} == {Doubler().fingerprint}


def test_a_bad_row_keeps_its_error_and_spares_the_others():
    done = apply(Doubler(), None, rows(1, -1, 3))
    assert [row["motion_score"] for row in done] == [2, None, 6]
    assert done[1]["failed_stage"] == "motion"
    assert (done[1]["failed_error"], done[1]["failed_message"]) == ("ValueError", "negative")
    assert done[1]["motion_by"] is None


def test_an_exception_in_a_batch_is_pinned_on_the_row_that_raised_it():
    done = apply(Doubler(), None, rows(1, -2, 3))
    assert [row["motion_score"] for row in done] == [2, None, 6]
    assert done[1]["failed_message"] == "the whole batch broke"


def test_failed_rows_are_left_alone_by_later_stages():
    done = apply(AddOne(), None, apply(Doubler(), None, rows(1, -1)))
    assert [row["aesthetic_mean"] for row in done] == [3, None]
    assert done[1]["failed_stage"] == "motion"


def test_fresh_rows_are_not_computed_again_and_stale_ones_are():
    first = apply(Doubler(), None, rows(1))
    kept = apply(Doubler(), None, [{**first[0], "motion_score": 99.0}])
    assert kept[0]["motion_score"] == 99.0
    assert apply(Doubler(factor=3.0), None, first)[0]["motion_score"] == 3.0


def test_the_fingerprint_follows_settings_and_not_resources():
    assert Doubler().fingerprint == Doubler(resources=Resources(batch_size=2)).fingerprint
    assert Doubler().fingerprint != Doubler(factor=3.0).fingerprint


def test_a_stage_that_returns_other_columns_than_it_declares_is_caught():
    class Liar(AddOne):
        def process(self, model, rows):
            return [{"aesthetic_min": 1.0} for _ in rows]

    with pytest.raises(AssertionError, match="declares"):
        apply(Liar(), None, [{"motion_score": 1.0}])


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
def test_what_cannot_be_loaded_is_one_plain_error(ray_session, workers):
    table = pa.table({"clip_id": ["c"], "motion_score": [1.0]})
    with pytest.raises(ValueError, match=r"^aesthetic.model is no model; choose another$"):
        list(run_stages(table, [Unloadable(resources=Resources(workers=workers))]))
