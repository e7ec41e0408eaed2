"""Wrong facts here spread to every table; a bad file here must cost one row and no more."""

from __future__ import annotations

import hashlib
from pathlib import Path

import av
import pytest

from pipelines.core.stage import Row, apply
from pipelines.curation.ingest import Ingest
from pipelines.store import schema
from tests.media_files import coded_frames, write_bad, write_container, write_picture


def ingest(*uris: Path | str, stage: Ingest | None = None) -> list[Row]:
    stage = stage or Ingest()
    return apply(stage, stage.load(), [{"uri": str(uri), "source_error": None} for uri in uris])


def test_facts_of_a_video_and_a_picture(tmp_path):
    video = write_container(tmp_path / "v.mp4", coded_frames(36), fps=12, rotation=90)
    picture = write_picture(tmp_path / "p.png", height=50, width=40)
    first, second = ingest(video, picture)
    digest = hashlib.sha256(video.read_bytes()).hexdigest()
    facts = {name: first[name] for name in Ingest.adds}
    assert facts == {
        "asset_id": digest[:32],
        "bytes": video.stat().st_size,
        "kind": "video",
        "codec": "h264",
        "width": 96,
        "height": 64,
        "rotation": 90,
        "fps": 12.0,
        "frames": 36,
        "duration": 3.0,
    }
    assert (second["kind"], second["width"], second["height"], second["frames"]) == ("image", 40, 50, 1)
    assert (second["fps"], second["duration"], second["failed_stage"]) == (None, None, None)


def test_the_id_is_the_content_and_not_the_name(tmp_path):
    original = write_picture(tmp_path / "a.png")
    copy = tmp_path / "b.jpg"
    copy.write_bytes(original.read_bytes())
    other = write_picture(tmp_path / "c.png", seed=1)
    ids = [row["asset_id"] for row in ingest(original, copy, other)]
    assert ids[0] == ids[1] != ids[2]


def test_every_bad_file_is_one_failed_row_and_the_good_ones_pass(tmp_path):
    bad = write_bad(tmp_path / "bad")
    good = write_picture(tmp_path / "good.png")
    rows = ingest(*bad, good, tmp_path / "missing.mp4")
    assert [row["failed_stage"] for row in rows] == ["ingest"] * len(bad) + [None, "ingest"]
    for row in rows:
        if row["failed_stage"]:
            assert row["failed_error"] == "MediaError"
            assert row["failed_message"]
            assert all(row[name] is None for name in Ingest.adds)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_bytes": 1000}, "ingest.max_bytes is 1000"),
        ({"max_pixels": 6143}, "96x64 pixels; ingest.max_pixels is 6143"),
        ({"max_seconds": 2.9}, "3 s long; ingest.max_seconds is 2.9"),
        ({"min_side": 65}, "96x64 pixels; ingest.min_side is 65"),
    ],
)
def test_limits_name_themselves(tmp_path, limits, message):
    video = write_container(tmp_path / "v.mp4", coded_frames(36), fps=12)
    assert ingest(video)[0]["failed_stage"] is None
    assert message in ingest(video, stage=Ingest(**limits))[0]["failed_message"]


def test_what_the_listing_could_not_read_fails_with_its_reason():
    stage = Ingest()
    (row,) = apply(stage, None, [{"uri": "list.jsonl#7", "source_error": "item 7: no uri"}])
    assert (row["failed_stage"], row["failed_message"]) == ("ingest", "item 7: no uri")


def test_real_files_agree_with_pyav(shared):
    paths = sorted((shared / "media").iterdir())
    rows = ingest(*paths)
    assert len(rows) == 13
    for path, row in zip(paths, rows, strict=True):
        assert row["failed_stage"] is None, row
        assert row["bytes"] == path.stat().st_size
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert (row["width"], row["height"], row["codec"]) == (stream.width, stream.height, stream.name)
            if row["kind"] == "video":
                assert (row["frames"], row["fps"]) == (stream.frames, float(stream.average_rate))


def test_columns_are_known():
    assert {schema.COLUMNS[name].owner for name in Ingest.adds} == {"ingest"}
