"""Writes images and videos; a file appears under its name only when it is complete."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from pipelines.store.files import replacing


def write_video(path: str | Path, frames: np.ndarray, fps: float, *, crf: int = 18, full_chroma: bool = False) -> None:
    """Writes RGB frames [N, H, W, 3] uint8 as an H.264 mp4 (BT.709).

    The same frames give the same bytes.

    Args:
        path: path of the file.
        frames: frames of even height and width.
        fps: frames per second.
        crf: x264's constant rate factor; lower values are closer to the frames and give a larger file.
        full_chroma: yuv444p, which keeps colours at the resolution of the frames but is not shown by every player,
            instead of yuv420p, which halves it.

    Raises:
        ValueError: there are no frames, or their height or width is odd, which yuv420p does not support.
    """
    count, height, width, _ = frames.shape
    if not count or height % 2 or width % 2:
        raise ValueError(f"{count} frames of {width}x{height}: a video needs frames of even width and height")
    # Covers 24000/1001 and its kin exactly; FFmpeg takes no float.
    rate = Fraction(fps).limit_denominator(1001)
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        # With macroblock trees, x264's bytes vary between runs on a busy machine; without them they never did.
        stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf), "x264-params": "mbtree=0"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv444p" if full_chroma else "yuv420p"
        context = stream.codec_context
        context.thread_count = 1  # with more threads, the bytes depend on the machine
        # Limited range and BT.709 are declared in the stream, because players otherwise guess from the frame size.
        context.color_range, context.colorspace, context.color_primaries, context.color_trc = 1, 1, 1, 1
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame = frame.reformat(format=stream.pix_fmt, dst_colorspace="ITU709", dst_color_range="MPEG")
            frame.pts = index
            container.mux(stream.encode(frame))
        # The encoder holds frames back, which this call flushes.
        container.mux(stream.encode())


def write_image(path: str | Path, frame: np.ndarray) -> None:
    """Writes an RGB frame [H, W, 3] uint8 in the format of the path's suffix."""
    suffix = Path(path).suffix.lower()
    with replacing(path) as temporary:
        Image.fromarray(frame).save(temporary, format=Image.registered_extensions()[suffix])
