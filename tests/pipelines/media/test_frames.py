"""Files are probed, decoded and written exactly: a wrong time, size or colour would spoil every training example."""

from __future__ import annotations

import os
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow.fs
import pytest
from PIL import Image

from pipelines.media import videos
from pipelines.media.errors import MediaError
from pipelines.media.frames import clip_times, read_frames, stream_frames
from pipelines.media.probe import MediaInfo, open_media, probe
from pipelines.media.write import write_image, write_video
from pipelines.store import filesystems
from tests import media_files
from tests.media_files import coded_frames, read_code, write_container, write_picture

CONTAINERS = {
    "v.mp4": {"codec": "libx264"},
    "v.mov": {"codec": "libx264"},
    "v.mkv": {"codec": "libx264"},
    "v.webm": {"codec": "libvpx-vp9"},
    "v.ts": {"codec": "libx264"},
    "v.avi": {"codec": "mpeg4"},
    "b_frames.avi": {"codec": "libx264"},
    "v.gif": {"codec": "gif", "pix_fmt": "rgb8", "fps": 25},
    "v.flv": {"codec": "libx264"},
    "v.wmv": {"codec": "wmv2"},
}


def codes(uri: Path, times: list[float], **size: int) -> list[int]:
    return [read_code(frame) for frame in read_frames(str(uri), times, **size)]


# What a file is


@pytest.mark.parametrize(("name", "settings"), CONTAINERS.items())
def test_every_container_gives_its_facts_and_the_frame_at_each_time(tmp_path, name, settings):
    fps = settings.get("fps", 24)
    path = write_container(tmp_path / name, coded_frames(50), **settings)
    info = probe(str(path))
    assert (info.kind, info.width, info.height, info.rotation) == ("video", 96, 64, 0)
    assert (info.frames, info.fps) == (50, pytest.approx(fps, abs=0.1))
    assert info.duration == pytest.approx(50 / fps, abs=0.002)
    indices = [49, 0, 7, 23, 24, 31]
    assert codes(path, [index / fps for index in indices]) == indices
    assert codes(path, [(index + 0.9) / fps for index in indices]) == indices


@pytest.mark.parametrize(
    ("name", "size", "settings"),
    [
        ("deep.mkv", (64, 96), {"codec": "ffv1", "pix_fmt": "yuv420p10le"}),
        ("odd.webm", (65, 97), {"codec": "libvpx-vp9", "pix_fmt": "yuv444p"}),
        ("grey.mkv", (65, 99), {"codec": "ffv1", "pix_fmt": "gray"}),
        ("hidden_frames.webm", (64, 96), {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16"}}),
        (
            "fragments.mp4",
            (64, 96),
            {"options": {"g": "10"}, "container_options": {"movflags": "frag_keyframe+empty_moov"}},
        ),
    ],
)
def test_unusual_pixels_sizes_and_layouts(tmp_path, name, size, settings):
    path = write_container(tmp_path / name, coded_frames(50, height=size[0], width=size[1]), **settings)
    info = probe(str(path))
    assert (info.frames, info.height, info.width) == (50, *size)
    assert codes(path, [index / 24 for index in range(50)]) == list(range(50))
    assert len(list(stream_frames(str(path), short_side=32))) == 50


def test_metadata_in_an_old_encoding_is_no_obstacle(tmp_path):
    path = write_container(tmp_path / "v.mkv", coded_frames(5), metadata={"title": "Chateau"})
    path.write_bytes(path.read_bytes().replace(b"Chateau", b"Ch\xe2teau"))
    assert probe(str(path)).frames == 5


def test_probe_agrees_with_pyav_on_real_files(shared):
    for path in sorted((shared / "media").iterdir()):
        info = probe(str(path))
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            decoded = sum(1 for _ in container.decode(stream))
            assert (info.width, info.height, info.frames) == (stream.width, stream.height, decoded), path
            assert info.codec == stream.codec_context.name
            if path.suffix == ".mp4":
                assert info.kind == "video"
                assert info.fps == float(stream.average_rate)
                assert info.duration == pytest.approx(float(stream.duration * stream.time_base))
            else:
                assert (info.kind, info.fps, info.duration, info.frames) == ("image", None, None, 1)


@pytest.mark.parametrize(
    ("suffix", "mode", "codec"),
    [
        (".jpg", "RGB", "mjpeg"),
        (".jpg", "CMYK", "mjpeg"),
        (".jpg", "L", "mjpeg"),
        (".png", "RGBA", "png"),
        (".png", "P", "png"),
        (".png", "1", "png"),
        (".webp", "RGB", "webp"),
        (".bmp", "RGB", "bmp"),
        (".tiff", "RGB", "tiff"),
        (".gif", "P", "gif"),
        (".avif", "RGB", "av1"),
    ],
)
def test_pictures_of_every_format_and_mode(tmp_path, suffix, mode, codec):
    path = tmp_path / f"picture{suffix}"
    Image.new("RGB", (90, 60), (204, 204, 204)).convert(mode, dither=Image.Dither.NONE).save(path)
    info = probe(str(path))
    assert info == MediaInfo(kind="image", codec=codec, width=90, height=60)
    frames = read_frames(str(path))
    assert frames.shape == (1, 60, 90, 3)
    assert frames.dtype == np.uint8
    assert frames[0, 30, 45] == pytest.approx(np.full(3, 255 if mode == "1" else 204), abs=6)


def test_content_counts_and_not_the_name(tmp_path):
    write_picture(tmp_path / "picture.mp4", format="PNG")
    write_container(tmp_path / "video.mkv", coded_frames(5)).rename(tmp_path / "video.jpg")
    assert probe(str(tmp_path / "picture.mp4")).kind == "image"
    assert probe(str(tmp_path / "video.jpg")).kind == "video"


def test_one_frame_is_an_image_in_every_container(tmp_path):
    for name, settings in [("one.gif", {"codec": "gif", "pix_fmt": "rgb8"}), ("one.mp4", {})]:
        path = write_container(tmp_path / name, coded_frames(4)[3:], **settings)
        info = probe(str(path))
        assert (info.kind, info.frames, info.fps, info.duration) == ("image", 1, None, None)
        assert codes(path, [0.0, 5.0]) == [3, 3]


@pytest.mark.parametrize("name", media_files.BAD)
def test_bad_files_fail_with_one_line(tmp_path, name):
    path = tmp_path / name
    media_files.BAD[name](path)
    with pytest.raises(MediaError, match=r"^[^\n]+$") as caught:
        probe(str(path))
    assert str(caught.value).startswith(f"{name}: ")


def test_music_with_a_cover_picture_is_no_video(tmp_path):
    media_files.cover_art(tmp_path / "song.mp3")
    with av.open(str(tmp_path / "song.mp3")) as container:
        assert container.streams.video, "the cover must look like a video stream for this test to mean anything"
    with pytest.raises(MediaError, match="only sound"):
        probe(str(tmp_path / "song.mp3"))


def test_missing_files_folders_and_unknown_addresses(tmp_path):
    with pytest.raises(MediaError, match=r"gone\.mp4: no such file"):
        probe(str(tmp_path / "gone.mp4"))
    with pytest.raises(MediaError, match="directory"):
        probe(str(tmp_path))
    with pytest.raises(MediaError, match="no ftp:// address") as caught:
        read_frames("ftp://user:secret@host/a.png")
    assert "secret" not in str(caught.value)


def test_a_playlist_opens_no_other_file(tmp_path):
    inner = write_container(tmp_path / "inner.ts", coded_frames(30))
    playlist = tmp_path / "list.mp4"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{inner}\n#EXT-X-ENDLIST\n")
    with pytest.raises(MediaError):
        probe(str(playlist))
    playlist.write_text(f"ffconcat version 1.0\nfile '{inner}'\n")
    with pytest.raises(MediaError):
        probe(str(playlist))


def test_frames_beyond_the_limits_are_refused(tmp_path, monkeypatch):
    picture = write_picture(tmp_path / "p.png", height=64, width=96)
    video = write_container(tmp_path / "v.mp4", coded_frames(3))
    monkeypatch.setattr("pipelines.media.pictures.MAX_PIXELS", 64 * 96 - 1)
    for path in (picture, video):
        with pytest.raises(MediaError, match="96x64 pixels"):
            probe(str(path))
    monkeypatch.undo()
    monkeypatch.setattr("pipelines.media.pictures.MAX_SIDE", 95)
    with pytest.raises(MediaError, match="96x64 pixels"):
        read_frames(str(picture))


# Frames at times


def test_times_may_come_in_any_order_twice_and_beyond_the_ends(tmp_path):
    path = write_container(tmp_path / "v.mp4", coded_frames(24), fps=12)
    assert codes(path, [1.0, 0.0, 99.0, 1.0, -3.0]) == [12, 0, 23, 12, 0]


def test_variable_frame_rate_follows_the_timestamps(tmp_path):
    ticks = [0, 40, 80, 1000, 1040, 3000]
    path = write_container(tmp_path / "v.mkv", coded_frames(6), ticks=ticks)
    assert probe(str(path)).frames == 6
    assert codes(path, [0.0, 0.05, 0.9, 1.02, 2.9, 3.0]) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("keyframes", ["24", "1000"])
def test_seeking_gives_the_same_frames_as_decoding_through(tmp_path, suffix, keyframes):
    path = write_container(tmp_path / f"v.{suffix}", coded_frames(480, height=16, width=96), options={"g": keyframes})
    indices = [3, 150, 151, 152, 260, 265, 479]
    assert codes(path, [index / 24 for index in indices]) == indices
    assert codes(path, [19.0]) == [456]


def test_late_times_are_sought_and_not_decoded_through(tmp_path, monkeypatch):
    path = write_container(tmp_path / "v.mp4", coded_frames(480, height=16, width=96), options={"g": "24"})
    decoded = []
    original = videos.check_size
    monkeypatch.setattr(videos, "check_size", lambda *size: (decoded.append(size), original(*size)))
    assert codes(path, [0.0, 18.0]) == [0, 432]
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
    assert codes(path, [0.0, 1.0]) == [12, 36]


def test_a_stream_gives_every_frame_with_its_time(tmp_path):
    path = write_container(tmp_path / "v.mp4", coded_frames(40, height=128, width=192), fps=30)
    streamed = list(stream_frames(str(path), short_side=32))
    assert [read_code(frame) for _, frame in streamed] == list(range(40))
    assert [seconds for seconds, _ in streamed] == pytest.approx([index / 30 for index in range(40)])
    assert streamed[0][1].shape == (32, 48, 3)


# Geometry and colour


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
    _, streamed = next(iter(stream_frames(str(path), short_side=64)))
    assert np.abs(streamed.astype(int) - expected).mean() < 8


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
    assert probe(str(path)).width == 96
    assert read_frames(str(path)).shape == (1, 64, 192, 3)


def test_an_embedded_picture_with_broken_exif_is_still_read(tmp_path):
    exif = b"Exif\x00\x00" + b"II*\x00" + struct.pack("<I", 0xFFFFFF00)
    write_picture(tmp_path / "p.jpg", exif=exif)
    assert read_frames(str(tmp_path / "p.jpg")).shape == (1, 64, 96, 3)


# Where files are


def test_object_store_addresses_are_read(tmp_path):
    video = write_container(tmp_path / "v.mp4", coded_frames(24))
    uri = f"file://{video}"
    assert probe(uri) == probe(str(video))
    assert [read_code(frame) for frame in read_frames(uri, [0.5])] == [12]
    with open_media(uri) as file:
        assert file.read() == video.read_bytes()


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


# Times of a clip


def test_times_of_a_clip():
    clip = {"kind": "video", "start": 2.0, "end": 4.0}
    assert clip_times(clip, count=4) == [2.25, 2.75, 3.25, 3.75]
    assert clip_times(clip, fps=2) == [2.0, 2.5, 3.0, 3.5]
    assert clip_times({**clip, "end": 4.2}, fps=2) == [2.0, 2.5, 3.0, 3.5, 4.0]
    assert clip_times({**clip, "end": 2.01}, fps=2) == [2.0]
    assert clip_times({"kind": "image", "start": 0.0, "end": 0.0}, count=3) == [0.0]


# Writing


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 100, 50), (17, 17, 17)])
def test_written_videos_keep_colour_size_rate_and_number(tmp_path, colour):
    frames = np.full((10, 32, 48, 3), colour, np.uint8)
    write_video(tmp_path / "deep" / "v.mp4", frames, 12.5)
    path = str(tmp_path / "deep" / "v.mp4")
    info = probe(path)
    assert (info.codec, info.width, info.height, info.frames, info.fps) == ("h264", 48, 32, 10, 12.5)
    decoded = read_frames(path, [index / 12.5 for index in range(10)])
    assert np.abs(decoded.astype(int) - frames).max() <= 4
    with av.open(path) as container:
        assert container.streams.video[0].pix_fmt == "yuv420p"


def test_full_chroma_keeps_colours_that_change_from_pixel_to_pixel(tmp_path):
    frames = np.zeros((5, 32, 48, 3), np.uint8)
    frames[:, :, 0::2], frames[:, :, 1::2] = (200, 60, 60), (60, 60, 200)
    apart = {}
    for full in (False, True):
        write_video(tmp_path / "v.mp4", frames, 12, crf=1, full_chroma=full)
        decoded = read_frames(str(tmp_path / "v.mp4"), [0.2])[0].astype(int)
        apart[full] = np.abs(decoded[:, 0::2, 0] - decoded[:, 1::2, 0]).mean()
    assert apart[True] == pytest.approx(140, abs=10)
    assert apart[False] < 70, "at half the resolution there is one colour for both"


def test_written_frames_come_back_in_order_and_the_bytes_repeat(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, coded_frames(60), 24)
    assert codes(tmp_path / "a.mp4", [index / 24 for index in range(60)]) == list(range(60))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_written_pictures_are_exact_and_whole_or_absent(tmp_path):
    pixels = media_files.noise(1, 33, 47)
    write_image(tmp_path / "p.png", pixels)
    np.testing.assert_array_equal(read_frames(str(tmp_path / "p.png"))[0], pixels)
    with pytest.raises(ValueError, match="even"):
        write_video(tmp_path / "odd.mp4", np.zeros((2, 33, 48, 3), np.uint8), 24)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.png"]
