"""Shots of a video, by PySceneDetect on frames that `pipelines.media` decodes.

No clip crosses a detected cut, a pause of the recording, or a change of the frames' shape. Shots shorter than the
minimum are dropped rather than merged with a neighbour, because a model that is trained on clips with cuts generates
cuts; `shots_dropped` counts them. Where all shots are too short, the longest one is kept, so that every video gives a
clip. Shots longer than the maximum are split evenly, at frame boundaries. An image is one clip from 0 to 0.

Every shot has the size of its own frames and their own rate, which differ within a file where a recorder changes them.
"""

from __future__ import annotations

import itertools
import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from pipelines.core.stage import Row, Stage
from pipelines.media.errors import MediaError
from pipelines.media.frames import stream_frames
from pipelines.media.timeline import frame_rate, is_pause, rate_breaks, snapped

if TYPE_CHECKING:
    from scenedetect import SceneDetector

THRESHOLDS = {"adaptive": 3.0, "content": 27.0}
"""PySceneDetect's defaults."""


@dataclass(frozen=True, kw_only=True)
class Shots(Stage):
    """Finds hard cuts and turns the shots between them into clips of bounded length."""

    name: ClassVar[str] = "shots"
    reads: ClassVar[tuple[str, ...]] = ("uri", "kind", "fps", "duration", "width", "height")
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
        """The shots of each file: dictionaries of start and end in seconds, number of frames, their rate and size."""
        results: list[Row | Exception] = []
        for row in rows:
            try:
                results.append(self._shots(model, row))
            except MediaError as error:
                results.append(error)
        return results

    def _shots(self, new_detector: Callable[[], SceneDetector], row: Row) -> Row:
        if row["kind"] == "image":
            facts = {"fps": None, "width": row["width"], "height": row["height"]}
            return {"shots": [{"start": 0.0, "end": 0.0, "frames": 1, **facts}], "shots_dropped": 0}
        analysis = analyse(row["uri"], new_detector, fps=row["fps"], short_side=self.short_side)
        times = analysis.times
        # The duration follows from what the container states, and may end before a frame that can be decoded.
        end = row["duration"] if row["duration"] > times[-1] else times[-1] + 1 / row["fps"]
        edges = sorted({0, *analysis.cuts, *rate_breaks(times), len(times)})
        spans = [Span.of(first, last, times, end, row["fps"]) for first, last in itertools.pairwise(edges)]
        long_spans, dropped = keep_long(spans, self.min_seconds)
        pieces = [piece for span in long_spans for piece in split_evenly(span, times, self.max_seconds)]
        return {"shots": [_shot(piece, analysis, row["fps"]) for piece in pieces], "shots_dropped": dropped}


def _shot(span: Span, analysis: Analysis, fps: float) -> Row:
    width, height = analysis.sizes[bisect_right(analysis.sizes, span.first, key=itemgetter(0)) - 1][1]
    # Its own rate: that of the file averages over sections of other rates.
    rate = snapped(frame_rate(analysis.times[span.first : span.last]), fps) or 1 / (span.end - span.start)
    return {
        "start": span.start, "end": span.end, "frames": span.last - span.first, "fps": rate, "width": width,
        "height": height,
    }  # fmt: skip


@dataclass(frozen=True)
class Analysis:
    """What a pass over all frames of a video tells."""

    cuts: list[int]
    """Indices of frames that start a new shot, because the picture, its shape or the recording changes; without 0."""
    times: array[float]
    """Seconds of all frames."""
    sizes: list[tuple[int, tuple[int, int]]]
    """(width, height) in square pixels before turning, and the index of the first frame of that size."""


def analyse(uri: str, new_detector: Callable[[], SceneDetector], *, fps: float, short_side: int) -> Analysis:
    """Runs a detector over a video.

    Args:
        uri: path or address of the video.
        new_detector: builds a detector; one is needed for each shape of the frames.
        fps: frame rate to state to the detector.
        short_side: short side in pixels at which frames are compared.

    Raises:
        MediaError: the video cannot be decoded.
    """
    from scenedetect import FrameTimecode

    cuts: set[int] = set()
    sizes: list[tuple[int, tuple[int, int]]] = []
    # 8 bytes a frame: a list would take 32, and a video of six hours has 600,000 frames.
    times = array("d")
    detector, shape = new_detector(), None
    # Frames are streamed, and no more than one is in memory. Decoded by our own reader, so that cuts and later reads of
    # a clip agree on the time of every frame; PySceneDetect would count frames at a constant rate.
    for index, frame in enumerate(stream_frames(uri, short_side=short_side)):
        times.append(frame.seconds)
        if not sizes or sizes[-1][1] != (frame.width, frame.height):
            sizes.append((index, (frame.width, frame.height)))
        if frame.has_jumped:
            cuts.add(index)
        if frame.pixels.shape != shape:  # a phone was turned; frames of one aspect have one shape here
            cuts.add(index)
            detector, shape = new_detector(), frame.pixels.shape
        bgr = np.ascontiguousarray(frame.pixels[..., ::-1])  # PySceneDetect takes OpenCV's order of channels
        # The adaptive detector compares with later frames too, so it reports a cut some frames after it.
        cuts.update(cut.frame_num for cut in detector.process_frame(FrameTimecode(index, fps), bgr))
    if not times:
        raise MediaError("no frame in it can be decoded")
    return Analysis(sorted(cuts - {0}), times, sizes)


@dataclass(frozen=True)
class Span:
    """Consecutive frames of a video, from the index `first` up to and without `last`, and their seconds."""

    first: int
    last: int
    start: float
    end: float

    @classmethod
    def of(cls, first: int, last: int, times: Sequence[float], end: float, fps: float) -> Span:
        """The span of some frames; where a pause follows, it ends after the usual length of a frame.

        Args:
            first, last: indices of the first frame and of the one after the last.
            times: seconds of all frames.
            end: end of the video in seconds.
            fps: frame rate of the video, for a span of a single frame.
        """
        following = times[last] if last < len(times) else end
        usual = 1 / (frame_rate(times[first:last]) or fps)
        is_followed_by_pause = is_pause(following - times[last - 1], usual)
        return cls(first, last, times[first], times[last - 1] + usual if is_followed_by_pause else following)


def keep_long(spans: Sequence[Span], seconds: float) -> tuple[list[Span], int]:
    """The spans that last at least `seconds`, or else the longest one, and how many were dropped."""
    # The tolerance is for sums of frame times, which rarely hit a round number of seconds.
    long_spans = [span for span in spans if span.end - span.start > seconds - 1e-6]
    if not long_spans:
        long_spans = [max(spans, key=lambda span: span.end - span.start)]
    return long_spans, len(spans) - len(long_spans)


def split_evenly(span: Span, times: Sequence[float], seconds: float) -> list[Span]:
    """Splits a span into equal pieces of about `seconds` at most, at the nearest frames.

    Where frames are rarer than pieces, a piece is a frame, however long it is shown.
    """
    length = span.end - span.start
    # Equal pieces rather than full ones and a remainder, which would often be too short to be used.
    count = max(1, math.ceil(length / seconds - 1e-6))
    splits = [span.start + length * index / count for index in range(1, count)]
    # A set, as two splits may be nearest to the same frame.
    edges = sorted({span.first, *(_nearest(times, split, span.first, span.last) for split in splits)})
    pieces = itertools.pairwise([*edges, span.last])
    return [Span(first, last, times[first], span.end if last == span.last else times[last]) for first, last in pieces]


def _nearest(times: Sequence[float], time: float, first: int, last: int) -> int:
    """Index of the frame from `first` up to and without `last` whose time is nearest."""
    after = min(bisect_left(times, time, first, last), last - 1)
    return after if after == first or times[after] - time < time - times[after - 1] else after - 1
