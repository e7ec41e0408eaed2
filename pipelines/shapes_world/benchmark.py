"""The judging half of the benchmark `shapes`: what samples show, by classical means, against what was asked for.

    judge_sample(task, asked, frames, fps)   one sample
    JudgeShapes                              the same as a stage, on files
    summarise(rows)                          scores of all samples

A picture is right where it shows the things asked for and no others. Of a video the thing counts that covers most of
it: its way, and whether it keeps its colour and shape. `speed` has no right and wrong: it asks whether motion rises
with the score that is asked for.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np

from pipelines.core.stage import Row, Stage
from pipelines.curation.motion import REFERENCE_SECONDS, REFERENCE_SIDE
from pipelines.evaluation.metrics import Score
from pipelines.media.errors import MediaError
from pipelines.media.frames import read_frames
from pipelines.shapes_world.judge import Detection, Track, follow, look
from pipelines.shapes_world.prompts import TASKS
from pipelines.shapes_world.scenes import RELATIONS, Scene, Thing

LEAST_KEPT = 0.9
"""Share of the frames in which a colour or shape must be the same to be kept: in 17 frames, one may be misread."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a sample shows, and whether that is what was asked for; `schema.py` says what each field means."""

    right: bool | None
    seen: str
    fault: str | None = None
    color_right: bool | None = None
    shape_right: bool | None = None
    direction_right: bool | None = None
    color_kept: bool | None = None
    shape_kept: bool | None = None
    motion_measured: float | None = None


def judge_sample(task: str, asked: Scene, frames: np.ndarray, fps: float) -> Verdict:
    """Judges a sample.

    Args:
        task: a name of `prompts.TASKS`.
        asked: the scene that its prompt tells of.
        frames: RGB [N, H, W, 3] uint8.
        fps: of a video.
    """
    if task in _PICTURES:
        return _picture(_PICTURES[task], asked, look(frames[0]))
    part = frames[len(frames) // 2 :] if task == "extrapolation" else frames
    return _video(task, asked.things[0], _Film.of(part), fps)


# Pictures


def _picture(rule: Callable[[Scene, Sequence[Detection]], bool], asked: Scene, seen: Sequence[Detection]) -> Verdict:
    words = " and ".join(_named(thing) for thing in seen) or "nothing"
    right = rule(asked, seen)
    verdict = Verdict(right=right, seen=words, fault=None if right else f"shows {words}")
    if len(asked.things) > 1:
        return verdict
    (thing,) = asked.things
    largest = seen[0] if seen else None
    return replace(
        verdict,
        color_right=largest is not None and largest.colour == thing.colour,
        shape_right=largest is not None and largest.shape == thing.shape,
    )


def _has_shape(asked: Scene, seen: Sequence[Detection]) -> bool:
    return [thing.shape for thing in seen] == [thing.shape for thing in asked.things]


def _has_colour(asked: Scene, seen: Sequence[Detection]) -> bool:
    return [thing.colour for thing in seen] == [thing.colour for thing in asked.things]


def _has_all(asked: Scene, seen: Sequence[Detection]) -> bool:
    return Counter(map(_kind, seen)) == Counter(map(_kind, asked.things))


def _has_relation(asked: Scene, seen: Sequence[Detection]) -> bool:
    if not _has_all(asked, seen):
        return False
    first, second = (next(each for each in seen if _kind(each) == _kind(thing)) for thing in asked.things)
    way = (first.x - second.x, first.y - second.y)
    return max(RELATIONS, key=lambda name: np.dot(RELATIONS[name], way)) == asked.relation


def _kind(thing: Detection | Thing) -> tuple[str, str | None]:
    return thing.colour, thing.shape


_PICTURES: dict[str, Callable[[Scene, Sequence[Detection]], bool]] = {
    "single_object": _has_shape,
    "two_objects": _has_all,
    "counting": _has_all,
    "colors": _has_colour,
    "position": _has_relation,
}


# Videos


@dataclass(frozen=True)
class _Film:
    """The thing that covers most of a video."""

    track: Track | None
    """None where no frame shows anything."""
    colours: tuple[str | None, ...]
    """Of the largest thing in each frame."""
    shapes: tuple[str | None, ...]
    pixels: int
    """Of a frame."""

    @classmethod
    def of(cls, frames: np.ndarray) -> _Film:
        tracks = follow(frames)
        track = max(tracks, key=_covered, default=None)
        sights = zip(*(each.detections for each in tracks), strict=True) if tracks else ()
        largest = [max((each for each in sight if each), key=lambda each: each.area, default=None) for sight in sights]
        largest = largest or [None] * len(frames)
        colours = tuple(None if each is None else each.colour for each in largest)
        shapes = tuple(None if each is None else each.shape for each in largest)
        return cls(track, colours, shapes, frames.shape[1] * frames.shape[2])

    @property
    def seen(self) -> str:
        if self.track is None:
            return "nothing"
        where = "standing still" if self.track.direction is None else f"moving to the {self.track.direction}"
        return f"{_article(self.track.colour)} {self.track.shape or 'something'} {where}"

    def motion(self, fps: float) -> float:
        """Speed times the share of the frame that is covered, in the unit of `motion_score`."""
        if self.track is None:
            return 0.0
        areas = [each.area for each in self.track.detections if each is not None]
        pixels = self.track.speed(fps) * REFERENCE_SIDE * REFERENCE_SECONDS
        return pixels * sum(areas) / len(areas) / self.pixels


def _covered(track: Track) -> float:
    return sum(each.area for each in track.detections if each is not None)


_AS_ASKED = ("color_right", "shape_right", "direction_right")
_FAULTS = {
    "color_right": "another color",
    "shape_right": "another shape",
    "direction_right": "another direction",
    "color_kept": "its color is not kept",
    "shape_kept": "its shape is not kept",
}
_NEEDED = {
    "direction": _AS_ASKED,  # what its videos keep has a score of its own, permanence
    "image_to_video": (*_AS_ASKED, "color_kept", "shape_kept"),
    "extrapolation": (*_AS_ASKED, "color_kept", "shape_kept"),
}
"""What a video must have for a task."""


def _video(task: str, asked: Thing, film: _Film, fps: float) -> Verdict:
    track = film.track
    verdict = Verdict(
        right=None,
        seen=film.seen,
        color_right=track is not None and track.colour == asked.colour,
        shape_right=track is not None and track.shape == asked.shape,
        direction_right=track is not None and track.direction == asked.direction,
        color_kept=_kept(film.colours),
        shape_kept=_kept(film.shapes),
        motion_measured=film.motion(fps),
    )
    if task == "speed":
        return verdict
    faults = [_FAULTS[name] for name in _NEEDED[task] if not getattr(verdict, name)]
    if not faults:
        return replace(verdict, right=True)
    told = "" if track is None else f": {', '.join(faults)}"
    return replace(verdict, right=False, fault=f"shows {film.seen}{told}")


def _kept(names: Sequence[str | None]) -> bool:
    counts = Counter(name for name in names if name is not None)
    return bool(counts) and counts.most_common(1)[0][1] >= LEAST_KEPT * len(names)


def _named(thing: Detection) -> str:
    return f"{_article(thing.colour)} {thing.shape or 'something'}"


def _article(colour: str) -> str:
    return f"a{'n' * colour.startswith('o')} {colour}"


# All samples


@dataclass(frozen=True, kw_only=True)
class JudgeShapes(Stage):
    """Judges files of samples."""

    name: ClassVar[str] = "judge_shapes"
    reads: ClassVar[tuple[str, ...]] = ("uri", "frames", "fps", "task", "asked")
    adds: ClassVar[tuple[str, ...]] = tuple(Verdict.__dataclass_fields__)
    stamps: ClassVar[bool] = False

    def process(self, model: None, rows: Sequence[Row]) -> list[Row | Exception]:
        return [self._judged(row) for row in rows]

    def _judged(self, row: Row) -> Row | Exception:
        fps = row["fps"] or 1.0
        try:
            frames = read_frames(row["uri"], [(index + 0.5) / fps for index in range(row["frames"])])
        except MediaError as error:
            return error
        return asdict(judge_sample(row["task"], read_scene(row["asked"]), frames, fps))


def write_scene(scene: Scene) -> str:
    """A scene as the column `asked` holds it."""
    return json.dumps(asdict(scene))


def read_scene(text: str) -> Scene:
    """The scene in the column `asked`."""
    values = json.loads(text)
    return Scene(**{**values, "things": tuple(Thing(**thing) for thing in values["things"])})


def summarise(rows: Iterable[Mapping[str, Any]]) -> dict[str, Score]:
    """Scores of judged samples, 0 to 1; tasks without samples are left out.

    Besides the tasks: `color_accuracy` and `shape_accuracy` over the pictures of one thing; over the videos of
    `direction`, `direction_accuracy` (whatever thing it is that goes there), `color_kept`, `shape_kept` and both
    together, `permanence`.
    """
    by_task: dict[str, list[Mapping[str, Any]]] = {task: [] for task in TASKS}
    for row in rows:
        by_task[row["task"]].append(row)
    single, moving = by_task["single_object"] + by_task["colors"], by_task["direction"]
    shares = {
        **{task: [row["right"] for row in by_task[task]] for task in TASKS if task != "speed"},
        "color_accuracy": [row["color_right"] for row in single],
        "shape_accuracy": [row["shape_right"] for row in single],
        "direction_accuracy": [row["direction_right"] for row in moving],
        "color_kept": [row["color_kept"] for row in moving],
        "shape_kept": [row["shape_kept"] for row in moving],
        "permanence": [row["color_kept"] and row["shape_kept"] for row in moving],
    }
    scores = {name: Score(sum(values) / len(values), len(values)) for name, values in shares.items() if values}
    if by_task["speed"]:
        asked, measured = levels(by_task["speed"])
        scores["speed"] = Score(max(0.0, spearman(asked, measured)), len(asked))
    return scores


def levels(rows: Iterable[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    """Motion scores asked for, and motion measured, of the samples of `speed`."""
    listed = [row for row in rows if row["task"] == "speed"]
    return [row["asked_motion"] for row in listed], [row["motion_measured"] for row in listed]


def speed_details(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """How motion follows what is asked for; nothing without samples of `speed`."""
    asked, measured = levels(rows)
    if not asked:
        return {}
    pairs = list(zip(asked, measured, strict=True))
    means = {f"{level:g}": float(np.mean([m for a, m in pairs if a == level])) for level in sorted(set(asked))}
    best = spearman(sorted(asked), list(range(len(asked))))
    return {"spearman": spearman(asked, measured), "best_spearman": best, "mean_motion": means}


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Rank correlation, equal values at their mean rank; 0 where either never changes.

    A few levels against measurements that all differ cannot reach 1: four levels reach 0.968.
    """
    one, two = _ranks(first), _ranks(second)
    if np.ptp(one) == 0 or np.ptp(two) == 0:
        return 0.0
    return float(np.corrcoef(one, two)[0, 1])


def _ranks(values: Sequence[float]) -> np.ndarray:
    _, place, counts = np.unique(np.asarray(values, float), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]
