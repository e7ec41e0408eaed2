"""Times of frames: timestamps as seconds that increase, frame rates, and the places where a recording pauses.

Pure functions over timestamps; `videos.py` decodes. Containers of real collections count from anywhere, wrap around,
start again where files were joined, and stop for minutes while a screen does not change. Everything downstream works
with seconds from the first frame.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

MAX_JUMP = 10.0
"""Seconds: in formats that allow discontinuities, a longer step forwards is one. FFmpeg's threshold."""
MIN_PAUSE = 0.5
"""Seconds: a shorter interval between two frames is never a pause."""
PAUSE_RATIO = 4.0
"""A pause is an interval this many times as long as those around it."""
RECENT = 15
"""Number of intervals before a frame that tell how long an interval usually is there."""
SAME_RATE = 0.01
"""Share by which two rates that are the same may differ."""
AHEAD = 4
"""Number of intervals for which another rate has to last."""
JITTER = 0.1
"""Share of a frame's length by which frames follow each other whose timestamps are equal or slightly out of order."""


class Timeline:
    """Turns the timestamps of frames, in the order in which they are shown, into increasing seconds.

    Args:
        tick: seconds of a unit of the timestamps.
        step: seconds from one frame to the next where the timestamps do not tell.
        origin: timestamp of the first frame; by default that of the first one passed in.
        has_jumps: whether the format allows timestamps to jump forwards, as transport streams do.
    """

    def __init__(self, tick: Fraction, step: float, *, origin: int | None = None, has_jumps: bool = False) -> None:
        self.tick, self.step, self.origin, self.has_jumps = tick, step, origin, has_jumps
        self.has_jumped = False
        """Whether the last frame began a new count of timestamps, as where recordings were joined."""
        self._shift = 0.0
        self._previous: float | None = None

    def seconds(self, timestamp: int | None) -> float:
        """Seconds from the first frame at which a frame is shown; one without a timestamp follows the frame before."""
        self.has_jumped = False
        self._previous = self._next(timestamp)
        return self._previous

    def _next(self, timestamp: int | None) -> float:
        previous = self._previous
        if timestamp is None:
            return 0.0 if previous is None else previous + self.step
        if self.origin is None:
            # Frames without timestamps may have come before.
            self.origin = timestamp - (0 if previous is None else round((previous + self.step) / self.tick))
        stated = float((timestamp - self.origin) * self.tick)
        if previous is None:
            return stated
        if self._shift > 0 and stated > previous:  # a single wrong timestamp, after which the old count goes on
            self._shift = 0.0
        seconds = stated + self._shift
        if previous < seconds and not (self.has_jumps and seconds > previous + MAX_JUMP):
            return seconds
        if previous - self.step < seconds <= previous:
            return previous + JITTER * self.step
        # A new count, as where two recordings were joined: its intervals stay, and its first frame follows the last.
        self.has_jumped = True
        self._shift += previous + self.step - seconds
        return previous + self.step


def frame_rate(times: Sequence[float]) -> float | None:
    """Frames per second while frames arrive, pauses left out; None for fewer than two frames.

    Args:
        times: seconds of the frames, increasing.
    """
    intervals = [later - earlier for earlier, later in pairwise(times)]
    if not intervals:
        return None
    usual = statistics.median(intervals)
    playing = [interval for interval in intervals if not is_pause(interval, usual)]
    # The mean, since the intervals of film in a video, or of a camera that drops frames, alternate.
    return len(playing) / sum(playing)


def snapped(fps: float | None, stated: float | Fraction | None) -> float | None:
    """A measured rate, or the stated one where they agree: containers round times, and 30 should not be 29.997."""
    if fps and stated and abs(fps / float(stated) - 1) < SAME_RATE:
        return float(stated)
    return fps


def is_pause(interval: float, usual: float) -> bool:
    """Whether an interval is a pause beside others of usual length, in seconds."""
    return interval > MIN_PAUSE and interval > PAUSE_RATIO * usual


def rate_breaks(times: Sequence[float]) -> list[int]:
    """Indices of frames that start a section of another rate: after a pause, or where slow and quick frames meet.

    A section of slow frames, such as a screen recorder's while nothing moves, is no sequence of pauses: an interval is
    compared with those before it in the same section, and a change has to last for `AHEAD` intervals. The frame that
    begins a slow section belongs to it; a frame that is shown through a pause belongs to what comes before.

    Args:
        times: seconds of the frames, increasing.
    """
    intervals = [later - earlier for earlier, later in pairwise(times)]
    breaks: list[int] = []
    recent: deque[float] = deque(maxlen=RECENT)
    for index, interval in enumerate(intervals):
        ahead = intervals[index : index + AHEAD]
        usual = statistics.median(recent) if recent else interval
        if len(ahead) == AHEAD and _differs(interval, usual) and _differs(statistics.median(ahead), usual):
            breaks.append(index)
            recent.clear()
        elif is_pause(interval, usual):
            breaks.append(index + 1)
            recent.clear()
            continue
        elif is_pause(usual, interval):
            breaks.append(index)
            recent.clear()
        recent.append(interval)
    return breaks


def _differs(one: float, other: float) -> bool:
    """Whether two lengths of frames are of different rates."""
    return max(one, other) > PAUSE_RATIO * min(one, other)
