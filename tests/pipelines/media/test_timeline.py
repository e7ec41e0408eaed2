"""Times increase from the first frame on, whatever a container states; pauses are told from slow sections."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.media.timeline import Timeline, frame_rate, rate_breaks, snapped

TICK = Fraction(1, 1000)


def seconds(timestamps, *, fps=25, has_jumps=False):
    timeline = Timeline(TICK, 1 / fps, has_jumps=has_jumps)
    return [round(timeline.seconds(timestamp), 6) for timestamp in timestamps]


@pytest.mark.parametrize(
    ("timestamps", "expected"),
    [
        ([-7300, -7260, -7220], [0, 0.04, 0.08]),  # a transport stream whose clock was about to wrap
        ([None, None, None], [0, 0.04, 0.08]),  # an elementary stream
        ([500, None, 580], [0, 0.04, 0.08]),
        ([None, 40, 80], [0, 0.04, 0.08]),
        ([0, 40, 80, 0, 40, 80], [0, 0.04, 0.08, 0.12, 0.16, 0.2]),  # two recordings, joined
        ([0, 40, 20, 120, 160], [0, 0.04, 0.044, 0.12, 0.16]),  # one frame that is out of order
        ([0, 40, 80, -5000, 160, 200], [0, 0.04, 0.08, 0.12, 0.16, 0.2]),  # one wrong timestamp
        ([0, 40, 40, 120], [0, 0.04, 0.044, 0.12]),
        ([0, 40, 60_000], [0, 0.04, 60]),  # a pause
    ],
)
def test_times_run_forwards_from_the_first_frame(timestamps, expected):
    assert seconds(timestamps) == expected


def test_a_new_count_of_timestamps_is_told():
    timeline = Timeline(TICK, 1 / 25, has_jumps=True)
    jumps = []
    for timestamp in [0, 40, 20, 80, 0, 40, 3_600_000, None, 3_600_080]:
        timeline.seconds(timestamp)
        jumps.append(timeline.has_jumped)
    assert jumps == [False, False, False, False, True, False, True, False, False]


def test_jumps_of_formats_that_have_them_are_closed():
    assert seconds([0, 40, 3_600_000, 3_600_040], has_jumps=True) == [0, 0.04, 0.08, 0.12]
    assert seconds([0, 40, 5_000], has_jumps=True) == [0, 0.04, 5], "a pause, as FFmpeg takes it"


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.lists(st.none() | st.integers(-(2**40), 2**40) | st.integers(0, 2000), min_size=1), st.booleans())
def test_any_timestamps_give_increasing_seconds(timestamps, has_jumps):
    timeline = Timeline(TICK, 1 / 25, has_jumps=has_jumps)
    times = [timeline.seconds(timestamp) for timestamp in timestamps]
    assert times[0] == 0
    assert all(earlier < later for earlier, later in pairwise(times))


def steady(fps, count, start=0.0):
    return [start + index / fps for index in range(count)]


def test_a_rate_is_that_of_the_frames_between_pauses():
    assert frame_rate(steady(30, 60)) == pytest.approx(30)
    assert frame_rate([*steady(15, 30), *steady(15, 30, start=62)]) == pytest.approx(15)
    assert frame_rate(steady(0.2, 10)) == pytest.approx(0.2)  # a slide show is no sequence of pauses
    pulldown = [index / 60 * 2.5 // (1 / 60) / 60 for index in range(49)]  # film: shown for two and three fields
    assert frame_rate(pulldown) == pytest.approx(24, rel=0.01)
    assert frame_rate([1.0]) is None


def test_a_rate_is_the_stated_one_where_the_two_agree():
    assert snapped(29.998, Fraction(30)) == 30
    assert snapped(20.0, Fraction(1000)) == 20
    assert snapped(None, 24) is None


@pytest.mark.parametrize(
    ("times", "breaks"),
    [
        (steady(30, 60), []),
        ([*steady(15, 30), *steady(15, 30, start=62)], [30]),  # the last frame is shown through the pause
        ([*steady(30, 90), *steady(1, 12, start=3)], [90]),
        ([*steady(1, 12), *steady(30, 90, start=12)], [12]),
        ([*steady(30, 90), *steady(2.3, 20, start=3)], [90]),
        ([*steady(2.3, 20), *steady(30, 90, start=20 / 2.3)], [20]),
        ([0.0, *steady(30, 30, start=20)], [1]),  # the first frame alone is shown for long
        ([*steady(30, 30), 5.0, 9.0, *steady(30, 30, start=12)], [29, 32]),
        ([time for index, time in enumerate(steady(30, 300)) if index % 7], []),  # a camera that drops frames
        ([*steady(25, 50), *steady(25, 50, start=2.4)], []),  # a hitch
        (steady(1 / 30, 6), []),  # a slide show
    ],
)
def test_sections_of_other_rates_are_told_apart(times, breaks):
    assert rate_breaks(times) == breaks
