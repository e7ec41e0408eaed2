"""Configs: derived sizes, config.json as released, and one-line errors for mistakes."""

import json
from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from nova_model.config import RELEASED_DEFAULTS, MaskRatios, MlpSize, NovaConfig, SamplingConfig, VitSize
from nova_model.model import Nova
from nova_model.presets import PRESETS
from tests.nova_model.models import OF_CLASSES, one_line_error

TINY = PRESETS["tiny"]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_json(name):
    config = PRESETS[name]
    plain = json.loads(json.dumps(config.to_dict()))
    assert NovaConfig.from_dict(plain) == config
    assert plain["_class_name"] == "NOVATransformer3DModel"


@pytest.mark.parametrize("name", PRESETS)
def test_grids_of_every_preset_fit_its_pixels(name):
    config = PRESETS[name]
    height, width = config.pixel_size
    patch = config.image_stride * config.patch_size
    assert config.image_base_size == (height // patch, width // patch)
    assert config.video_base_size[1:] == (height // (2 * patch), width // (2 * patch))


def test_the_video_preset_has_the_releases_base_and_default_length():
    config = PRESETS["nova-d48w1024-osp480"]
    assert (config.video_base_size, config.default_frames) == ((16, 15, 24), 9)
    assert (PRESETS["tiny"].default_frames, PRESETS["nova-d48w1024-sd512"].default_frames) == (5, 1)


def test_a_released_config_is_read():
    config = NovaConfig.from_dict(
        {
            "_class_name": "NOVATransformer3DModel",
            "_diffusers_version": "0.31.0",
            "image_size": [480, 768],
            "image_base_size": [30, 48],
            "video_base_size": [16, 15, 24],
            "video_mixer_rank": 24,
            "arch": ["vit_d16w1024", "vit_d32w1024", "mlp_d3w1280"],
        }
    )
    assert config.pixel_size == (480, 768)
    assert config.temporal == VitSize(depth=16, width=1024, heads=16)
    assert config.spatial == VitSize(depth=32, width=1024, heads=16)
    assert config.denoiser == MlpSize(depth=3, width=1280)
    assert (config.width, config.patch_size, config.token_dim) == (1024, 2, 16)
    assert config.has_motion


def test_keys_that_a_released_config_leaves_out_are_those_of_the_first_release():
    assert NovaConfig.from_dict({}) == PRESETS["nova-d48w1024-sd512"]
    assert NovaConfig.from_dict({"image_dim": 8}) == replace(PRESETS["nova-d48w1024-sd512"], image_dim=8)


def test_an_architecture_is_never_a_release_by_default():
    """Every key of a released config must be given, but for class labels and ablations."""
    for key in RELEASED_DEFAULTS:
        without_key = {name: value for name, value in RELEASED_DEFAULTS.items() if name != key}
        with pytest.raises(TypeError, match=key):
            NovaConfig(**without_key)
    assert NovaConfig(**RELEASED_DEFAULTS) == PRESETS["nova-d48w1024-sd512"]


@pytest.mark.parametrize(
    ("name", "heads"),
    [("vit_d2w64", 4), ("vit_d2w768", 12), ("vit_d2w1024", 16), ("vit_d2w1536", 16), ("vit_d2w64h2", 2)],
)
def test_heads_follow_the_width_unless_named(name, heads):
    assert replace(TINY, arch=(name, name, "mlp_d1w32")).temporal.heads == heads


def test_sizes_derive_from_the_stride():
    assert replace(TINY, image_stride=8).patch_size == 2
    config = replace(TINY, image_stride=16, image_dim=16)
    assert (config.patch_size, config.token_dim) == (1, 16)
    assert replace(TINY, image_size=256).pixel_size == (256, 256)
    assert not replace(TINY, video_base_size=(1, 16, 16)).has_motion


@pytest.mark.parametrize(
    ("arch", "match"),
    [
        (("vit_d2", "vit_d2w64", "mlp_d1w32"), "unknown arch 'vit_d2'; an encoder is named such as"),
        (("vit_d2w100", "vit_d2w100", "mlp_d1w32"), "add it, as in vit_d2w100h8"),
        (("vit_d2w64", "vit_d2w768", "mlp_d1w32"), "must have one width"),
        (("vit_d2w64h3", "vit_d2w64h3", "mlp_d1w32"), "divisible by 4 and by 3 heads"),
        (("vit_d2w66h2", "vit_d2w66h2", "mlp_d1w32"), "divisible by 4"),
    ],
)
def test_an_arch_that_cannot_be_built_is_a_one_line_error(arch, match):
    with one_line_error(match):
        replace(TINY, arch=arch)


def test_rotary_positions_need_heads_that_split_in_three():
    with one_line_error("rotary positions need a head size"):
        replace(TINY, arch=("vit_d2w64h8", "vit_d2w64h8", "mlp_d1w32"), rotary_pos_embed=True)


def test_a_mistyped_denoiser_is_an_error_when_the_config_is_built():
    with one_line_error("a denoiser is named such as mlp_d6w1024"):
        replace(TINY, arch=("vit_d2w64", "vit_d2w64", "mpl_d1w32"))


def test_rotary_positions_refuse_heads_whose_thirds_are_odd():
    with one_line_error("rotary positions need a head size"):
        replace(TINY, arch=("vit_d2w64", "vit_d2w64", "mlp_d1w32"), rotary_pos_embed=True)


@pytest.mark.parametrize(
    ("key", "match"), [("image_sise", "did you mean image_size"), ("zzz", "unknown key 'zzz' in the model's config$")]
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(key, match):
    with one_line_error(match):
        NovaConfig.from_dict({key: 512})


def test_a_mixer_of_rank_24_has_the_other_number_of_the_spec():
    with torch.device("meta"):
        model = Nova(replace(PRESETS["nova-d48w1024-osp480"], video_mixer_rank=24))
    assert sum(parameter.numel() for parameter in model.parameters()) == 644_194_320


@pytest.mark.parametrize("name", PRESETS)
def test_keys_that_no_release_has_are_not_written(name):
    assert not {"label_classes", "sees_frames", "sees_motion", "norm"} & set(PRESETS[name].to_dict())
    changed = replace(PRESETS[name], label_classes=10, sees_frames=False, sees_motion=False, norm="pre")
    assert NovaConfig.from_dict(changed.to_dict()) == changed


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"image_dim": 0}, "image_dim is 0; it must be a whole number"),
        ({"image_stride": 8.5}, "image_stride is 8.5; it must be a whole number"),
        ({"label_classes": -1, **OF_CLASSES}, "label_classes is -1"),
        ({"text_token_dim": "2560"}, "text_token_dim is '2560'; it must be a whole number, or null for labels"),
        ({"video_mixer_rank": 8.0}, "video_mixer_rank is 8.0; it must be a whole number, or null for no mixer"),
        ({"image_size": (512,)}, r"image_size is \(512,\); it must be 2 whole numbers"),
        ({"image_base_size": 32}, "image_base_size is 32; it must be 2 whole numbers"),
        ({"video_base_size": (16, 16)}, r"video_base_size is \(16, 16\); it must be 3 whole numbers"),
        ({"video_base_size": (0, 16, 16)}, r"video_base_size is \(0, 16, 16\); it must be 3 whole numbers"),
        ({"norm": "before"}, "norm is 'before'; choose post, pre, post_add"),
        ({"arch": ("vit_d2w64", "vit_d2w64")}, "name temporal encoder, spatial encoder and denoiser"),
        ({"arch": ("vit_d0w64", "vit_d2w64", "mlp_d1w32")}, "an encoder has at least one layer"),
        ({"text_token_len": 0}, "text_token_len is 0; it must be a whole number, or null for labels"),
        ({"text_token_len": 513}, "text_token_len is 513; the padding has 512 rows"),
    ],
)
def test_sizes_that_cannot_be_are_a_one_line_error(changes, match):
    with one_line_error(match):
        replace(TINY, **changes)


@pytest.mark.odd_input(
    "Models",
    "A model config whose `text_token_dim` and `text_token_len` are both null",
    "The model takes class labels; the last embedding of `classes + 1` means no class.",
)
def test_a_config_without_sizes_of_text_is_that_of_a_model_of_1000_classes():
    keys = {key: value for key, value in TINY.to_dict().items() if not key.startswith("text_")}
    config = NovaConfig.from_dict({**keys, **OF_CLASSES})
    assert (config.takes_labels, config.text_shape, config.label_classes) == (True, None, 1000)
    assert (TINY.takes_labels, TINY.text_shape) == (False, (16, 64))
    assert config == NovaConfig.from_dict({**keys, "text_token_dim": None}) == replace(TINY, **OF_CLASSES)
    assert NovaConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with torch.device("meta"):
        state = Nova(config).state_dict()
    assert tuple(state["label_embed.weight"].shape) == (1001, 64)
    assert not any(key.startswith("text_embed") for key in state)


@pytest.mark.odd_input(
    "Models",
    "A model config with only one of `text_token_dim` and `text_token_len` null",
    "An error that names both keys, and says how to set them for prompts and for class labels.",
)
@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"text_token_dim": None}, "text_token_dim is null and text_token_len is 16; give both for .*, or set both to"),
        ({"text_token_len": None}, "text_token_len is null and text_token_dim is 64; give both for .*, or set both to"),
    ],
)
def test_one_size_of_text_without_the_other_is_a_one_line_error(changes, match):
    with one_line_error(match):
        replace(TINY, **changes)
    with one_line_error(match):
        NovaConfig.from_dict({**TINY.to_dict(), **changes})


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"min_ratio": 1.0}, "masks.min_ratio is 1.0; it must be a share"),
        ({"std": 0.0}, "masks.std is 0.0; it must be"),
    ],
)
def test_mask_ratios_that_cannot_be_are_a_one_line_error(changes, match):
    with one_line_error(match):
        MaskRatios(**changes)


def test_configs_do_not_change():
    with pytest.raises(FrozenInstanceError):
        PRESETS["tiny"].image_dim = 16


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"guidance_renorm": 1.5}, r"guidance_renorm is 1.5; it must be a factor from 0 to 1 \(off\)"),
        ({"guidance_renorm": -0.1}, "guidance_renorm is -0.1"),
        ({"guidance_scale": -1.0}, "guidance_scale is -1.0"),
        ({"set_steps": 0}, "set_steps and diffusion_steps must be at least 1"),
    ],
)
def test_settings_that_cannot_be_are_a_one_line_error(changes, match):
    with one_line_error(match):
        SamplingConfig(**changes)
    assert SamplingConfig(guidance_renorm=0.0).guidance_renorm == 0  # no floor
