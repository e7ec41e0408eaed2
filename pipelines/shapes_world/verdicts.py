"""Judges one sample of the benchmark `shapes`: whether it shows what its prompt describes.

    judge_sample(task, scene, frames, fps)   judges the frames of a sample
    JudgeShapes                              the same as a stage, on files

A picture is right where it shows the things of its prompt and no others. A video is judged by the thing that covers
most of it: its direction, and whether it keeps its colour and shape. Samples of `speed` are neither right nor wrong:
that task measures whether motion rises with the motion score that conditions the model.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np

from pipelines.core.stage import Row, Stage
from pipelines.curation.motion import REFERENCE_SECONDS, REFERENCE_SIDE
from pipelines.media.errors import MediaError
from pipelines.media.frames import read_frames
from pipelines.shapes_world.columns import COLUMNS
from pipelines.shapes_world.judge import Detection, Track, detect, follow
from pipelines.shapes_world.scenes import RELATIONS, Scene, Thing
from pipelines.store import schema

# At import, so that a Ray worker that unpickles `JudgeShapes` knows the columns, too.
schema.register(COLUMNS)

MIN_CONSTANCY = 0.9
"""Share of the frames in which a colour or shape must be the same to be kept: in 17 frames, one may be misread."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a sample shows, and whether that agrees with its prompt; `columns.py` explains the column of each field."""

    right: bool | None
    description: str
    fault: str | None = None
    color_right: bool | None = None
    shape_right: bool | None = None
    direction_right: bool | None = None
    color_kept: bool | None = None
    shape_kept: bool | None = None
    motion_measured: float | None = None

    def columns(self) -> Row:
        """The verdict as columns of a table; the description's column is `seen`."""
        return {_column_of(name): value for name, value in asdict(self).items()}


def _column_of(field_name: str) -> str:
    return "seen" if field_name == "description" else field_name


def judge_sample(task: str, scene: Scene, frames: np.ndarray, fps: float) -> Verdict:
    """Judges a sample.

    Args:
        task: a name of `prompts.TASKS`.
        scene: the scene that the prompt describes.
        frames: RGB [N, H, W, 3] uint8.
        fps: frames per second of a video.
    """
    if task in _PICTURE_RULES:
        return _judge_picture(_PICTURE_RULES[task], scene, detect(frames[0]))
    # The first half of an extrapolation is as long as videos in training; only the second half is new.
    section = frames[len(frames) // 2 :] if task == "extrapolation" else frames
    return _judge_video(task, scene.things[0], _VideoContent.of(section), fps)


# Pictures


def _judge_picture(
    rule: Callable[[Scene, Sequence[Detection]], bool], scene: Scene, detections: Sequence[Detection]
) -> Verdict:
    description = " and ".join(_describe(detection) for detection in detections) or "nothing"
    right = rule(scene, detections)
    verdict = Verdict(right=right, description=description, fault=None if right else f"shows {description}")
    if len(scene.things) > 1:
        return verdict
    (thing,) = scene.things
    largest = detections[0] if detections else None
    return replace(
        verdict,
        color_right=largest is not None and largest.colour == thing.colour,
        shape_right=largest is not None and largest.shape == thing.shape,
    )


def _has_shape(scene: Scene, detections: Sequence[Detection]) -> bool:
    return [detection.shape for detection in detections] == [thing.shape for thing in scene.things]


def _has_colour(scene: Scene, detections: Sequence[Detection]) -> bool:
    return [detection.colour for detection in detections] == [thing.colour for thing in scene.things]


def _has_all(scene: Scene, detections: Sequence[Detection]) -> bool:
    return Counter(map(_kind, detections)) == Counter(map(_kind, scene.things))


def _has_relation(scene: Scene, detections: Sequence[Detection]) -> bool:
    if not _has_all(scene, detections):
        return False
    first, second = (
        next(detection for detection in detections if _kind(detection) == _kind(thing)) for thing in scene.things
    )
    offset = (first.x - second.x, first.y - second.y)
    return max(RELATIONS, key=lambda name: np.dot(RELATIONS[name], offset)) == scene.relation


def _kind(thing: Detection | Thing) -> tuple[str, str | None]:
    return thing.colour, thing.shape


_PICTURE_RULES: dict[str, Callable[[Scene, Sequence[Detection]], bool]] = {
    "single_object": _has_shape,
    "two_objects": _has_all,
    "counting": _has_all,
    "colors": _has_colour,
    "position": _has_relation,
}


# Videos


@dataclass(frozen=True)
class _VideoContent:
    """What a video shows."""

    track: Track | None
    """The thing that covers most of the video; None where no frame shows anything."""
    colours: tuple[str | None, ...]
    """Colour of the largest thing in each frame."""
    shapes: tuple[str | None, ...]
    """Shape of the largest thing in each frame."""
    pixels: int
    """Pixels of a frame."""

    @classmethod
    def of(cls, frames: np.ndarray) -> _VideoContent:
        tracks = follow(frames)
        track = max(tracks, key=_covered_area, default=None)
        by_frame = zip(*(track.detections for track in tracks), strict=True) if tracks else ()
        # The largest thing of a frame, whichever track it is on: a thing that changes colour begins a new track.
        largest = [_largest(detections) for detections in by_frame] or [None] * len(frames)
        colours = tuple(None if detection is None else detection.colour for detection in largest)
        shapes = tuple(None if detection is None else detection.shape for detection in largest)
        return cls(track, colours, shapes, frames.shape[1] * frames.shape[2])

    @property
    def description(self) -> str:
        if self.track is None:
            return "nothing"
        motion = "standing still" if self.track.direction is None else f"moving to the {self.track.direction}"
        return f"{_article(self.track.colour)} {self.track.shape or 'something'} {motion}"

    def motion(self, fps: float) -> float:
        """Speed times the share of the frame that is covered, in the unit of `motion_score`."""
        if self.track is None:
            return 0.0
        areas = [detection.area for detection in self.track.detections if detection is not None]
        pixels = self.track.speed(fps) * REFERENCE_SIDE * REFERENCE_SECONDS
        return pixels * sum(areas) / len(areas) / self.pixels


def _covered_area(track: Track) -> float:
    return sum(detection.area for detection in track.detections if detection is not None)


def _largest(detections: Sequence[Detection | None]) -> Detection | None:
    present = [detection for detection in detections if detection]
    return max(present, key=lambda detection: detection.area, default=None)


_PROMPT_RULES = ("color_right", "shape_right", "direction_right")
_FAULTS = {
    "color_right": "another color",
    "shape_right": "another shape",
    "direction_right": "another direction",
    "color_kept": "its color is not kept",
    "shape_kept": "its shape is not kept",
}
_VIDEO_RULES = {
    "direction": _PROMPT_RULES,  # whether colour and shape are kept is a score of its own, permanence
    "image_to_video": (*_PROMPT_RULES, "color_kept", "shape_kept"),
    "extrapolation": (*_PROMPT_RULES, "color_kept", "shape_kept"),
}
"""Fields of the verdict that must be true for a video of a task to be right."""


def _judge_video(task: str, thing: Thing, content: _VideoContent, fps: float) -> Verdict:
    track = content.track
    verdict = Verdict(
        right=None,
        description=content.description,
        color_right=track is not None and track.colour == thing.colour,
        shape_right=track is not None and track.shape == thing.shape,
        direction_right=track is not None and track.direction == thing.direction,
        color_kept=_is_constant(content.colours),
        shape_kept=_is_constant(content.shapes),
        motion_measured=content.motion(fps),
    )
    if task == "speed":
        return verdict
    faults = [_FAULTS[name] for name in _VIDEO_RULES[task] if not getattr(verdict, name)]
    if not faults:
        return replace(verdict, right=True)
    reasons = "" if track is None else f": {', '.join(faults)}"
    return replace(verdict, right=False, fault=f"shows {content.description}{reasons}")


def _is_constant(names: Sequence[str | None]) -> bool:
    counts = Counter(name for name in names if name is not None)
    return bool(counts) and counts.most_common(1)[0][1] >= MIN_CONSTANCY * len(names)


def _describe(detection: Detection) -> str:
    return f"{_article(detection.colour)} {detection.shape or 'something'}"


def _article(colour: str) -> str:
    return f"a{'n' * colour.startswith('o')} {colour}"


# Files


@dataclass(frozen=True, kw_only=True)
class JudgeShapes(Stage):
    """Judges sample files."""

    name: ClassVar[str] = "judge_shapes"
    reads: ClassVar[tuple[str, ...]] = ("uri", "frames", "fps", "task", "asked")
    adds: ClassVar[tuple[str, ...]] = tuple(_column_of(name) for name in Verdict.__dataclass_fields__)
    stamps: ClassVar[bool] = False

    def process(self, model: None, rows: Sequence[Row]) -> list[Row | Exception]:
        return [self._judge(row) for row in rows]

    def _judge(self, row: Row) -> Row | Exception:
        fps = row["fps"] or 1.0
        try:
            # Times in the middle of each frame: at its very start, rounding could pick the frame before.
            frames = read_frames(row["uri"], [(index + 0.5) / fps for index in range(row["frames"])])
        except MediaError as error:
            return error
        return judge_sample(row["task"], read_scene(row["asked"]), frames, fps).columns()


def write_scene(scene: Scene) -> str:
    """Serialises a scene for the column `asked`."""
    return json.dumps(asdict(scene))


def read_scene(text: str) -> Scene:
    """Reads a scene from the column `asked`."""
    values: dict[str, Any] = json.loads(text)
    return Scene(**{**values, "things": tuple(Thing(**thing) for thing in values["things"])})
