"""Training data of the zoo: deterministic, cropped and scaled as in curation."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.shapes_world.zoo.scenes import draw_quick_shot, draw_shot, generator, maybe_compress, resized, squared


@pytest.mark.parametrize("frames", [1, 5])
def test_a_batch_is_a_function_of_its_numbers(frames):
    one, same, other = (draw_shot(generator(3, number), frames=frames, side=64) for number in (1, 1, 2))
    assert one.frames.shape == (frames, 64, 64, 3)
    assert one.frames.dtype == np.uint8
    assert np.array_equal(one.frames, same.frames)
    assert one.scene == same.scene
    assert not np.array_equal(one.frames, other.frames)


def test_the_central_square_is_kept():
    frames = np.zeros((2, 40, 80, 3), np.uint8)
    frames[:, :, 20:60] = 200
    assert (squared(frames, 40) == 200).all()
    assert squared(frames, 20).shape == (2, 20, 20, 3)


def test_frames_of_the_right_size_are_left_alone():
    frames = np.random.default_rng(0).integers(0, 255, (1, 24, 32, 3), dtype=np.uint8)
    assert resized(frames, (24, 32)) is frames
    assert resized(frames, (12, 16)).shape == (1, 12, 16, 3)


def test_some_frames_went_through_an_encoder():
    """JPEG changes pixels slightly, in about COMPRESSED_SHARE of the calls."""
    frames = draw_shot(generator(0, 1), frames=1, side=64).frames
    changed = [maybe_compress(generator(1, number), frames) for number in range(100)]
    touched = [result for result in changed if not np.array_equal(result, frames)]
    assert 15 <= len(touched) <= 45
    assert all(np.abs(result.astype(int) - frames).mean() < 6 for result in touched)


def test_quick_shots_show_something_small_that_moves_far():
    for shot in (draw_quick_shot(generator(5, number), frames=17, side=64) for number in range(8)):
        assert shot.frames.shape == (17, 64, 64, 3)
        small = [thing for thing in shot.scene.things if thing.size == "small"]
        assert max(np.hypot(*thing.velocity(64)) for thing in small) > 20  # pixels per second
