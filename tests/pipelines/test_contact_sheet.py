"""A contact sheet shows every sample that can be read, in order, whole, with its prompt below it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFont

from pipelines.contact_sheet import (
    CELL,
    FONT_SIZE,
    GAP,
    LINES,
    MARGIN,
    PAPER,
    SheetItem,
    _wrapped,
    contact_sheet,
    sheet_from_manifest,
    strip,
)
from pipelines.media import write_image, write_video

COLOURS = [(200, 0, 0), (0, 160, 0), (0, 0, 220), (220, 0, 220), (0, 180, 180), (180, 140, 0), (90, 0, 140)]


def plain(colour: tuple[int, int, int], frames: int = 1, *, height: int = 64, width: int = 64) -> np.ndarray:
    return np.full((frames, height, width, 3), colour, np.uint8)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image)


def cells(sheet: np.ndarray, *, tolerance: int = 0) -> list[int]:
    """Indices into COLOURS of the rectangles on a sheet, in reading order (rows first)."""
    found = []
    for index, colour in enumerate(COLOURS):
        inside = (np.abs(sheet.astype(int) - colour) <= tolerance).all(axis=-1)
        # A corner of a rectangle: itself of the colour, its upper and left neighbours not.
        above, left = np.zeros_like(inside), np.zeros_like(inside)
        above[1:], left[:, 1:] = inside[:-1], inside[:, :-1]
        found += [(int(top), int(start), index) for top, start in np.argwhere(inside & ~above & ~left)]
    return [index for _, _, index in sorted(found)]


def area(sheet: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((sheet == colour).all(axis=-1).sum())


@pytest.mark.parametrize("count", [1, 2, 5, 7])
def test_every_sample_has_one_cell_in_order(tmp_path, count):
    items = [SheetItem(plain(colour), f"prompt {colour}") for colour in COLOURS[:count]]
    sheet = pixels(contact_sheet(items, tmp_path / "sheet.png"))
    assert cells(sheet) == list(range(count))
    assert [area(sheet, colour) for colour in COLOURS[:count]] == [CELL * CELL] * count


@pytest.mark.parametrize(("columns", "rows"), [(1, 7), (3, 3), (7, 1)])
def test_columns_that_are_asked_for_give_the_size(tmp_path, columns, rows):
    items = [SheetItem(plain(colour), "a") for colour in COLOURS]
    sheet = pixels(contact_sheet(items, tmp_path / "sheet.png", columns=columns))
    text = (LINES + 1) * (FONT_SIZE + 3)
    assert sheet.shape == (rows * (CELL + text + MARGIN) + MARGIN, columns * (2 * CELL + MARGIN) + MARGIN, 3)
    assert cells(sheet) == list(range(7))


def test_a_video_is_a_strip_from_its_first_to_its_last_frame():
    frames = np.concatenate([plain((value, value, value)) for value in range(0, 90, 10)])  # nine frames
    shown = np.asarray(strip(frames))
    assert shown.shape == (CELL, 5 * CELL + 4 * GAP, 3)
    middles = [index * (CELL + GAP) + CELL // 2 for index in range(5)]
    assert [int(shown[CELL // 2, middle, 0]) for middle in middles] == [0, 20, 40, 60, 80]
    assert (shown[:, CELL : CELL + GAP] == PAPER).all()
    assert strip(frames[:2]).width == 2 * CELL + GAP
    assert strip(frames, most=1).width == CELL


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((64, 96), (128, 192)),
        ((48, 48), (144, 144)),  # whole factors keep the pixels of small pictures square
        ((256, 512), (128, 256)),
        ((128, 128), (128, 128)),
        ((100, 100), (100, 100)),
    ],
)
def test_small_pictures_grow_and_large_ones_shrink(size, shown):
    assert strip(plain((1, 2, 3), height=size[0], width=size[1])).size[::-1] == shown


def test_enlarging_repeats_pixels_and_does_not_blur():
    checks = ((np.indices((32, 32)).sum(axis=0) % 2) * 255).astype(np.uint8)
    frame = np.repeat(checks[None, :, :, None], 3, axis=-1)
    np.testing.assert_array_equal(np.asarray(strip(frame)), np.kron(frame[0], np.ones((4, 4, 1), np.uint8)))


def test_samples_of_different_sizes_do_not_cover_each_other(tmp_path):
    shapes = [(64, 64, 1), (64, 64, 9), (256, 512, 1), (32, 96, 3)]
    items = [
        SheetItem(plain(colour, frames, height=height, width=width), "a")
        for colour, (height, width, frames) in zip(COLOURS, shapes, strict=False)
    ]
    sheet = pixels(contact_sheet(items, tmp_path / "sheet.png", columns=2))
    expected = [sum(int((np.asarray(strip(item.frames)) == c).all(-1).sum()) for item in items) for c in COLOURS[:4]]
    assert [area(sheet, colour) for colour in COLOURS[:4]] == expected


def test_captions_of_any_length_stay_in_their_cell(tmp_path):
    captions = ["A GREEN MAN " * 30, "a cat " * 200, "x" * 3000, "", "two\nlines\tand  spaces", "ünïcode 猫 🐈 " * 20]
    noted = [SheetItem(plain(COLOURS[i]), caption, "seed 1") for i, caption in enumerate(captions)]
    sheet = pixels(contact_sheet(noted, tmp_path / "sheet.png", columns=2))
    assert [area(sheet, colour) for colour in COLOURS[:6]] == [CELL * CELL] * 6  # no text over a picture
    step = 2 * CELL + MARGIN
    for column in range(3):  # the gaps beside and between the columns, but for a pixel where a letter leans out
        assert (sheet[:, column * step : column * step + MARGIN - 2] == PAPER).all()
    assert (sheet[-MARGIN:] == PAPER).all()


def test_the_caption_is_drawn_below_its_own_picture(tmp_path):
    items = [SheetItem(plain(COLOURS[0]), ""), SheetItem(plain(COLOURS[1]), "a prompt")]
    sheet = pixels(contact_sheet(items, tmp_path / "sheet.png", columns=2))
    below = sheet[MARGIN + CELL :]
    middle = MARGIN + 2 * CELL + MARGIN // 2
    assert (below[:, :middle] == PAPER).all()
    assert below[:, middle:].min() < 100
    assert (below[FONT_SIZE + 15 :] == PAPER).all()  # one line, no note
    with_note = [items[0], SheetItem(plain(COLOURS[1]), "a prompt", "seed 7")]
    noted = pixels(contact_sheet(with_note, tmp_path / "noted.png", columns=2))[MARGIN + CELL :]
    assert noted[FONT_SIZE + 8 :].min() < 200


def test_long_captions_end_in_an_ellipsis_after_three_lines():
    font = ImageFont.load_default(FONT_SIZE)
    words = " ".join(f"word{index}" for index in range(100))
    lines = _wrapped(words, font, 256)
    assert len(lines) == LINES
    assert lines[-1].endswith("…")
    assert words.startswith(" ".join(lines).removesuffix("…"))
    assert max(font.getlength(line) for line in lines) <= 256
    assert _wrapped("  a \n cat ", font, 256) == ["a cat"]
    assert _wrapped("", font, 256) == []


def test_no_sample_is_an_error_of_the_caller(tmp_path):
    with pytest.raises(ValueError, match="at least one sample"):
        contact_sheet([], tmp_path / "sheet.png")
    assert list(tmp_path.iterdir()) == []


def test_the_sheet_replaces_an_older_one_and_leaves_nothing_else(tmp_path):
    (tmp_path / "sheet.png").write_bytes(b"old")
    made = contact_sheet([SheetItem(plain(COLOURS[0]), "a")], tmp_path / "sheet.png")
    assert made == tmp_path / "sheet.png"
    assert cells(pixels(made)) == [0]
    assert list(tmp_path.iterdir()) == [made]


def manifest_row(path: Path, *, frames: int = 1, prompt: str = "a", fps: float | None = None) -> dict[str, object]:
    kind = "image" if frames == 1 else "video"
    return {"uri": str(path), "kind": kind, "frames": frames, "fps": fps, "prompt": prompt, "seeds": [0, 1]}


SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("kind", pa.string()),
        ("frames", pa.int64()),
        ("fps", pa.float64()),
        ("prompt", pa.string()),
        ("seeds", pa.list_(pa.int64())),
    ]
)


def write_manifest(folder: Path, rows: list[dict[str, object]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / "manifest.parquet")


def test_a_manifest_becomes_a_sheet_without_what_cannot_be_read(tmp_path):
    write_image(tmp_path / "0.png", plain(COLOURS[0])[0])
    write_image(tmp_path / "2.png", plain(COLOURS[2])[0])
    (tmp_path / "bad.png").write_bytes(b"no picture")
    rows = [manifest_row(tmp_path / name, prompt=name) for name in ("0.png", "gone.png", "bad.png", "2.png")]
    write_manifest(tmp_path, rows)
    made = sheet_from_manifest(tmp_path)
    assert made == tmp_path / "contact_sheet.png"
    assert cells(pixels(made)) == [0, 2]
    assert cells(pixels(sheet_from_manifest(tmp_path, most=3))) == [0]


def test_a_manifest_of_videos_shows_five_frames_of_each(tmp_path):
    frames = np.concatenate([plain(colour, 8) for colour in COLOURS[:5]])
    write_video(tmp_path / "a.mp4", frames, 20, crf=1)
    write_manifest(tmp_path, [manifest_row(tmp_path / "a.mp4", frames=40, fps=20)])
    sheet = pixels(sheet_from_manifest(tmp_path))
    assert cells(sheet, tolerance=40) == [0, 1, 2, 3, 4]


def test_nothing_to_show_makes_no_sheet(tmp_path):
    write_manifest(tmp_path, [manifest_row(tmp_path / "gone.png")])
    assert sheet_from_manifest(tmp_path) is None
    assert not (tmp_path / "contact_sheet.png").exists()
