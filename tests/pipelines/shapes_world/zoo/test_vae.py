"""The training of zoo/vae: the decoder is trained further alone, and small quick things keep their outlines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from nova_model.vae.video_vae import VideoVae
from pipelines.shapes_world.verdicts import judge_sample
from pipelines.shapes_world.zoo import path, vae
from pipelines.shapes_world.zoo.scenes import draw_quick_shot, generator, video_pixels

SHORT = replace(vae.DECODER_PLAN, steps=1)


def test_training_the_decoder_leaves_latents_unchanged(tmp_path):
    model = VideoVae.from_pretrained(path("vae")).float()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    after = vae.train_decoder(model, tmp_path / "vae_decoder.pt", SHORT, seed=1).state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith(("decoder.", "post_quant_conv.")) for name in moved)


def test_small_things_that_move_quickly_keep_their_outlines():
    """The purpose of the decoder's own training, without which a third of them do."""
    model = VideoVae.from_pretrained(path("vae")).float()
    shots = [shot for number in range(40) if len((shot := quick(number)).scene.things) == 1][:16]
    frames = video_pixels([shot.frames for shot in shots])
    with torch.no_grad():
        decoded = model(frames)
    pixels = ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 4, 1).numpy()
    verdicts = [judge_sample("direction", shot.scene, clip, 12.0) for shot, clip in zip(shots, pixels, strict=True)]
    assert np.mean([verdict.direction_right for verdict in verdicts]) == 1
    assert np.mean([verdict.shape_kept and verdict.shape_right for verdict in verdicts]) >= 0.75


def quick(number: int):
    return draw_quick_shot(generator(77, number), frames=17, side=64)
