"""Still images: recognise, orient, convert to RGB, resize (Pillow); and the limits on decoding."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import BinaryIO

import numpy as np
from PIL import Image

from pipelines.media import hdr
from pipelines.media.errors import MediaError

MAX_PIXELS = 8192 * 8192
"""Larger frames are refused before they are decoded: a small file can claim a size that fills the memory."""
MAX_SIDE = 32768
"""Frames that are wider or higher are refused."""

# Pillow's other readers are for formats without training data, and some of them start external programs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM")
CODECS = {"JPEG": "mjpeg", "MPO": "mjpeg", "AVIF": "av1"}
"""FFmpeg's names of formats where they differ from Pillow's."""
HEIF_BRANDS = (b"heic", b"heix", b"mif1", b"msf1", b"hevc", b"avif", b"avis")
"""Major brands of the HEIF family; the compatible brands tell HEIC from AVIF."""
AVIF_BRANDS = (b"avif", b"avis")
HEAD_BYTES = 4096
"""Enough for the brands of a HEIF file, and for the properties of its image."""
COLOUR_BOX = b"colrnclx"
"""Box of a HEIF file that states the coding of colours: two bytes of primaries follow, then two of the transfer."""
FLOAT_WHITES = (1.0, 255.0, 65535.0)
"""White of floating-point pictures: FFmpeg's, or that of levels of 8 or 16 bits."""
INTEGER_WHITES = (255, 65535, 2**31 - 1)
"""White of pictures of 32-bit integers: of levels of 8 or 16 bits, or the largest value."""
USUAL_PERCENT, OVERSHOOT = 99, 1.1
"""This share of the levels of a picture is at most a little above white; the others are highlights."""
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

    Returns None if the file is to be read as a video: it holds no still image, or one of high dynamic range. Its
    position is then at the start.

    Raises:
        MediaError: the file is empty, or it holds an image that is too large, HEIC, or an animated WebP or AVIF.
    """
    head = file.read(HEAD_BYTES)
    file.seek(0)
    if not head:
        raise MediaError("the file is empty")
    if head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS:
        if not _is_avif(head):  # Pillow does not recognise HEIC, so the message would be a vague one
            raise MediaError("HEIC images cannot be read; convert to JPEG or PNG")
        if _transfer(head) in hdr.TRANSFERS:
            return None  # Pillow would return the coded values; FFmpeg tells how they are coded
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


def _is_avif(head: bytes) -> bool:
    """Whether the brands at the start of a HEIF file include AVIF's, which may be a compatible brand only."""
    brands = head[8 : min(len(head), int.from_bytes(head[:4], "big"))]
    return any(brands[start : start + 4] in AVIF_BRANDS for start in (0, *range(8, len(brands), 4)))


def _transfer(head: bytes) -> int:
    """Code of the transfer characteristics in ITU-T H.273 at the start of a HEIF file; 0 if it states none."""
    box = head.find(COLOUR_BOX)
    return int.from_bytes(head[box + 10 : box + 12], "big") if box >= 0 else 0


def codec(picture: Image.Image) -> str:
    """FFmpeg's name of the image's format."""
    name = str(picture.format)
    return CODECS.get(name, name.lower())


def rotation(picture: Image.Image) -> int:
    """Degrees counter-clockwise by which the decoded pixels must be turned."""
    return degrees(_orientation(picture))


def degrees(orientation: int) -> int:
    """Degrees counter-clockwise by which pixels of an EXIF orientation must be turned; 0 for unknown ones."""
    return ORIENTATIONS.get(orientation, (0, None))[0]


def upright(picture: Image.Image, orientation: int) -> Image.Image:
    """The image of an EXIF orientation, turned and mirrored as it is to be shown."""
    transposition = ORIENTATIONS.get(orientation, (0, None))[1]
    return picture if transposition is None else picture.transpose(transposition)


def _orientation(picture: Image.Image) -> int:
    if picture.format == "TIFF":
        return 1  # Pillow applies the orientation when it decodes a TIFF, and states the size accordingly
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
    if picture.mode == "F":
        picture = Image.fromarray(_bytes_of_levels(np.asarray(picture), FLOAT_WHITES))
    elif picture.mode == "I" and picture.format == "TIFF":
        picture = Image.fromarray(_bytes_of_levels(np.asarray(picture), INTEGER_WHITES))
    elif picture.mode.startswith("I"):  # 16 bits per pixel, which Pillow would clip instead of scaling
        picture = Image.fromarray((np.asarray(picture).clip(0, 65535) >> 8).astype(np.uint8))
    return upright(on_white(picture), orientation)


def on_white(picture: Image.Image) -> Image.Image:
    """The image in RGB, with transparent areas on white."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    # `convert("RGB")` alone would show whatever colour lies under transparent pixels, usually black.
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _bytes_of_levels(values: np.ndarray, whites: Sequence[float]) -> np.ndarray:
    """Grey levels [H, W] of any type as uint8.

    Args:
        values: levels; few of them may exceed white, as those of a resampled picture do.
        whites: possible levels of white, ascending; the smallest that fits counts.

    Raises:
        MediaError: the values are larger, so that they are no grey levels.
    """
    levels = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    largest = float(np.percentile(levels, USUAL_PERCENT))
    white = next((level for level in whites if largest <= OVERSHOOT * level), None)
    if white is None:
        raise MediaError(f"its values reach {largest:g}, which are no grey levels; convert to 8 or 16 bits")
    return np.rint(levels.clip(0, white) * (255 / white)).astype(np.uint8)


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
