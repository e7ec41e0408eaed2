"""Pixels are those that a player shows: turned, mirrored, deinterlaced, on white, in the colours that were meant."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from pipelines.media.frames import read_frames, stream_frames
from pipelines.media.probe import probe
from tests.media_files import write_container

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quadrants(height: int = 64, width: int = 96) -> np.ndarray:
    """Red, green / blue, white [H, W, 3]."""
    cells = np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8)
    return cells.repeat(height // 2, axis=0).repeat(width // 2, axis=1)


def colours(pixels: np.ndarray) -> np.ndarray:
    """Colours of the four quadrants' middles, [2, 2, 3]."""
    height, width, _ = pixels.shape
    return pixels[[height // 4, 3 * height // 4]][:, [width // 4, 3 * width // 4]].astype(int)


def assert_shows(path: Path, expected: np.ndarray, tolerance: int = 6) -> None:
    frame = read_frames(str(path))[0]
    assert frame.shape == expected.shape
    assert np.abs(colours(frame) - colours(expected)).max() <= tolerance, colours(frame).tolist()


# Orientation of EXIF -> (a, b, c, d) of the display matrix, and what is shown.
MATRICES = {
    1: ((1, 0, 0, 1), lambda pixels: pixels),
    2: ((-1, 0, 0, 1), lambda pixels: pixels[:, ::-1]),
    3: ((-1, 0, 0, -1), lambda pixels: pixels[::-1, ::-1]),
    4: ((1, 0, 0, -1), lambda pixels: pixels[::-1]),
    5: ((0, 1, 1, 0), lambda pixels: pixels.swapaxes(0, 1)),
    6: ((0, 1, -1, 0), lambda pixels: np.rot90(pixels, -1)),
    7: ((0, -1, -1, 0), lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1)),
    8: ((0, -1, 1, 0), lambda pixels: np.rot90(pixels)),
}


@pytest.mark.odd_input(
    "Pictures",
    "A video whose display matrix mirrors or transposes it, as front cameras write it",
    "It is shown as the matrix says, in all eight positions.",
)
@pytest.mark.parametrize("orientation", MATRICES)
def test_display_matrices_mirror_and_turn(tmp_path, orientation):
    (a, b, c, d), shown = MATRICES[orientation]
    path = write_container(tmp_path / "v.mp4", np.stack([quadrants()] * 3), pix_fmt="yuv444p")
    content = path.read_bytes()
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    at = content.index(upright, content.index(b"tkhd"))
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(content[:at] + matrix + content[at + len(matrix) :])
    assert_shows(path, shown(quadrants()))
    streamed = next(iter(stream_frames(str(path), short_side=32))).pixels
    assert np.abs(colours(streamed) - colours(shown(quadrants()))).max() <= 6
    assert (probe(str(path)).rotation % 180 == 90) == (orientation >= 5)


@pytest.mark.odd_input(
    "Pictures",
    "A video with non-square pixels (anamorphic)",
    "Its width, its bucket and the filters on its aspect ratio are those of the picture that is shown.",
)
def test_sizes_are_in_square_pixels(shared):
    stretched, square = (probe(str(shared / "odd_media" / name)) for name in ("anamorphic.mp4", "square228x128.mp4"))
    assert (stretched.width, stretched.height) == (square.width, square.height) == (228, 128)
    (frame, *_) = stream_frames(str(shared / "odd_media" / "anamorphic.mp4"), short_side=64)
    assert (frame.width, frame.height, frame.pixels.shape) == (228, 128, (64, 114, 3))


def transparent(frames: int = 4) -> list[Image.Image]:
    """Quadrants whose left half is transparent."""
    pixels = np.dstack([quadrants(), np.full((64, 96), 255, np.uint8)])
    pixels[:, :48, 3] = 0
    return [Image.fromarray(pixels)] * frames


@pytest.mark.odd_input(
    "Pictures",
    "A moving picture with transparent parts (APNG, GIF, WebM with alpha)",
    "Transparent parts are white, as in still pictures; the colours hidden under them are not shown.",
)
@pytest.mark.parametrize("name", ["v.png", "v.webm"])
def test_transparent_videos_lie_on_white(tmp_path, name):
    path = tmp_path / name
    if name == "v.png":
        first, *others = [image.rotate(0) for image in transparent()]
        others[0].putpixel((0, 0), (1, 2, 3, 0))  # equal frames would be merged into one
        first.save(path, save_all=True, append_images=others, duration=100)
    else:
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libvpx-vp9", rate=12)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuva420p"
            for index, image in enumerate(transparent()):
                frame = av.VideoFrame.from_ndarray(np.asarray(image), format="rgba").reformat(format="yuva420p")
                frame.pts, frame.time_base = index, Fraction(1, 12)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    assert probe(str(path)).kind == "video"
    expected = quadrants()
    expected[:, :48] = 255
    assert_shows(path, expected, tolerance=12)
    streamed = next(iter(stream_frames(str(path), short_side=32))).pixels
    assert np.abs(colours(streamed) - colours(expected)).max() <= 12


def test_transparent_real_files(shared):
    for name in ("anim.png", "vp9_alpha.webm"):
        corner = read_frames(str(shared / "odd_media" / name))[0][:8, :8]
        assert (corner > 250).all(), name


@pytest.mark.odd_input(
    "Pictures",
    "An interlaced video",
    "Frames that are flagged as interlaced are deinterlaced (yadif, from the first field); others are left alone.",
)
def test_interlaced_frames_do_not_comb(tmp_path):
    moving = np.zeros((2, 128, 192, 3), np.uint8)
    moving[0, 30:90, 40:80] = moving[1, 30:90, 60:100] = 255
    woven = moving[0].copy()
    woven[1::2] = moving[1, 1::2]  # a field of each
    frames = {}
    for name, flags in (("flagged", "+ilme+ildct"), ("plain", "+global_header")):
        path = tmp_path / f"{name}.mkv"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg2video", rate=25, options={"flags": flags, "b": "4M", "g": "1"})
            stream.width, stream.height, stream.pix_fmt = 192, 128, "yuv420p"
            for index in range(3):
                frame = av.VideoFrame.from_ndarray(woven, format="rgb24").reformat(format="yuv420p")
                frame.pts, frame.time_base = index, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        frames[name] = read_frames(str(path), [0.04])[0].astype(int)
    combing = {
        name: np.abs(2 * pixels[40:80:2, 40:100] - pixels[39:79:2, 40:100] - pixels[41:81:2, 40:100]).mean()
        for name, pixels in frames.items()
    }
    assert combing["plain"] > 100
    assert combing["flagged"] < 5


def write_coded(
    path: Path, luma: int, blue: int, red: int, *, height: int, codes: dict[str, int] | None = None
) -> Path:
    """Writes a video of one colour, given as 8-bit (or, for HDR, 10-bit) YUV, with codes of ITU-T H.273 or without."""
    is_deep = bool(codes and codes.get("color_trc", 1) in (16, 18))
    width, pix_fmt, kind = 2 * height, "yuv420p10le" if is_deep else "yuv420p", np.uint16 if is_deep else np.uint8
    planes = np.concatenate(
        [np.full(width * height, luma), np.full(width * height // 4, blue), np.full(width * height // 4, red)]
    )
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12, options={"qp": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        for name, code in (codes or {}).items():
            setattr(stream.codec_context, name, code)
        for index in range(2):
            pixels = planes.astype(kind).reshape(height * 3 // 2, width)
            frame = av.VideoFrame.from_ndarray(pixels, format=pix_fmt)
            frame.pts, frame.time_base = index, Fraction(1, 12)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.odd_input(
    "Pictures",
    "A video that does not state its colour matrix",
    "BT.709 above 576 lines, BT.601 up to there, as players take it.",
)
@pytest.mark.parametrize(("height", "is_hd"), [(720, True), (576, False), (64, False)])
def test_untagged_colours_follow_the_number_of_lines(tmp_path, height, is_hd):
    luma, blue, red = (63, 102, 240) if is_hd else (81, 90, 240)  # pure red in BT.709 and in BT.601
    path = write_coded(tmp_path / "v.mkv", luma, blue, red, height=height)
    assert read_frames(str(path))[0].mean(axis=(0, 1)) == pytest.approx(RED, abs=4)


@pytest.mark.odd_input(
    "Pictures",
    "A video of high dynamic range (PQ or HLG, BT.2020)",
    "Tone-mapped to standard range: white of 203 cd/m² stays nearly white, highlights are compressed, hues stay.",
)
@pytest.mark.parametrize(("transfer", "white", "grey"), [(16, 0.5807, 0.4414), (18, 0.75, 0.5)])
def test_high_dynamic_range_is_tone_mapped(tmp_path, transfer, white, grey):
    """`white` and `grey` are the codes of 203 and 52 cd/m2, which is a quarter of the light."""
    codes = {"color_trc": transfer, "color_primaries": 9, "colorspace": 9, "color_range": 1}
    shown = {}
    for name, code in (("black", 0.0), ("grey", grey), ("white", white), ("highlight", 1.0)):
        luma = round(64 + 876 * code)
        path = write_coded(tmp_path / f"{name}.mkv", luma, 512, 512, height=64, codes=codes)
        shown[name] = read_frames(str(path))[0].mean(axis=(0, 1))
    assert shown["black"] == pytest.approx([0, 0, 0], abs=2)
    assert shown["grey"] == pytest.approx([137, 137, 137], abs=4), "a quarter of white's light in sRGB"
    assert shown["white"] == pytest.approx([240, 240, 240], abs=4)
    assert shown["highlight"] == pytest.approx([255, 255, 255], abs=1)
