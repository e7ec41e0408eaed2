"""Contact sheets: each sample in its place, at a size to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.contact_sheet import SheetItem, contact_sheet, sheet_from_manifest, strip
from pipelines.media import write_image, write_video

RED, BLUE = (200, 30, 30), (30, 30, 200)


def plain(colour: tuple[int, int, int], frames: int = 1) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8), (frames, 64, 64, 3)).copy()


def count(picture: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.abs(np.asarray(picture.convert("RGB")).astype(int) - colour).max(axis=-1) < 12).sum())


def test_small_pictures_are_enlarged_and_a_video_is_a_strip_of_five() -> None:
    assert strip(plain(RED)).size == (128, 128)
    assert strip(plain(RED, 24)).size == (5 * 128 + 4 * 4, 128)
    frames = np.stack([np.full((64, 64, 3), 10 * index, np.uint8) for index in range(9)])
    shown = np.asarray(strip(frames))[64, 64::132, 0]
    assert list(shown) == [0, 20, 40, 60, 80], "first, last and evenly between"


def test_every_sample_is_on_the_sheet(tmp_path: Path) -> None:
    long = "a very long prompt " * 40
    path = contact_sheet(
        [SheetItem(plain(RED), "red"), SheetItem(plain(BLUE), long, "seed 1"), SheetItem(plain(RED), "again")],
        tmp_path / "sheet.png",
    )
    with Image.open(path) as sheet:
        assert count(sheet, RED) == 2 * 128 * 128
        assert count(sheet, BLUE) == 128 * 128


def test_samples_whose_file_is_gone_are_left_out(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", plain(RED)[0])
    write_video(tmp_path / "b.mp4", plain(BLUE, 8), 8, crf=1)
    row = {"prompt": "x", "seeds": [0], "kind": "image", "frames": 1, "fps": None}
    rows = [
        {**row, "uri": str(tmp_path / "a.png")},
        {**row, "uri": str(tmp_path / "gone.png")},
        {**row, "uri": str(tmp_path / "b.mp4"), "kind": "video", "frames": 8, "fps": 8.0},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "manifest.parquet")
    path = sheet_from_manifest(tmp_path)
    assert path is not None
    with Image.open(path) as sheet:
        assert count(sheet, RED) == 128 * 128
        assert count(sheet, BLUE) > 4 * 128 * 128
    pq.write_table(pa.Table.from_pylist(rows[1:2]), tmp_path / "manifest.parquet")
    assert sheet_from_manifest(tmp_path) is None


def test_an_empty_sheet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([], tmp_path / "sheet.png")
