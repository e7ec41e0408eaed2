"""Second stage: where the shots of a video begin and end (PySceneDetect on frames that `media` decodes).

No clip crosses a detected cut. Shots shorter than the minimum are dropped rather than merged with a neighbour, because
a cut inside a clip is what training must not see; `shots_dropped` counts them. Where all are too short the longest
stays, so that every video gives a clip. Shots longer than the maximum are split evenly, at frames. An image is one
clip from 0 to 0.
"""

from __future__ import annotations

import itertools
import math
from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from pipelines.core.stage import Row, Stage
from pipelines.media.errors import MediaError
from pipelines.media.frames import stream_frames

if TYPE_CHECKING:
    from scenedetect import SceneDetector

THRESHOLDS = {"adaptive": 3.0, "content": 27.0}
"""PySceneDetect's defaults."""
WHOLE_PICTURE = {"start": 0.0, "end": 0.0, "frames": 1}


@dataclass(frozen=True, kw_only=True)
class Shots(Stage):
    """Finds hard cuts and turns what lies between them into clips of bounded length."""

    name: ClassVar[str] = "shots"
    reads: ClassVar[tuple[str, ...]] = ("uri", "kind", "fps", "duration")
    adds: ClassVar[tuple[str, ...]] = ("shots", "shots_dropped")

    detector: Literal["adaptive", "content"] = "adaptive"
    """`adaptive` compares a frame's change with that of its neighbours, so that fast motion is no cut; `content`
    compares it with a fixed threshold."""
    threshold: float | None = None
    """Ratio to the neighbours' change (adaptive, 3 by default) or change (content, 27 by default) that is a cut."""
    min_change: float = 15.0
    """Adaptive only: less change than this, in mean HSV levels of 255, is never a cut."""
    short_side: int = 144
    """Frames are compared at this short side in pixels."""
    min_seconds: float = 1.0
    """Shorter shots are dropped."""
    max_seconds: float = 10.0
    """Longer shots are split evenly."""

    def __post_init__(self) -> None:
        if self.detector not in THRESHOLDS:
            raise ValueError(f"shots.detector={self.detector!r}: give adaptive or content")
        if self.max_seconds < 2 * self.min_seconds:
            raise ValueError(
                f"shots.max_seconds={self.max_seconds:g} is less than twice shots.min_seconds={self.min_seconds:g}; "
                "halves of a long shot would be too short"
            )

    def load(self) -> Callable[[], SceneDetector]:
        """Returns what builds a detector, since each video needs a new one."""
        import cv2
        from scenedetect.detectors import AdaptiveDetector, ContentDetector

        cv2.setNumThreads(1)
        threshold = THRESHOLDS[self.detector] if self.threshold is None else self.threshold
        if self.detector == "content":
            return lambda: ContentDetector(threshold=threshold, min_scene_len=0)
        return lambda: AdaptiveDetector(adaptive_threshold=threshold, min_scene_len=0, min_content_val=self.min_change)

    def process(self, model: Callable[[], SceneDetector], rows: Sequence[Row]) -> list[Row | Exception]:
        """The clips of each file: dictionaries of start and end in seconds and a number of frames."""
        results: list[Row | Exception] = []
        for row in rows:
            try:
                results.append(self._shots(model, row))
            except MediaError as error:
                results.append(error)
        return results

    def _shots(self, new_detector: Callable[[], SceneDetector], row: Row) -> Row:
        if row["kind"] == "image":
            return {"shots": [dict(WHOLE_PICTURE)], "shots_dropped": 0}
        cuts, times = find_cuts(row["uri"], new_detector(), fps=row["fps"], short_side=self.short_side)
        times.append(max(row["duration"], times[-1] + 1 / row["fps"]))  # where the last shot ends
        found, dropped = keep_long([0, *cuts, len(times) - 1], times, self.min_seconds)
        parts = [part for shot in found for part in split_evenly(shot, times, self.max_seconds)]
        shots = [{"start": times[first], "end": times[last], "frames": last - first} for first, last in parts]
        return {"shots": shots, "shots_dropped": dropped}


def find_cuts(uri: str, detector: SceneDetector, *, fps: float, short_side: int) -> tuple[list[int], array[float]]:
    """Runs a detector over a video.

    Returns:
        The indices of the frames that begin a new shot, without the first frame, and the seconds of all frames.

    Raises:
        MediaError: the video cannot be decoded.
    """
    from scenedetect import FrameTimecode

    cuts: list[int] = []
    times = array("d")
    for index, (seconds, frame) in enumerate(stream_frames(uri, short_side=short_side)):
        times.append(seconds)
        bgr = np.ascontiguousarray(frame[..., ::-1])
        cuts += [cut.frame_num for cut in detector.process_frame(FrameTimecode(index, fps), bgr)]
    if not times:
        raise MediaError("no frame in it can be decoded")
    return sorted(set(cuts) - {0}), times


def keep_long(edges: Sequence[int], times: Sequence[float], seconds: float) -> tuple[list[tuple[int, int]], int]:
    """The shots between edges (frame indices) that last long enough, or else the longest, and how many were dropped."""
    shots = list(itertools.pairwise(edges))
    lengths = [times[last] - times[first] for first, last in shots]
    kept = [shot for shot, length in zip(shots, lengths, strict=True) if length > seconds - 1e-6]
    if not kept:
        kept = [shots[lengths.index(max(lengths))]]
    return kept, len(shots) - len(kept)


def split_evenly(shot: tuple[int, int], times: Sequence[float], seconds: float) -> list[tuple[int, int]]:
    """Splits a shot (frame indices) into equal parts of at most about `seconds`, at the frames nearest to the split."""
    first, last = shot
    length = times[last] - times[first]
    parts = max(1, math.ceil(length / seconds - 1e-6))
    wanted = [times[first] + length * part / parts for part in range(1, parts)]
    inner = [_nearest(times, time, first, last) for time in wanted]
    return list(zip([first, *inner], [*inner, last], strict=True))


def _nearest(times: Sequence[float], time: float, first: int, last: int) -> int:
    after = bisect_left(times, time, first, last)
    return after if after == first or times[after] - time < time - times[after - 1] else after - 1
