"""Contact sheets: each sample in its place, at a size to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.media.write import write_image, write_video
from pipelines.report.contact_sheet import (
    CELL,
    FONT_SIZE,
    LINES,
    MARGIN,
    PAPER,
    SheetItem,
    contact_sheet,
    sheet_from_manifest,
    strip,
)

RED, BLUE = (200, 30, 30), (30, 30, 200)


def plain(colour: tuple[int, int, int], frames: int = 1) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8), (frames, 64, 64, 3)).copy()


def count(picture: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.abs(np.asarray(picture.convert("RGB")).astype(int) - colour).max(axis=-1) < 12).sum())


def test_small_pictures_are_enlarged_and_a_video_is_a_strip_of_five() -> None:
    assert strip(plain(RED)).size == (128, 128)
    assert strip(plain(RED, 24)).size == (5 * 128 + 4 * 4, 128)
    frames = np.stack([np.full((64, 64, 3), 10 * index, np.uint8) for index in range(9)])
    levels = np.asarray(strip(frames))[64, 64::132, 0]
    assert list(levels) == [0, 20, 40, 60, 80], "first, last and evenly between"


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


COLOURS = [(200, 0, 0), (0, 160, 0), (0, 0, 220), (220, 0, 220), (0, 180, 180), (180, 140, 0), (90, 0, 140)]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image)


def cells(sheet: np.ndarray) -> list[int]:
    """Indices into COLOURS of the rectangles on a sheet, in reading order."""
    corners_of_colours = []
    for index, colour in enumerate(COLOURS):
        inside = np.pad((sheet == colour).all(axis=-1), ((1, 0), (1, 0)))
        corners = inside[1:, 1:] & ~inside[:-1, 1:] & ~inside[1:, :-1]  # neither above nor to the left
        corners_of_colours += [(int(top), int(left), index) for top, left in np.argwhere(corners)]
    return [index for _, _, index in sorted(corners_of_colours)]


@pytest.mark.parametrize("number", [1, 2, 5, 7])
def test_each_sample_has_one_cell_and_they_keep_their_order(number: int, tmp_path: Path) -> None:
    items = [SheetItem(plain(colour), f"prompt {colour}") for colour in COLOURS[:number]]
    sheet = pixels(contact_sheet(items, tmp_path / "sheet.png"))
    assert cells(sheet) == list(range(number))
    assert [int((sheet == colour).all(axis=-1).sum()) for colour in COLOURS[:number]] == [CELL * CELL] * number


@pytest.mark.parametrize(("columns", "rows"), [(1, 7), (3, 3), (7, 1)])
def test_columns_that_are_asked_for_give_the_size(columns: int, rows: int, tmp_path: Path) -> None:
    items = [SheetItem(plain(colour), "a") for colour in COLOURS]
    sheet = pixels(contact_sheet(items, tmp_path / "sheet.png", columns=columns))
    text = (LINES + 1) * (FONT_SIZE + 3)
    assert sheet.shape == (rows * (CELL + text + MARGIN) + MARGIN, columns * (2 * CELL + MARGIN) + MARGIN, 3)
    assert cells(sheet) == list(range(7))


@pytest.mark.parametrize(
    ("size", "height_width"),
    [
        ((64, 96), (128, 192)),
        ((48, 48), (144, 144)),  # whole factors keep the pixels of small pictures square
        ((256, 512), (128, 256)),
        ((128, 128), (128, 128)),
    ],
)
def test_small_pictures_grow_and_large_ones_shrink(size: tuple[int, int], height_width: tuple[int, int]) -> None:
    assert strip(np.zeros((1, *size, 3), np.uint8)).size[::-1] == height_width


def test_enlarging_repeats_pixels_and_does_not_blur() -> None:
    frame = np.random.default_rng(0).integers(0, 255, (1, 32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(strip(frame)), np.kron(frame[0], np.ones((4, 4, 1), np.uint8)))


def test_captions_of_any_length_stay_in_their_cell(tmp_path: Path) -> None:
    captions = ["A GREEN MAN " * 30, "a cat " * 200, "x" * 3000, "", "two\nlines\tand  spaces", "ünïcode 猫 🐈 " * 20]
    items = [SheetItem(plain(colour), text, "seed 1") for colour, text in zip(COLOURS, captions, strict=False)]
    sheet = pixels(contact_sheet(items, tmp_path / "sheet.png", columns=2))
    assert [int((sheet == colour).all(axis=-1).sum()) for colour in COLOURS[:6]] == [CELL * CELL] * 6
    for column in range(3):  # the gaps beside and between the columns, but for a pixel where a letter leans out
        left = column * (2 * CELL + MARGIN)
        assert (sheet[:, left : left + MARGIN - 2] == PAPER).all()
    one = pixels(contact_sheet([SheetItem(plain(RED), "a cat " * 200, "seed 1")], tmp_path / "one.png"))
    assert (one[-MARGIN // 2 :] == PAPER).all(), "what is too long ends after three lines"


def test_the_caption_stands_below_its_own_picture(tmp_path: Path) -> None:
    items = [SheetItem(plain(RED), ""), SheetItem(plain(BLUE), "a prompt")]
    below = pixels(contact_sheet(items, tmp_path / "sheet.png", columns=2))[MARGIN + CELL :]
    second = 2 * (CELL + MARGIN)
    assert (below[:, : second - 2] == PAPER).all()
    assert below[:, second:].min() < 100
    assert (below[FONT_SIZE + 15 :] == PAPER).all(), "one line and no note"
    items[1] = SheetItem(plain(BLUE), "a prompt", "seed 7")
    noted = pixels(contact_sheet(items, tmp_path / "noted.png", columns=2))[MARGIN + CELL :]
    assert noted[FONT_SIZE + 8 :].min() < 200


def test_the_sheet_replaces_an_older_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "sheet.png").write_bytes(b"old")
    assert contact_sheet([SheetItem(plain(COLOURS[0]), "a")], tmp_path / "sheet.png") == tmp_path / "sheet.png"
    assert cells(pixels(tmp_path / "sheet.png")) == [0]
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


def test_a_manifest_shows_its_first_samples_in_order(tmp_path: Path) -> None:
    for index in range(3):
        write_image(tmp_path / f"{index}.png", plain(COLOURS[index])[0])
    (tmp_path / "bad.png").write_bytes(b"no picture")
    row = {"prompt": "x", "seeds": [0, 1], "kind": "image", "frames": 1, "fps": None}
    names = ["2.png", "bad.png", "0.png", "1.png"]
    rows = [{**row, "uri": str(tmp_path / name)} for name in names]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "manifest.parquet")
    path = sheet_from_manifest(tmp_path, max_samples=3)
    assert path == tmp_path / "contact_sheet.png"
    assert cells(pixels(path)) == [2, 0]
