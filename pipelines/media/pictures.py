"""Still pictures for `media.py`: recognise, orient, convert to RGB, resize (Pillow); and the limits on decoding."""

from __future__ import annotations

from contextlib import suppress
from typing import BinaryIO

import numpy as np
from PIL import Image

from pipelines.media.errors import MediaError

MAX_PIXELS = 8192 * 8192
"""Larger frames are refused before they are decoded."""
MAX_SIDE = 32768
"""Frames longer or wider than this are refused."""

# Pillow's other readers are for formats that nobody trains on, and some of them start programs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM")
CODECS = {"JPEG": "mjpeg", "MPO": "mjpeg", "AVIF": "av1"}
"""FFmpeg's names where they are not Pillow's."""
HEIC_BRANDS = (b"heic", b"heix", b"mif1", b"msf1", b"hevc")
EXIF_ORIENTATION = 0x0112

# EXIF orientation -> (degrees counter-clockwise, before a mirroring left to right where there is one; Pillow's name)
ORIENTATIONS = {
    2: (0, Image.Transpose.FLIP_LEFT_RIGHT),
    3: (180, Image.Transpose.ROTATE_180),
    4: (180, Image.Transpose.FLIP_TOP_BOTTOM),
    5: (270, Image.Transpose.TRANSPOSE),
    6: (270, Image.Transpose.ROTATE_270),
    7: (90, Image.Transpose.TRANSVERSE),
    8: (90, Image.Transpose.ROTATE_90),
}

Size = int | tuple[int, int] | None
"""What to resize to: a short side, a (height, width) to cover and cut out, or nothing."""


def check_size(width: int, height: int) -> None:
    """Raises MediaError where a frame is empty or larger than the limits."""
    if width < 1 or height < 1 or width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise MediaError(f"{width}x{height} pixels; at most {MAX_PIXELS} and {MAX_SIDE} a side are read")


def open_picture(file: BinaryIO) -> Image.Image | None:
    """The still picture in a file (not decoded yet), or None where it is none; the file is then at its start.

    Raises:
        MediaError: a picture that cannot be read: empty, too large, HEIC, animated WebP or AVIF.
    """
    head = file.read(12)
    file.seek(0)
    if not head:
        raise MediaError("the file is empty")
    if head[4:8] == b"ftyp" and head[8:12] in HEIC_BRANDS:
        raise MediaError("HEIC pictures cannot be read; convert to JPEG or PNG")
    try:
        picture = Image.open(file, formats=FORMATS)
    except Image.UnidentifiedImageError:
        file.seek(0)
        return None
    check_size(*picture.size)
    if not getattr(picture, "is_animated", False) or picture.format in ("MPO", "TIFF"):
        return picture
    if picture.format not in ("GIF", "PNG"):
        raise MediaError(f"animated {picture.format} cannot be read; convert to mp4")
    file.seek(0)
    return None


def codec(picture: Image.Image) -> str:
    """FFmpeg's name of the picture's format."""
    name = str(picture.format)
    return CODECS.get(name, name.lower())


def rotation(picture: Image.Image) -> int:
    """Degrees counter-clockwise by which the decoded pixels must be turned."""
    return ORIENTATIONS.get(_orientation(picture), (0, None))[0]


def _orientation(picture: Image.Image) -> int:
    with suppress(Exception):  # a broken EXIF block does not spoil the picture
        return int(picture.getexif().get(EXIF_ORIENTATION, 1))
    return 1


def decode(picture: Image.Image, size: Size = None) -> Image.Image:
    """The upright RGB picture, transparent parts on white. JPEGs are decoded smaller where `size` allows."""
    orientation = _orientation(picture)
    if size is not None:
        enough = 2 * (size if isinstance(size, int) else max(size))
        picture.draft(None, (enough, enough))
    if picture.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip instead of scale
        picture = Image.fromarray((np.asarray(picture).clip(0, 65535) >> 8).astype(np.uint8))
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    picture = picture.convert("RGB")
    if orientation in ORIENTATIONS:
        picture = picture.transpose(ORIENTATIONS[orientation][1])
    return picture


def fit(picture: Image.Image, size: Size) -> np.ndarray:
    """Pixels [H, W, 3] at a short side, or covering and centred in (height, width), or as they are."""
    width, height = picture.size
    if size is None:
        return np.asarray(picture)
    if isinstance(size, int):
        scale = size / min(width, height)
        target = (max(1, round(width * scale)), max(1, round(height * scale)))
        return np.asarray(picture.resize(target, Image.Resampling.BICUBIC))
    scale = max(size[0] / height, size[1] / width)
    left, top = max(0.0, width - size[1] / scale) / 2, max(0.0, height - size[0] / scale) / 2
    box = (left, top, width - left, height - top)
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BICUBIC, box=box))
