"""Still images: recognise, orient, convert to RGB, resize (Pillow); and the limits on decoding."""

from __future__ import annotations

from contextlib import suppress
from typing import BinaryIO

import numpy as np
from PIL import Image

from pipelines.media.errors import MediaError

MAX_PIXELS = 8192 * 8192
"""Larger frames are refused before they are decoded: a small file can claim a size that fills the memory."""
MAX_SIDE = 32768
"""Frames that are wider or higher are refused."""

# Pillow's other readers are for formats without training data, and some of them start external programs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM")
CODECS = {"JPEG": "mjpeg", "MPO": "mjpeg", "AVIF": "av1"}
"""FFmpeg's names of formats where they differ from Pillow's."""
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
"""Target of a resize: a short side, a (height, width) to cover and crop, or None for the original size."""


def check_size(width: int, height: int) -> None:
    """Raises a MediaError if a frame is empty or larger than the limits."""
    if width < 1 or height < 1 or width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise MediaError(f"{width}x{height} pixels; at most {MAX_PIXELS} pixels and {MAX_SIDE} a side are read")


def open_picture(file: BinaryIO) -> Image.Image | None:
    """Opens the still image in a file without decoding it.

    Returns None if the file holds no still image; its position is then at the start.

    Raises:
        MediaError: the file is empty, or it holds an image that is too large, HEIC, or an animated WebP or AVIF.
    """
    head = file.read(12)  # enough for the brand of a HEIC file, which Pillow does not recognise
    file.seek(0)
    if not head:
        raise MediaError("the file is empty")
    if head[4:8] == b"ftyp" and head[8:12] in HEIC_BRANDS:
        raise MediaError("HEIC images cannot be read; convert to JPEG or PNG")
    try:
        picture = Image.open(file, formats=FORMATS)
    except Image.UnidentifiedImageError:
        file.seek(0)
        return None
    # Pillow only warns below twice its limit, and reads the size without decoding.
    check_size(*picture.size)
    # Frames of MPO and TIFF files are previews and pages, not an animation.
    if not getattr(picture, "is_animated", False) or picture.format in ("MPO", "TIFF"):
        return picture
    if picture.format not in ("GIF", "PNG"):
        raise MediaError(f"animated {picture.format} cannot be read; convert to mp4")
    file.seek(0)
    return None


def codec(picture: Image.Image) -> str:
    """FFmpeg's name of the image's format."""
    name = str(picture.format)
    return CODECS.get(name, name.lower())


def rotation(picture: Image.Image) -> int:
    """Degrees counter-clockwise by which the decoded pixels must be turned."""
    return ORIENTATIONS.get(_orientation(picture), (0, None))[0]


def _orientation(picture: Image.Image) -> int:
    with suppress(Exception):  # an image with a broken EXIF block can still be used
        return int(picture.getexif().get(EXIF_ORIENTATION, 1))
    return 1


def decode(picture: Image.Image, size: Size = None) -> Image.Image:
    """Decodes an image to upright RGB, with transparent areas on white."""
    orientation = _orientation(picture)
    if size is not None:
        # JPEGs are decoded at half, a quarter or an eighth of their size, but at least twice as large as needed.
        side = 2 * (size if isinstance(size, int) else max(size))
        picture.draft(None, (side, side))
    if picture.mode.startswith("I"):  # 16 bits per pixel, which Pillow would clip instead of scaling
        picture = Image.fromarray((np.asarray(picture).clip(0, 65535) >> 8).astype(np.uint8))
    if picture.has_transparency_data:
        # On white: `convert("RGB")` would show whatever colour lies under transparent pixels, usually black.
        layer = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    picture = picture.convert("RGB")
    if orientation in ORIENTATIONS:
        picture = picture.transpose(ORIENTATIONS[orientation][1])
    return picture


def fit(picture: Image.Image, size: Size) -> np.ndarray:
    """Resizes an image and returns its pixels [H, W, 3].

    Args:
        picture: an RGB image.
        size: short side; or (height, width), which the image is resized to cover and cropped to around its centre; or
            None for the original size.
    """
    width, height = picture.size
    if size is None:
        return np.asarray(picture)
    if isinstance(size, int):
        scale = size / min(width, height)
        target = (max(1, round(width * scale)), max(1, round(height * scale)))
        return np.asarray(picture.resize(target, Image.Resampling.BICUBIC))
    scale = max(size[0] / height, size[1] / width)
    left, top = max(0.0, width - size[1] / scale) / 2, max(0.0, height - size[0] / scale) / 2
    # Cropped by the resize itself, with fractional edges: rounding them first would shift the picture by up to a pixel.
    box = (left, top, width - left, height - top)
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BICUBIC, box=box))
