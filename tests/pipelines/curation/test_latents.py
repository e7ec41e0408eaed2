"""Latents: which window of a clip is encoded, at which size, and what the VAE's moments are."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from nova_model.vae.codec import Codec
from pipelines.core.stage import apply
from pipelines.curation.latents import Latents, is_video_length
from pipelines.media.write import write_image, write_video

FRAMEWISE = "fake/vae"

latents_stage = partial(Latents, model="fake/video_vae")
"""A stage of the untrained video VAE."""


@pytest.fixture(scope="module")
def codec() -> Codec:
    """The video VAE."""
    return latents_stage().load()


@pytest.fixture(scope="module")
def framewise() -> Codec:
    return Latents(model=FRAMEWISE).load()


def clip(uri: Path | str, **changes: object) -> dict[str, object]:
    row = {
        "uri": str(uri), "kind": "video", "start": 0.0, "end": 2.0, "frames": 24, "fps": 12.0, "width": 64,
        "height": 64, "rotation": 0,
    }  # fmt: skip
    return {**row, **changes}


def numbered_video(path: Path, frames: int, fps: float) -> Path:
    """Frame i is grey of level 8 * i."""
    write_video(path, np.stack([np.full((64, 64, 3), 8 * i, np.uint8) for i in range(frames)]), fps, crf=1)
    return path


def test_lengths_are_those_a_causal_video_vae_tiles() -> None:
    assert [n for n in range(1, 70) if is_video_length(n)] == [5, 9, 13, 17, 33, 49, 65]
    with pytest.raises(ValueError, match=r"lengths has 7"):
        latents_stage(lengths=(5, 7))


def test_sizes_are_checked_when_the_config_is_built() -> None:
    with pytest.raises(ValueError, match="write height x width"):
        latents_stage(sizes=("64",))
    with pytest.raises(ValueError, match="stride of 8 does not divide"):
        latents_stage(sizes=("60x64",)).load()


def test_the_longest_length_that_a_clip_fills_is_taken_from_its_middle() -> None:
    stage = latents_stage(lengths=(5, 9, 17))
    window = stage.window(clip("x", end=1.0, frames=12))  # 12 frames: 9 fit, one and a half to spare on each side
    assert window.bucket == "9x64x64"
    np.testing.assert_allclose(np.diff(window.times), 1 / 12)
    assert [int(time * 12) for time in window.times] == list(range(1, 10))


def test_a_clip_in_a_long_video_stays_inside_its_shot() -> None:
    window = latents_stage(lengths=(5, 9, 17)).window(clip("x", start=3.0, end=3.75, frames=9, fps=12.0))
    assert window.bucket == "9x64x64"
    assert [int(time * 12) for time in window.times] == list(range(36, 45))


def test_fast_video_is_sampled_at_the_target_rate_and_slow_video_keeps_its_own() -> None:
    stage = latents_stage(lengths=(5,), fps=12.0)
    assert stage.window(clip("x", fps=24.0, frames=48)).fps == 12.0
    np.testing.assert_allclose(np.diff(stage.window(clip("x", fps=24.0)).times), 1 / 12)
    slow = stage.window(clip("x", fps=8.0, frames=16))
    assert slow.fps == 8.0
    np.testing.assert_allclose(np.diff(slow.times), 1 / 8)


def test_too_short_a_video_and_an_image_are_one_frame() -> None:
    stage = latents_stage(lengths=(5, 9))
    assert stage.window(clip("x", end=0.25, frames=3)).bucket == "1x64x64"
    image = stage.window(clip("x", kind="image", end=0.0, fps=None, frames=1))
    assert (image.bucket, image.times, image.fps) == ("1x64x64", (0.0,), 12.0)


@pytest.mark.parametrize(
    ("width", "height", "rotation", "size"),
    [(640, 480, 0, "64x96"), (480, 640, 0, "96x64"), (500, 500, 0, "64x64"), (640, 400, 90, "96x64")],
)
def test_the_size_nearest_in_aspect_ratio_is_taken(width: int, height: int, rotation: int, size: str) -> None:
    stage = latents_stage(sizes=("64x64", "64x96", "96x64"))
    window = stage.window(clip("x", width=width, height=height, rotation=rotation))
    assert window.bucket == f"5x{size}"


def colours_of(row: dict[str, object], shape: tuple[int, ...]) -> np.ndarray:
    """Mean level of each latent frame, from the moments in which the untrained VAEs keep colours."""
    moments = np.frombuffer(row["moments"], row["moments_dtype"]).reshape(shape).astype("f4")  # type: ignore[arg-type,call-overload]
    return (moments[:3].mean(axis=(0, 2, 3)) + 1) * 127.5


def test_moments_of_a_video_are_those_of_its_own_frames(tmp_path: Path, framewise: Codec) -> None:
    path = numbered_video(tmp_path / "a.mp4", 24, 24)
    row = apply(Latents(model=FRAMEWISE), framewise, [clip(path, end=1.0, fps=24.0)])[0]
    assert row["failed_stage"] is None
    assert (row["bucket"], row["bucket_fps"], row["moments_shape"]) == ("5x64x64", 12.0, [8, 5, 8, 8])
    # 5 frames at 12 a second from the middle of 24 at 24: frames 7, 9, 11, 13, 15.
    np.testing.assert_allclose(colours_of(row, (8, 5, 8, 8)), [8 * i for i in (7, 9, 11, 13, 15)], atol=4)


def test_the_video_vae_codes_four_frames_as_one_latent(tmp_path: Path, codec: Codec) -> None:
    path = numbered_video(tmp_path / "a.mp4", 24, 12)
    row = apply(latents_stage(lengths=(5, 17)), codec, [clip(path)])[0]
    assert (row["bucket"], row["moments_shape"]) == ("17x64x64", [8, 5, 8, 8])
    # 17 of 24 frames from the middle begin at frame 3; the untrained VAE keeps every fourth of them.
    np.testing.assert_allclose(colours_of(row, (8, 5, 8, 8)), [8 * i for i in (3, 7, 11, 15, 19)], atol=4)


def test_a_picture_is_cut_from_its_centre(tmp_path: Path, codec: Codec) -> None:
    frame = np.zeros((64, 192, 3), np.uint8)
    frame[:, 64:128] = 255  # the middle square
    write_image(tmp_path / "a.png", frame)
    row = clip(tmp_path / "a.png", kind="image", end=0.0, fps=None, frames=1, width=192)
    encoded = apply(latents_stage(), codec, [row])[0]
    mean = np.frombuffer(encoded["moments"], "f2").reshape(8, 1, 8, 8)[:3]
    assert mean.min() > 0.9, "black from outside the centre was encoded"


def test_a_batch_of_mixed_shapes_gives_what_each_row_gives_alone(tmp_path: Path, codec: Codec) -> None:
    video = numbered_video(tmp_path / "a.mp4", 12, 12)
    write_image(tmp_path / "b.png", np.full((64, 64, 3), 200, np.uint8))
    rows = [
        clip(video, end=1.0),
        clip(tmp_path / "b.png", kind="image", end=0.0, fps=None),
        clip(tmp_path / "missing.mp4"),
        clip(video, start=0.2, end=1.0),
    ]
    together = apply(latents_stage(), codec, rows)
    alone = [apply(latents_stage(), codec, [row])[0] for row in rows]
    assert [row["failed_error"] for row in together] == [None, None, "MediaError", None]
    assert [row["bucket"] for row in together] == [row["bucket"] for row in alone]
    for one, other in zip(together, alone, strict=True):
        if one["moments"] is not None:
            np.testing.assert_allclose(
                np.frombuffer(one["moments"], "f2"), np.frombuffer(other["moments"], "f2"), atol=2e-3
            )


def test_another_kind_of_vae_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderTiny", "scaling_factor": 0.18}')
    with pytest.raises(ValueError, match="AutoencoderTiny"):
        Latents(model=str(tmp_path)).load()
