"""The training of zoo/vae: its decoder goes on alone, and what it is carried for is kept by coding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from nova_model.vae.video_vae import VideoVae
from pipelines.shapes_world.verdicts import judge_sample
from pipelines.shapes_world.zoo import path, vae
from pipelines.shapes_world.zoo.scenes import draw_quick_shot, generator, video_pixels

SHORT = replace(vae.DECODER_PLAN, steps=1)


def test_the_decoder_goes_on_and_latents_stay(tmp_path):
    model = VideoVae.from_pretrained(path("vae")).float()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    after = vae.train_decoder(model, tmp_path / "vae_decoder.pt", SHORT, seed=1).state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith(("decoder.", "post_quant_conv.")) for name in moved)


def test_small_things_that_move_quickly_keep_their_outlines():
    """What the decoder's own training is for; without it a third of these do."""
    model = VideoVae.from_pretrained(path("vae")).float()
    shots = [shot for number in range(40) if len((shot := quick(number)).scene.things) == 1][:16]
    frames = video_pixels([shot.frames for shot in shots])
    with torch.no_grad():
        made = model(frames)
    pixels = ((made.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 4, 1).numpy()
    kept = [judge_sample("direction", shot.scene, clip, 12.0) for shot, clip in zip(shots, pixels, strict=True)]
    assert np.mean([each.direction_right for each in kept]) == 1
    assert np.mean([each.shape_kept and each.shape_right for each in kept]) >= 0.75


def quick(number: int):
    return draw_quick_shot(generator(77, number), frames=17, side=64)
