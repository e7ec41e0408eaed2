"""Embeddings of patches, prompts, labels, motion and frame times."""

import pytest
import torch

from nova_model import ops
from nova_model.embeddings import LabelEmbed, MotionEmbed, PatchEmbed, TextEmbed, TimeEmbed
from tests.nova_model.models import one_line_error, randn


def test_patches_embed_as_a_strided_convolution_from_latents_and_from_tokens():
    embed, latents = PatchEmbed(3, 8, 2), randn(2, 3, 4, 6)
    embedded = embed(latents)
    assert embedded.shape == (2, 6, 8)
    row, column = 1, 2
    patch = latents[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
    by_hand = torch.einsum("bchw,dchw->bd", patch, embed.proj.weight) + embed.proj.bias
    torch.testing.assert_close(embedded[:, row * 3 + column], by_hand)
    torch.testing.assert_close(embed.embed_tokens(ops.patchify(latents, 2)), embedded)


def test_prompts_are_padded_with_the_buffers_rows_at_their_own_positions():
    embed = TextEmbed(6, 8, length=4)
    prompt = randn(2, 6)
    padded = embed.pad([prompt, None, randn(4, 6, seed=1)])
    assert torch.equal(padded[0], torch.cat([prompt, embed.weight[2:4]]))
    assert torch.equal(padded[1], embed.weight[:4])
    assert torch.equal(padded[2], randn(4, 6, seed=1))
    padded.zero_()
    assert embed.weight[:4].abs().sum() > 0  # the buffer itself is never written


def test_the_padding_is_a_buffer_that_is_saved_but_not_trained():
    embed = TextEmbed(6, 8, length=4)
    assert embed.weight.shape == (512, 6)
    assert "weight" in embed.state_dict()
    assert "weight" not in dict(embed.named_parameters())


@pytest.mark.parametrize("shape", [(5, 6), (2, 7), (6,)])
def test_a_prompt_that_does_not_fit_is_a_one_line_error(shape):
    with one_line_error(r"prompt 1 has features of shape .*; the model takes \[up to 4, 6\]"):
        TextEmbed(6, 8, length=4).pad([None, torch.zeros(shape)])


def test_the_last_label_means_no_class():
    embed = LabelEmbed(10, 8)
    assert embed.weight.shape == (11, 8)
    tokens = embed(torch.tensor([3, 10]))
    assert tokens.shape == (2, 1, 8)
    torch.testing.assert_close(tokens[1, 0], embed.norm(embed.weight[10]))


def test_motion_and_fps_are_one_token_each():
    embed = MotionEmbed(8)
    motion, fps = torch.tensor([1.0, 5.0]), torch.tensor([12.0, 24.0])
    tokens = embed(motion, fps)
    assert tokens.shape == (2, 2, 8)
    torch.testing.assert_close(tokens[:, 0], embed.flow_proj(ops.sine_cosine(motion)))
    torch.testing.assert_close(tokens[:, 1], embed.fps_proj(ops.sine_cosine(fps)))
    assert torch.equal(embed(motion, fps + 1)[:, 0], tokens[:, 0])


def test_frame_times_of_a_longer_video_lie_between_the_trained_ones():
    embed = TimeEmbed(base_frames=4, width=8)
    trained, longer = embed(0, 4, frames=4), embed(0, 8, frames=8)
    torch.testing.assert_close(longer[::2], trained)
    between = embed.norm(embed.time_proj(ops.sine_cosine(torch.tensor([0.5, 1.5, 2.5, 3.5]))))
    torch.testing.assert_close(longer[1::2], between)
    torch.testing.assert_close(embed(5, 7, frames=8), longer[5:7])
