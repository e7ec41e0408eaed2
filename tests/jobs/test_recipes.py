"""Recipes: every one is a whole config, and the real ones fit the released checkpoints."""

from __future__ import annotations

import pytest

from jobs import recipes, settings
from jobs.recipes.registry import config_of
from jobs.recipes.released import RELEASES
from jobs.train.config import TrainingConfig
from nova_model.presets import PRESETS
from tests.nova_model.folders import make_video_vae


@pytest.mark.parametrize("name", recipes.NAMES)
def test_data_and_model_of_a_recipe_fit(name: str) -> None:
    curate, train = config_of(name, "curate"), config_of(name, "train")
    model = PRESETS[train.preset]
    for height, width in curate.latents.shapes():
        assert height % (model.image_stride * model.patch_size * 2) == 0
        assert width % (model.image_stride * model.patch_size * 2) == 0
    assert curate.latents.model == train.vae, "what encodes must be what decodes"
    assert curate.text.model == train.text_encoder
    assert curate.text.max_tokens <= model.text_token_len
    assert (max(curate.latents.lengths, default=1) > 1) <= model.has_motion


@pytest.mark.parametrize("name", list(RELEASES))
def test_a_real_recipe_has_the_sizes_of_its_release(name: str) -> None:
    curate, train, generate = (config_of(name, command) for command in ("curate", "train", "generate"))
    assert curate.latents.shapes() == [PRESETS[train.preset].pixel_size]
    assert not any(str(value).startswith("zoo/") for value in settings.flatten(train).values())
    assert generate.frames == max(curate.latents.lengths, default=1)
    assert train.data.global_batch in (1024, 384)


def test_the_video_recipe_codes_its_33_frames_as_the_latents_of_its_release() -> None:
    curate, train = config_of("t2v-480x768-0.6b", "curate"), config_of("t2v-480x768-0.6b", "train")
    assert curate.latents.model == f"BAAI/{train.preset}/vae"
    assert max(curate.latents.lengths) == 33
    assert curate.latents.fps == 12.0
    assert make_video_vae().latent_frames(33) == 9


@pytest.mark.parametrize("name", ["debug", "demo", "shapes"])
def test_the_small_recipes_run_on_the_video_vae(name: str) -> None:
    latents = config_of(name, "curate").latents
    assert latents.model == "zoo/vae"
    assert all((count - 1) % 4 == 0 for count in latents.lengths)


def test_all_released_checkpoints_have_a_recipe() -> None:
    released = {name for name in PRESETS if name.startswith("nova-")}
    assert {release.preset for release in RELEASES.values()} == released


def test_refresh_is_curation_and_training_of_the_same_recipe() -> None:
    refresh = config_of("demo", "refresh")
    assert refresh.trainer == settings.extend(TrainingConfig, config_of("demo", "train"))
    assert refresh.latents == config_of("demo", "curate").latents


@pytest.mark.parametrize("name", recipes.NAMES)
def test_a_batch_of_files_is_enough_for_the_samples_that_are_denoised_together(name: str) -> None:
    generation = config_of(name, "generate")
    assert generation.samples_at_once <= generation.resources.batch_size


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"did you mean t2i-1024-0\.6b"):
        config_of("t2i-1024-0.6", "train")
