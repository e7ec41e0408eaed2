"""Small real media files for tests: videos whose frames carry their own number, and one of each kind of bad file."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from pipelines.media.frames import read_frames

BITS = 12


def coded_frames(count: int, *, height: int = 64, width: int = 96) -> np.ndarray:
    """Grey frames [N, H, W, 3] whose vertical bars spell the frame's number, which `read_code` reads back."""
    bars = np.arange(width) * BITS // width  # which bit a column shows
    values = (np.arange(count)[:, None] >> bars[None, :] & 1) * 255
    return np.broadcast_to(values[:, None, :, None], (count, height, width, 3)).astype(np.uint8)


def read_code(frame: np.ndarray) -> int:
    """The number that a frame [H, W, 3] of `coded_frames` shows, at whatever size."""
    height, width, _ = frame.shape
    middles = [int((bit + 0.5) * width / BITS) for bit in range(BITS)]
    return sum(int(frame[height // 2, column].mean() > 127) << bit for bit, column in enumerate(middles))


def read_codes(uri: str | Path, times: Sequence[float], **size: int) -> list[int]:
    """The numbers of the frames at times in a video of `coded_frames`."""
    return [read_code(frame) for frame in read_frames(str(uri), times, **size)]


def write_container(
    path: Path,
    frames: np.ndarray,
    *,
    fps: float = 24,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
    rotation: int = 0,
    pixel_aspect: int = 1,
    ticks: Sequence[int] | None = None,
) -> Path:
    """Writes frames [N, H, W, 3] in the container of the path's suffix; `ticks` are 1/1000 s for a variable rate."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        container.metadata.update(metadata or {})
        rate = Fraction(fps).limit_denominator(1001)
        stream: Any = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        if ticks is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.sample_aspect_ratio = Fraction(pixel_aspect)
        if rotation:
            stream.set_display_rotation(rotation)
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts = index if ticks is None else ticks[index]
            frame.time_base = 1 / rate if ticks is None else Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def noise(seed: int, height: int, width: int) -> np.ndarray:
    """A picture [H, W, 3] that does not compress to nothing."""
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def write_picture(path: Path, *, seed: int = 0, height: int = 64, width: int = 96, **save: Any) -> Path:
    Image.fromarray(noise(seed, height, width)).save(path, **save)
    return path


def _add_tone(container: av.container.OutputContainer, codec: str) -> None:
    stream: Any = container.add_stream(codec, rate=16000, layout="mono")
    tone = np.sin(np.arange(16000) / 6)[None].astype(np.float32)
    frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
    frame.rate = 16000
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("This is no picture, whatever its name says.\n" * 50)


def random_bytes(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(20_000))


def truncated_picture(path: Path) -> None:
    write_picture(path, format="JPEG" if path.suffix == ".jpg" else "PNG")
    cut(path)


def truncated_video(path: Path) -> None:
    """Cut in the middle: the index at its end is lost."""
    write_container(path, _busy_frames())
    cut(path)


def truncated_streamable(path: Path) -> None:
    """Cut in the middle, with the index at its start: it looks whole until its frames are read."""
    write_container(path, _busy_frames(), container_options={"movflags": "faststart"})
    cut(path)


def audio_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        _add_tone(container, "aac")


def cover_art(path: Path) -> None:
    """An MP3 with a cover picture, which FFmpeg shows as a video stream."""
    sound = path.with_suffix(".sound.mp3")
    with av.open(str(sound), "w") as container:
        _add_tone(container, "mp3")
    cover = write_picture(path.with_suffix(".png")).read_bytes()
    body = b"\x00image/png\x00\x03\x00" + cover
    frame = b"APIC" + struct.pack(">I", len(body)) + b"\x00\x00" + body
    size = bytes(len(frame) >> shift & 0x7F for shift in (21, 14, 7, 0))
    path.write_bytes(b"ID3\x03\x00\x00" + size + frame + sound.read_bytes())
    sound.unlink()
    path.with_suffix(".png").unlink()


def no_frames(path: Path) -> None:
    """A video track that holds not one frame, beside sound."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        _add_tone(container, "aac")


def huge(path: Path) -> None:
    """A PNG of 2 kB that claims 100,000 x 100,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1_000_000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def cut(path: Path, keep: float = 0.5) -> None:
    """Keeps only the first part of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def _busy_frames() -> np.ndarray:
    return np.stack([noise(index, 64, 96) for index in range(48)])


BAD: dict[str, Callable[[Path], None]] = {
    "empty.mp4": empty,
    "empty.png": empty,
    "text.jpg": text,
    "text.mp4": text,
    "random.mp4": random_bytes,
    "truncated.jpg": truncated_picture,
    "truncated.png": truncated_picture,
    "truncated.mp4": truncated_video,
    "truncated.mkv": truncated_video,
    "truncated_streamable.mp4": truncated_streamable,
    "audio_only.mp4": audio_only,
    "cover_art.mp3": cover_art,
    "no_frames.mp4": no_frames,
    "huge.png": huge,
}
"""How to make each kind of bad file, by file name."""


def write_bad(folder: Path) -> list[Path]:
    """Writes one of each kind of bad file."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, write in BAD.items():
        write(folder / name)
    return [folder / name for name in BAD]
