"""A contact sheet: generated samples side by side with their prompts, as one PNG."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipelines.generation.manifest import read_manifest
from pipelines.media.errors import MediaError
from pipelines.media.frames import clip_times, read_frames
from pipelines.store.files import replacing

CELL = 128
"""Minimum height of an image on the sheet, in pixels."""
STRIP = 5
"""Frames of a video on the sheet."""
GAP, MARGIN = 4, 12
FONT_SIZE, LINES = 13, 3
PAPER, INK, FAINT = (250, 250, 248), (30, 30, 30), (120, 120, 120)
GOOD, BAD = (24, 128, 56), (196, 40, 40)
MARK = 3
"""Thickness in pixels of the coloured border that shows whether a sample is right."""


@dataclass(frozen=True)
class SheetItem:
    """An image (one frame) or a video (several), and the text below it."""

    frames: np.ndarray
    """uint8 [N, H, W, 3]."""
    caption: str
    note: str = ""
    """A second, fainter text, such as the seed."""
    good: bool | None = None
    """Whether the sample is right: its note and border are green or red, and grey and absent for None."""


def contact_sheet(items: Sequence[SheetItem], path: str | Path, *, columns: int | None = None) -> Path:
    """Draws items in a grid, in order, each as an image or a strip of frames above its caption.

    Args:
        items: items to draw, at least one.
        path: the PNG file; it is replaced atomically.
        columns: columns of the grid; by default as many as make the sheet about square.

    Raises:
        ValueError: there are no items.
    """
    if not items:
        raise ValueError("a contact sheet needs at least one sample")
    strips = [strip(item.frames) for item in items]
    columns = columns or _columns(strips)
    width = max(max(picture.width for picture in strips), 2 * CELL)
    height = max(picture.height for picture in strips)
    text_height = (LINES + 1) * (FONT_SIZE + 3)
    step_x, step_y = width + MARGIN, height + text_height + MARGIN
    rows = -(-len(items) // columns)
    sheet = Image.new("RGB", (columns * step_x + MARGIN, rows * step_y + MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(FONT_SIZE)
    for index, (item, picture) in enumerate(zip(items, strips, strict=True)):
        left, top = MARGIN + index % columns * step_x, MARGIN + index // columns * step_y
        if item.good is not None:
            right, bottom = left + picture.width, top + picture.height
            border = (left - MARK, top - MARK, right + MARK - 1, bottom + MARK - 1)
            pen.rectangle(border, fill=_ink(item))  # the picture, pasted next, covers all of it but the border
        sheet.paste(picture, (left, top))
        lines = _wrap(item.caption, font, width)
        below = top + height + 4
        pen.multiline_text((left, below), "\n".join(lines), fill=INK, font=font, spacing=3)
        if item.note:
            note = "\n".join(_wrap(item.note, font, width, LINES + 1 - len(lines)))
            below += len(lines) * (FONT_SIZE + 3)
            pen.multiline_text((left, below), note, fill=_ink(item), font=font, spacing=3)
    target = Path(path)
    with replacing(target) as temporary:
        sheet.save(temporary, format="PNG", optimize=True)
    return target


def strip(frames: np.ndarray, *, height: int = CELL, max_frames: int = STRIP) -> Image.Image:
    """Frames side by side, chosen evenly from first to last; small ones are enlarged, large ones shrunk.

    Args:
        frames: uint8 [N, H, W, 3].
        height: height in pixels; enlarged frames are whole multiples of their size and may differ from it.
        max_frames: frames of the strip, at most.
    """
    chosen = frames[np.linspace(0, len(frames) - 1, min(max_frames, len(frames))).round().astype(int)]
    # Small samples are enlarged by whole factors, so that each of their pixels stays a sharp square.
    scale = max(1, round(height / frames.shape[1])) if frames.shape[1] < height else height / frames.shape[1]
    size = (max(1, round(frames.shape[2] * scale)), max(1, round(frames.shape[1] * scale)))
    resampling = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    pictures = [Image.fromarray(frame).resize(size, resampling) for frame in chosen]
    sheet = Image.new("RGB", (len(pictures) * (size[0] + GAP) - GAP, size[1]), PAPER)
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index * (size[0] + GAP), 0))
    return sheet


def sheet_from_manifest(folder: str | Path, *, max_samples: int = 48) -> Path | None:
    """Draws FOLDER/contact_sheet.png from FOLDER/manifest.parquet; None where no sample can be read.

    Args:
        folder: output folder of `nova generate`.
        max_samples: samples on the sheet, from the first on.
    """
    folder = Path(folder)
    items = []
    for row in read_manifest(folder, max_samples):
        try:
            frames = sample_frames(row)
        except MediaError:
            continue
        seeds = ", ".join(map(str, row["seeds"]))
        items.append(SheetItem(frames, row["prompt"], f"seed {seeds}"))
    return contact_sheet(items, folder / "contact_sheet.png") if items else None


def sample_frames(row: Mapping[str, Any]) -> np.ndarray:
    """Frames spread over a generated sample, uint8 [N, H, W, 3]; one of an image, `STRIP` of a video.

    Args:
        row: `uri`, `kind`, `frames` and `fps`, as in a manifest of `nova generate`.

    Raises:
        MediaError: the file cannot be read.
    """
    seconds = row["frames"] / row["fps"] if row["fps"] else 0.0  # images have no frame rate
    clip = {"kind": row["kind"], "start": 0.0, "end": seconds}
    return read_frames(row["uri"], clip_times(clip, count=STRIP))


def _ink(item: SheetItem) -> tuple[int, int, int]:
    """The colour of an item's note."""
    return FAINT if item.good is None else GOOD if item.good else BAD


def _columns(strips: Sequence[Image.Image]) -> int:
    """Columns that make the sheet about as wide as it is high, at most 6."""
    widest = max(max(picture.width for picture in strips), 2 * CELL)
    best = round((len(strips) * 1.6 * (strips[0].height + 70) / widest) ** 0.5)
    return max(1, min(best, 6, len(strips)))


def _wrap(
    text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int, max_lines: int = LINES
) -> list[str]:
    """Lines of text that fit a width in pixels; what exceeds the number of lines is cut, with an ellipsis."""
    # "n" is of about average width; textwrap counts characters, and measuring every line would be slow.
    characters = max(8, int(width / font.getlength("n")))
    lines = textwrap.wrap(" ".join(text.split()), characters)
    if len(lines) > max_lines:
        lines = [*lines[: max_lines - 1], lines[max_lines - 1][: characters - 1] + "…"]
    return lines
