"""Frames are decoded exactly: a wrong time, size, rotation or colour would spoil every training example."""

from __future__ import annotations

import os
import struct
from fractions import Fraction

import av
import numpy as np
import pyarrow.fs
import pytest
from PIL import Image

from pipelines.media import videos
from pipelines.media.errors import MediaError
from pipelines.media.frames import clip_times, read_frames, stream_frames
from pipelines.media.probe import probe
from pipelines.store import filesystems
from tests import media_files
from tests.media_files import coded_frames, read_code, read_codes, write_container, write_picture


def test_times_may_come_in_any_order_twice_and_beyond_the_ends(tmp_path):
    path = write_container(tmp_path / "v.mp4", coded_frames(24), fps=12)
    assert read_codes(path, [1.0, 0.0, 99.0, 1.0, -3.0]) == [12, 0, 23, 12, 0]


def test_variable_frame_rate_follows_the_timestamps(tmp_path):
    ticks = [0, 40, 80, 1000, 1040, 3000]
    path = write_container(tmp_path / "v.mkv", coded_frames(6), ticks=ticks)
    assert probe(str(path)).frames == 6
    assert read_codes(path, [0.0, 0.05, 0.9, 1.02, 2.9, 3.0]) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("keyframes", ["24", "1000"])
def test_seeking_gives_the_same_frames_as_decoding_through(tmp_path, suffix, keyframes):
    path = write_container(tmp_path / f"v.{suffix}", coded_frames(480, height=16, width=96), options={"g": keyframes})
    indices = [3, 150, 151, 152, 260, 265, 479]
    assert read_codes(path, [index / 24 for index in indices]) == indices
    assert read_codes(path, [19.0]) == [456]


def test_late_times_are_sought_and_not_decoded_through(tmp_path, monkeypatch):
    path = write_container(tmp_path / "v.mp4", coded_frames(480, height=16, width=96), options={"g": "24"})
    decoded = []
    original = videos.check_size
    monkeypatch.setattr(videos, "check_size", lambda *size: (decoded.append(size), original(*size)))
    assert read_codes(path, [0.0, 18.0]) == [0, 432]
    assert len(decoded) < 48


def test_an_edit_list_cuts_what_it_cuts(tmp_path):
    complete = write_container(tmp_path / "complete.mp4", coded_frames(48), options={"bf": "0", "g": "100"})
    path = tmp_path / "cut.mp4"
    with av.open(str(complete)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                shift = int(Fraction(1, 2) / packet.time_base)  # the first half second is before zero
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = stream
                target.mux(packet)
    info = probe(str(path))
    assert (info.frames, info.duration) == (36, pytest.approx(1.5))
    assert read_codes(path, [0.0, 1.0]) == [12, 36]


def test_a_stream_gives_every_frame_with_its_time(tmp_path):
    path = write_container(tmp_path / "v.mp4", coded_frames(40, height=128, width=192), fps=30)
    streamed = list(stream_frames(str(path), short_side=32))
    assert [read_code(frame.pixels) for frame in streamed] == list(range(40))
    assert [frame.seconds for frame in streamed] == pytest.approx([index / 30 for index in range(40)])
    assert streamed[0].pixels.shape == (32, 48, 3)
    assert (streamed[0].width, streamed[0].height) == (192, 128)


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_display_rotation_is_applied(tmp_path, rotation):
    frames = np.zeros((6, 64, 96, 3), np.uint8)
    frames[:, :32, :48] = 255  # the top left quarter is white
    path = write_container(tmp_path / "v.mp4", frames, rotation=rotation)
    info = probe(str(path))
    assert (info.width, info.height, info.rotation) == (96, 64, rotation % 360)
    expected = np.rot90(frames[0], rotation // 90)
    decoded = read_frames(str(path), [0.1])[0]
    assert decoded.shape == expected.shape
    assert np.abs(decoded.astype(int) - expected).mean() < 8
    streamed = next(iter(stream_frames(str(path), short_side=64)))
    assert np.abs(streamed.pixels.astype(int) - expected).mean() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:32, :48] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "p.png"
    Image.fromarray(pixels).save(path, exif=exif)
    info = probe(str(path))
    turned = np.rot90(pixels, info.rotation // 90)
    mirrored = turned if orientation in (1, 3, 6, 8) else turned[:, ::-1]
    expected = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.swapaxes(0, 1),
        6: pixels.swapaxes(0, 1)[:, ::-1],
        7: pixels[::-1, ::-1].swapaxes(0, 1),
        8: pixels.swapaxes(0, 1)[::-1],
    }[orientation]
    decoded = read_frames(str(path))[0]
    np.testing.assert_array_equal(decoded, expected)
    np.testing.assert_array_equal(decoded, mirrored)


def test_short_side_keeps_the_aspect_and_crop_is_exact_and_centred(tmp_path):
    pixels = np.zeros((100, 300, 3), np.uint8)
    pixels[:, 100:200] = (255, 0, 0)
    path = tmp_path / "p.png"
    Image.fromarray(pixels).save(path)
    assert read_frames(str(path), short_side=50).shape == (1, 50, 150, 3)
    assert read_frames(str(path), [0, 0], short_side=200).shape == (2, 200, 600, 3)
    square = read_frames(str(path), crop=(64, 64))[0]
    assert square.shape == (64, 64, 3)
    assert (square[:, 4:-4] == (255, 0, 0)).all()
    tall = read_frames(str(path), crop=(96, 32))[0]
    assert (tall[:, 2:-2] == (255, 0, 0)).all()
    wide = read_frames(str(path), crop=(20, 120))[0]
    assert wide.shape == (20, 120, 3)
    assert wide[10, [2, 117]].max() == 0
    assert (wide[10, 45:75] == (255, 0, 0)).all()


def test_large_jpegs_are_decoded_smaller_to_the_same_picture(tmp_path):
    y, x = np.mgrid[0:1200, 0:1600]
    pixels = np.stack([x * 255 // 1600, y * 255 // 1200, (x // 100 + y // 100) % 2 * 200], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "p.jpg", quality=95)
    expected = np.asarray(Image.fromarray(pixels).resize((200, 150), Image.Resampling.BICUBIC)).astype(int)
    small = read_frames(str(tmp_path / "p.jpg"), short_side=150)[0]
    assert np.abs(small - expected).mean() < 3
    assert read_frames(str(tmp_path / "p.jpg"), crop=(100, 400)).shape == (1, 100, 400, 3)


def test_transparency_becomes_white_and_16_bits_are_scaled(tmp_path):
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, 4:, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "alpha.png")
    decoded = read_frames(str(tmp_path / "alpha.png"))[0]
    assert (decoded[:, :4] == 255).all()
    assert (decoded[:, 4:] == 0).all()
    Image.fromarray(np.full((8, 8), 128 << 8, np.uint16)).save(tmp_path / "deep.png")
    assert (read_frames(str(tmp_path / "deep.png")) == 128).all()


def test_pixels_that_are_not_square_are_made_so(tmp_path):
    path = write_container(tmp_path / "v.mp4", coded_frames(5), pixel_aspect=2)
    assert (probe(str(path)).width, probe(str(path)).height) == (192, 64)
    assert read_frames(str(path)).shape == (1, 64, 192, 3)


def test_an_embedded_picture_with_broken_exif_is_still_read(tmp_path):
    exif = b"Exif\x00\x00" + b"II*\x00" + struct.pack("<I", 0xFFFFFF00)
    write_picture(tmp_path / "p.jpg", exif=exif)
    assert read_frames(str(tmp_path / "p.jpg")).shape == (1, 64, 96, 3)


def test_opening_reads_no_more_than_it_must(tmp_path, monkeypatch):
    """A long video in an object store is not downloaded to look at one late frame."""
    path = write_container(
        tmp_path / "v.mp4", np.stack([media_files.noise(i, 128, 128) for i in range(240)]), options={"g": "24"}
    )
    handler = pyarrow.fs.LocalFileSystem()
    total = 0
    opened = handler.open_input_file

    class Counting:
        def open_input_file(self, name):
            file = opened(name)
            original = file.readinto

            class Reader:
                closed = False

                def readinto(self, buffer):
                    nonlocal total
                    count = original(buffer)
                    total += count
                    return count

                def __getattr__(self, name):
                    return getattr(file, name)

            return Reader()

    monkeypatch.setattr(filesystems, "open_filesystem", lambda uri: (Counting(), uri))
    monkeypatch.setattr(videos, "BUFFER_BYTES", 1 << 16)
    read_frames(str(path), [9.5], short_side=32)
    assert 0 < total < os.path.getsize(path) / 3


def test_times_of_a_clip():
    clip = {"kind": "video", "start": 2.0, "end": 4.0}
    assert clip_times(clip, count=4) == [2.25, 2.75, 3.25, 3.75]
    assert clip_times({"kind": "image", "start": 0.0, "end": 0.0}, count=3) == [0.0]


@pytest.mark.odd_input(
    "Pictures",
    "A TIFF that is stored turned",
    "It is turned once, and its width and height are those of the upright picture.",
)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_once(tmp_path, orientation):
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:32, :48] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "p.tif", exif=exif)
    Image.fromarray(pixels).save(tmp_path / "p.png", exif=exif)
    (frame,), (expected,) = read_frames(str(tmp_path / "p.tif")), read_frames(str(tmp_path / "p.png"))
    assert (frame == expected).all()
    info = probe(str(tmp_path / "p.tif"))
    assert (info.width, info.height, info.rotation) == (*frame.shape[1::-1], 0)


@pytest.mark.odd_input(
    "Pictures",
    "A TIFF of floating-point grey levels",
    "Levels of 0 to 1, of 8 or of 16 bits are scaled to white; larger values are refused.",
)
@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0])
def test_grey_levels_in_floating_point_are_scaled(tmp_path, white):
    levels = np.linspace(0, white, 64 * 64, dtype=np.float32).reshape(64, 64)
    levels[0, 0] = np.nan
    Image.fromarray(levels).save(tmp_path / "p.tif")
    frame = read_frames(str(tmp_path / "p.tif"))[0]
    assert frame[..., 0] == pytest.approx(np.linspace(0, 255, 64 * 64).reshape(64, 64), abs=0.51)
    levels[5, 5] = 3 * white  # a highlight does not darken the rest
    Image.fromarray(levels).save(tmp_path / "p.tif")
    assert np.abs(read_frames(str(tmp_path / "p.tif"))[0][10:].astype(int) - frame[10:]).max() == 0
    Image.fromarray(levels * 1e6).save(tmp_path / "p.tif")
    with pytest.raises(MediaError, match="no grey levels; convert to 8 or 16 bits"):
        read_frames(str(tmp_path / "p.tif"))


@pytest.mark.parametrize("white", [255, 65535, 2**31 - 1])
def test_32_bit_integers_are_scaled(tmp_path, white):
    levels = np.linspace(0, white, 64 * 64).astype(np.int32).reshape(64, 64)
    Image.fromarray(levels).save(tmp_path / "p.tif")
    assert Image.open(tmp_path / "p.tif").mode == "I"
    frame = read_frames(str(tmp_path / "p.tif"))[0]
    assert frame[..., 0] == pytest.approx(np.linspace(0, 255, 64 * 64).reshape(64, 64), abs=1.1)


@pytest.mark.odd_input(
    "Pictures",
    "An AVIF whose major brand is that of the HEIF family (`mif1`)",
    "It is read as AVIF; HEIC is still refused, with the remedy.",
)
@pytest.mark.parametrize("brand", [b"mif1", b"msf1"])
def test_the_compatible_brands_tell_avif_from_heic(tmp_path, brand):
    write_picture(tmp_path / "p.avif")
    content = (tmp_path / "p.avif").read_bytes()
    assert content[4:12] == b"ftypavif"
    (tmp_path / "mif1.avif").write_bytes(content[:8] + brand + content[12:])
    assert (read_frames(str(tmp_path / "mif1.avif")) == read_frames(str(tmp_path / "p.avif"))).all()
    assert probe(str(tmp_path / "mif1.avif")).codec == "av1"
    length = int.from_bytes(content[:4], "big")
    heic = content[:8] + brand + content[12:length].replace(b"avif", b"heic").replace(b"avis", b"heic")
    (tmp_path / "p.heic").write_bytes(heic + content[length:])
    with pytest.raises(MediaError, match="HEIC images cannot be read; convert to JPEG or PNG"):
        probe(str(tmp_path / "p.heic"))


def test_an_avif_of_high_dynamic_range_is_tone_mapped(tmp_path):
    codes = {"color_trc": 16, "color_primaries": 9, "colorspace": 9, "color_range": 1}
    white = np.concatenate([np.full(96 * 64, 573), np.full(48 * 32 * 2, 512)]).astype(np.uint16).reshape(96, 96)
    with av.open(str(tmp_path / "p.avif"), "w", format="avif") as container:
        stream = container.add_stream("libsvtav1", rate=1, options={"crf": "5", "svtav1-params": "preset=8"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p10le"
        for name, code in codes.items():
            setattr(stream.codec_context, name, code)
        frame = av.VideoFrame.from_ndarray(white, format="yuv420p10le")
        frame.pts, frame.time_base = 0, Fraction(1)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert probe(str(tmp_path / "p.avif")).kind == "image"
    assert read_frames(str(tmp_path / "p.avif")).mean() == pytest.approx(240, abs=3), "203 cd/m2, white of SDR"


@pytest.mark.odd_input(
    "Runs",
    "A video whose frames change their shape on the way (VP8 of a turned phone)",
    "Each shape gives clips of its own size; nothing that spans both is read.",
)
def test_frames_of_two_shapes_are_named(shared):
    path = str(shared / "odd_media" / "turned.webm")
    assert read_frames(path, [0.5]).shape == (1, 240, 320, 3)
    assert read_frames(path, [3.0]).shape == (1, 320, 240, 3)
    with pytest.raises(MediaError, match=r"turned\.webm: the shape of its frames changes \(240x320 and 320x240\)"):
        read_frames(path, [0.5, 3.0])
