"""A contact sheet: generated samples side by side with their prompts, as one PNG."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from pipelines.media.errors import MediaError
from pipelines.media.frames import clip_times, read_frames
from pipelines.store.files import replacing

CELL = 128
"""Least height of a picture on the sheet, in pixels."""
STRIP = 5
"""Frames shown of a video."""
GAP, MARGIN = 4, 12
FONT_SIZE, LINES = 13, 3
PAPER, INK, FAINT = (250, 250, 248), (30, 30, 30), (120, 120, 120)
GOOD, BAD = (24, 128, 56), (196, 40, 40)
MARK = 3
"""Thickness in pixels of the frame that says whether a sample is right."""


@dataclass(frozen=True)
class SheetItem:
    """A picture (one frame) or a video (several) and what stands below it."""

    frames: np.ndarray
    """uint8 [N, H, W, 3]."""
    caption: str
    note: str = ""
    """A second, fainter text, such as the seed."""
    good: bool | None = None
    """Whether the sample is right: its note and a frame about it are then green or red."""


def contact_sheet(items: Sequence[SheetItem], path: str | Path, *, columns: int | None = None) -> Path:
    """Draws items in a grid, in order, each as a picture or a strip of frames above its caption.

    Raises:
        ValueError: no items.
    """
    if not items:
        raise ValueError("a contact sheet needs at least one sample")
    strips = [strip(item.frames) for item in items]
    columns = columns or _columns(strips)
    width = max(max(each.width for each in strips), 2 * CELL)
    height = max(each.height for each in strips)
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
            around = (left - MARK, top - MARK, right + MARK - 1, bottom + MARK - 1)
            pen.rectangle(around, fill=_ink(item))
        sheet.paste(picture, (left, top))
        lines = _wrapped(item.caption, font, width)
        below = top + height + 4
        pen.multiline_text((left, below), "\n".join(lines), fill=INK, font=font, spacing=3)
        if item.note:
            note = "\n".join(_wrapped(item.note, font, width, LINES + 1 - len(lines)))
            below += len(lines) * (FONT_SIZE + 3)
            pen.multiline_text((left, below), note, fill=_ink(item), font=font, spacing=3)
    target = Path(path)
    with replacing(target) as temporary:
        sheet.save(temporary, format="PNG", optimize=True)
    return target


def strip(frames: np.ndarray, *, height: int = CELL, most: int = STRIP) -> Image.Image:
    """Frames side by side, evenly chosen from first to last, enlarged where they are small.

    Args:
        frames: uint8 [N, H, W, 3].
        height: least height in pixels.
        most: frames shown.
    """
    chosen = frames[np.linspace(0, len(frames) - 1, min(most, len(frames))).round().astype(int)]
    scale = max(1, round(height / frames.shape[1])) if frames.shape[1] < height else height / frames.shape[1]
    size = (max(1, round(frames.shape[2] * scale)), max(1, round(frames.shape[1] * scale)))
    how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    pictures = [Image.fromarray(frame).resize(size, how) for frame in chosen]
    sheet = Image.new("RGB", (len(pictures) * (size[0] + GAP) - GAP, size[1]), PAPER)
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index * (size[0] + GAP), 0))
    return sheet


def sheet_from_manifest(folder: str | Path, *, most: int = 48) -> Path | None:
    """OUT/contact_sheet.png from OUT/manifest.parquet; None where nothing could be read.

    Args:
        folder: of `nova generate`.
        most: samples shown, the first ones.
    """
    folder = Path(folder)
    items = []
    for row in pq.read_table(folder / "manifest.parquet").slice(0, most).to_pylist():
        try:
            seconds = row["frames"] / row["fps"] if row["fps"] else 0.0
            clip = {"kind": row["kind"], "start": 0.0, "end": seconds}
            times = clip_times(clip, count=STRIP)
            frames = read_frames(row["uri"], times)
        except MediaError:
            continue
        seeds = ", ".join(map(str, row["seeds"]))
        items.append(SheetItem(frames, row["prompt"], f"seed {seeds}"))
    return contact_sheet(items, folder / "contact_sheet.png") if items else None


def _ink(item: SheetItem) -> tuple[int, int, int]:
    """The colour of an item's note."""
    return FAINT if item.good is None else GOOD if item.good else BAD


def _columns(strips: Sequence[Image.Image]) -> int:
    """As many as make the sheet about as wide as it is high, at most 6."""
    widest = max(max(each.width for each in strips), 2 * CELL)
    best = round((len(strips) * 1.6 * (strips[0].height + 70) / widest) ** 0.5)
    return max(1, min(best, 6, len(strips)))


def _wrapped(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int, most: int = LINES) -> list[str]:
    characters = max(8, int(width / font.getlength("n")))
    lines = textwrap.wrap(" ".join(text.split()), characters)
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1][: characters - 1] + "…"]
    return lines
