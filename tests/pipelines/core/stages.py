"""Stages without models, for the tests of what runs stages."""

from dataclasses import dataclass

from pipelines.core.stage import Stage


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
