"""Shots of a video, by PySceneDetect on frames that `pipelines.media` decodes.

No clip crosses a detected cut. Shots shorter than the minimum are dropped rather than merged with a neighbour, because
a model that is trained on clips with cuts generates cuts; `shots_dropped` counts them. Where all shots are too short,
the longest one is kept, so that every video gives a clip. Shots longer than the maximum are split evenly, at frame
boundaries. An image is one clip from 0 to 0.
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
IMAGE_SHOT = {"start": 0.0, "end": 0.0, "frames": 1}


@dataclass(frozen=True, kw_only=True)
class Shots(Stage):
    """Finds hard cuts and turns the shots between them into clips of bounded length."""

    name: ClassVar[str] = "shots"
    reads: ClassVar[tuple[str, ...]] = ("uri", "kind", "fps", "duration")
    adds: ClassVar[tuple[str, ...]] = ("shots", "shots_dropped")

    detector: Literal["adaptive", "content"] = "adaptive"
    """`adaptive` compares a frame's change with that of its neighbours, so that fast motion is not taken for a cut;
    `content` compares it with a fixed threshold."""
    threshold: float | None = None
    """A cut is a change of at least this many times the neighbours' (adaptive, 3 by default), or of at least this much
    (content, 27 by default)."""
    min_change: float = 15.0
    """Adaptive only: less change than this, in mean HSV levels of 255, is never a cut."""
    short_side: int = 144
    """Short side in pixels at which frames are compared."""
    min_seconds: float = 1.0
    """Shorter shots are dropped."""
    max_seconds: float = 10.0
    """Longer shots are split evenly."""

    def __post_init__(self) -> None:
        if self.detector not in THRESHOLDS:
            raise ValueError(f"shots.detector={self.detector!r} is unknown; give adaptive or content")
        if self.max_seconds < 2 * self.min_seconds:
            raise ValueError(
                f"shots.max_seconds={self.max_seconds:g} is less than twice shots.min_seconds={self.min_seconds:g}, so "
                "that halves of a long shot would be too short; raise one or lower the other"
            )

    def unused_settings(self) -> dict[str, str]:
        if self.detector == "adaptive":
            return {}
        return {"min_change": f"with shots.detector={self.detector}; set shots.threshold, or leave it out"}

    def load(self) -> Callable[[], SceneDetector]:
        """Returns a function that builds a detector: detectors keep state, so each video needs a new one."""
        import cv2
        from scenedetect.detectors import AdaptiveDetector, ContentDetector

        cv2.setNumThreads(1)  # otherwise every worker starts a thread for each core of the machine
        threshold = THRESHOLDS[self.detector] if self.threshold is None else self.threshold
        if self.detector == "content":
            # min_scene_len=0: PySceneDetect would ignore cuts soon after another one; short shots are dropped below.
            return lambda: ContentDetector(threshold=threshold, min_scene_len=0)
        return lambda: AdaptiveDetector(adaptive_threshold=threshold, min_scene_len=0, min_content_val=self.min_change)

    def process(self, model: Callable[[], SceneDetector], rows: Sequence[Row]) -> list[Row | Exception]:
        """The shots of each file: dictionaries of start and end in seconds and a number of frames."""
        results: list[Row | Exception] = []
        for row in rows:
            try:
                results.append(self._shots(model, row))
            except MediaError as error:
                results.append(error)
        return results

    def _shots(self, new_detector: Callable[[], SceneDetector], row: Row) -> Row:
        if row["kind"] == "image":
            return {"shots": [dict(IMAGE_SHOT)], "shots_dropped": 0}
        cuts, times = find_cuts(row["uri"], new_detector(), fps=row["fps"], short_side=self.short_side)
        times.append(max(row["duration"], times[-1] + 1 / row["fps"]))  # the end of the last shot
        long_shots, dropped = keep_long([0, *cuts, len(times) - 1], times, self.min_seconds)
        pieces = [piece for shot in long_shots for piece in split_evenly(shot, times, self.max_seconds)]
        shots = [{"start": times[first], "end": times[last], "frames": last - first} for first, last in pieces]
        return {"shots": shots, "shots_dropped": dropped}


def find_cuts(uri: str, detector: SceneDetector, *, fps: float, short_side: int) -> tuple[list[int], array[float]]:
    """Runs a detector over a video.

    Returns:
        The indices of the frames that start a new shot, without the first frame, and the seconds of all frames.

    Raises:
        MediaError: the video cannot be decoded.
    """
    from scenedetect import FrameTimecode

    cuts: list[int] = []
    # 8 bytes a frame: a list would take 32, and a video of six hours has 600,000 frames.
    times = array("d")
    # Frames are streamed, and no more than one is in memory. Decoded by our own reader, so that cuts and later reads of
    # a clip agree on the time of every frame; PySceneDetect would count frames at a constant rate.
    for index, (seconds, frame) in enumerate(stream_frames(uri, short_side=short_side)):
        times.append(seconds)
        bgr = np.ascontiguousarray(frame[..., ::-1])  # PySceneDetect takes OpenCV's order of channels
        cuts += [cut.frame_num for cut in detector.process_frame(FrameTimecode(index, fps), bgr)]
    if not times:
        raise MediaError("no frame in it can be decoded")
    # The first frame starts the first shot anyway. The adaptive detector compares with later frames too, so it reports
    # a cut some frames after it.
    return sorted(set(cuts) - {0}), times


def keep_long(edges: Sequence[int], times: Sequence[float], seconds: float) -> tuple[list[tuple[int, int]], int]:
    """The shots that last at least `seconds`, or else the longest one, and how many were dropped.

    Args:
        edges: frame indices between which the shots lie.
        times: seconds of all frames, and of the end.
        seconds: minimum length.
    """
    shots = list(itertools.pairwise(edges))
    lengths = [times[last] - times[first] for first, last in shots]
    # The tolerance is for sums of frame times, which rarely hit a round number of seconds.
    long_shots = [shot for shot, length in zip(shots, lengths, strict=True) if length > seconds - 1e-6]
    if not long_shots:
        long_shots = [shots[lengths.index(max(lengths))]]
    return long_shots, len(shots) - len(long_shots)


def split_evenly(shot: tuple[int, int], times: Sequence[float], seconds: float) -> list[tuple[int, int]]:
    """Splits a shot (frame indices) into equal pieces of about `seconds` at most, at the nearest frames."""
    first, last = shot
    length = times[last] - times[first]
    # Equal pieces rather than full ones and a remainder, which would often be too short to be used.
    count = max(1, math.ceil(length / seconds - 1e-6))
    splits = [times[first] + length * index / count for index in range(1, count)]
    inner = [_nearest(times, time, first, last) for time in splits]
    return list(zip([first, *inner], [*inner, last], strict=True))


def _nearest(times: Sequence[float], time: float, first: int, last: int) -> int:
    """Index of the frame between `first` and `last` whose time is nearest."""
    after = bisect_left(times, time, first, last)
    return after if after == first or times[after] - time < time - times[after - 1] else after - 1
