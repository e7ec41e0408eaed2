"""Opens a media file and reports what it holds.

The kind of a file follows from its content, never from its name.

    >>> probe("clip.mp4")
    MediaInfo(kind='video', codec='h264', width=640, height=360, rotation=0, fps=25.0, frames=50, duration=2.0)
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BufferedReader
from typing import BinaryIO

from pipelines.media import pictures, videos
from pipelines.media.errors import MediaError, media_errors
from pipelines.media.pixels import orientation, square_width
from pipelines.store import filesystems


@dataclass(frozen=True, kw_only=True)
class MediaInfo:
    """Properties of a media file; the columns of the same names in `schema.py` state the units."""

    kind: str
    codec: str
    width: int
    height: int
    rotation: int = 0
    fps: float | None = None
    frames: int = 1
    duration: float | None = None


def open_media(uri: str) -> BufferedReader:
    """Opens a local path or an object-store address for reading; the file is seekable.

    Raises:
        MediaError: there is no such file, or it cannot be read.
    """
    with media_errors(uri):
        return open_stream(uri)


def open_stream(uri: str) -> BufferedReader:
    """As `open_media`, with the errors of the filesystem; for callers that translate them together with their own."""
    filesystem, path = filesystems.open_filesystem(uri)
    # Buffered, as every small read of a decoder would be a request to the object store.
    return BufferedReader(filesystem.open_input_file(filesystems.encode_path(path)), videos.BUFFER_BYTES)


def probe(uri: str) -> MediaInfo:
    """Reads the properties of a file, as far as it can be decoded.

    A file of one frame is an image, whatever its container. An image is decoded as a whole; of a video, the first frame
    is decoded and the frames are counted.

    Raises:
        MediaError: the file contains no image, is truncated, or is too large.
    """
    with media_errors(uri), open_stream(uri) as file:
        picture = pictures.open_picture(file)
        if picture is None:
            return _probe_video(file)
        width, height = picture.size
        rotation = pictures.rotation(picture)
        # Decoded as a whole: the header of a truncated picture reads well.
        picture.load()
        return MediaInfo(kind="image", codec=pictures.codec(picture), width=width, height=height, rotation=rotation)


def _probe_video(file: BinaryIO) -> MediaInfo:
    with videos.open_video(file) as video:
        # The rotation is a property of frames, so the first one has to be decoded; a codec that FFmpeg lacks shows here
        # too.
        decoded = next(videos.decode(video), None)
        if decoded is None:
            raise MediaError("no frame in it can be decoded")
        first = decoded.frame
        width = square_width(first.width, decoded.aspect)
        rotation = pictures.degrees(orientation(first))
        codec = video.stream.codec_context.codec.canonical_name
    geometry = {"width": width, "height": first.height, "rotation": rotation}
    extent = videos.measure(file)
    if extent.frames == 1:
        return MediaInfo(kind="image", codec=codec, **geometry)
    return MediaInfo(
        kind="video", codec=codec, **geometry, fps=extent.fps, frames=extent.frames, duration=extent.duration
    )
