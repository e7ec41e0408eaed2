"""The properties of a file follow from its content, whatever its name, and bad files fail with one line."""

from __future__ import annotations

import av
import numpy as np
import pytest
from PIL import Image

from pipelines.media.errors import MediaError
from pipelines.media.frames import read_frames, stream_frames
from pipelines.media.probe import MediaInfo, open_media, probe
from tests import media_files
from tests.media_files import coded_frames, read_code, read_codes, write_container, write_picture

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


@pytest.mark.parametrize(("name", "settings"), CONTAINERS.items())
def test_every_container_gives_its_facts_and_the_frame_at_each_time(tmp_path, name, settings):
    fps = settings.get("fps", 24)
    path = write_container(tmp_path / name, coded_frames(50), **settings)
    info = probe(str(path))
    assert (info.kind, info.width, info.height, info.rotation) == ("video", 96, 64, 0)
    assert (info.frames, info.fps) == (50, pytest.approx(fps, abs=0.1))
    assert info.duration == pytest.approx(50 / fps, abs=0.002)
    indices = [49, 0, 7, 23, 24, 31]
    assert read_codes(path, [index / fps for index in indices]) == indices
    assert read_codes(path, [(index + 0.9) / fps for index in indices]) == indices


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
    assert read_codes(path, [index / 24 for index in range(50)]) == list(range(50))
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
        assert read_codes(path, [0.0, 5.0]) == [3, 3]


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


def test_object_store_addresses_are_read(tmp_path):
    video = write_container(tmp_path / "v.mp4", coded_frames(24))
    uri = f"file://{video}"
    assert probe(uri) == probe(str(video))
    assert [read_code(frame) for frame in read_frames(uri, [0.5])] == [12]
    with open_media(uri) as file:
        assert file.read() == video.read_bytes()
