"""Decisions: each threshold with its reason, shares, and which duplicate is kept."""

import pandas as pd
import pytest

from pipelines.curation.filters import COLUMNS, Filters, best_of_groups, category, changes, decide, reject, resolve


def clips(*rows):
    default = {
        "kind": "video", "start": 0.0, "end": 2.0, "frames": 24, "width": 640, "height": 360, "motion_score": 2.0,
        "aesthetic_mean": 5.0, "aesthetic_min": 4.5, "duplicate_group": None, "accepted": None, "reason": None,
    }  # fmt: skip
    frame = pd.DataFrame([{"clip_id": f"c{number}", **default, **row} for number, row in enumerate(rows)])
    return frame[list(COLUMNS)]


def decisions(config, frame):
    thresholds = resolve(config, frame)
    passing = frame[reject(config, thresholds, frame).isna() & frame.duplicate_group.notna()]
    return decide(config, thresholds, best_of_groups([passing]), frame)


@pytest.mark.parametrize(
    ("config", "row", "reason"),
    [
        (Filters(min_short_side=480), {}, "size: short side 360 below 480.000"),
        (Filters(max_aspect_ratio=1.5), {}, "size: 1.78 above 1.500"),
        (Filters(min_seconds=3.0), {}, "duration: 2.00 s below 3.000"),
        (Filters(min_motion=2.5), {}, "motion: 2.000 below 2.500"),
        (Filters(max_motion=1.0), {}, "motion: 2.000 above 1.000"),
        (Filters(min_aesthetic=5.5), {}, "aesthetic: 5.000 below 5.500"),
        (Filters(min_aesthetic_frame=4.6), {}, "aesthetic: 4.500 below 4.600"),
        (Filters(), {"aesthetic_mean": None}, "failed: a score is missing, see the failures table"),
    ],
)
def test_each_threshold_gives_its_reason(config, row, reason):
    out = decisions(config, clips({}, row))
    assert out.reason[1] == reason
    assert not out.accepted[1]


def test_a_score_at_the_threshold_passes():
    filters = Filters(min_aesthetic=5.0, min_motion=2.0, min_short_side=360, min_seconds=2.0)
    assert decisions(filters, clips({})).accepted[0]


def test_motion_and_duration_do_not_judge_images():
    image = {"kind": "image", "start": 0.0, "end": 0.0, "motion_score": 0.0}
    assert decisions(Filters(min_motion=1.0, min_seconds=1.0), clips(image)).accepted[0]


def test_a_share_keeps_that_share_of_each_kind():
    rows = [{"kind": kind, "aesthetic_mean": float(n)} for kind in ("image", "video") for n in range(10)]
    out = decisions(Filters(keep_aesthetic=0.7), clips(*rows))
    assert out[out.kind == "image"].accepted.sum() == 7
    assert out[out.kind == "video"].accepted.sum() == 7
    assert out[~out.accepted].aesthetic_mean.max() == 2.0


def test_the_best_of_a_group_is_accepted_and_the_other_clips_name_it():
    group = {"duplicate_group": "g"}
    out = decisions(Filters(), clips({**group, "aesthetic_mean": 4.0}, {**group, "aesthetic_mean": 6.0}, group))
    assert out.accepted.tolist() == [False, True, False]
    assert out.reason.tolist() == ["duplicate: of c1", None, "duplicate: of c1"]


def test_ties_go_to_more_pixels_then_more_frames_then_the_smallest_id():
    group = {"duplicate_group": "g"}
    assert decisions(Filters(), clips(group, {**group, "width": 1280})).accepted.tolist() == [False, True]
    assert decisions(Filters(), clips(group, {**group, "frames": 48})).accepted.tolist() == [False, True]
    assert decisions(Filters(), clips(group, group)).accepted.tolist() == [True, False]


def test_a_member_that_fails_a_threshold_does_not_take_its_group_along():
    group = {"duplicate_group": "g"}
    out = decisions(Filters(min_motion=1.0), clips({**group, "aesthetic_mean": 9.0, "motion_score": 0.1}, group))
    assert out.accepted.tolist() == [False, True]
    assert category(out.reason[0]) == "motion"


def test_only_changed_decisions_are_written():
    frame = clips({}, {"aesthetic_mean": 1.0})
    config = Filters(min_aesthetic=2.0)
    once = decisions(config, frame)
    assert changes(frame, once) == [
        {"clip_id": "c0", "accepted": True, "reason": None},
        {"clip_id": "c1", "accepted": False, "reason": "aesthetic: 1.000 below 2.000"},
    ]
    assert changes(once, decisions(config, once)) == []


def test_a_share_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="keep_aesthetic"):
        Filters(keep_aesthetic=1.5)
