"""Saving and loading: the released layout and key names, other people's readers, and folders that do not fit."""

import json
import re

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file

from nova_model.checkpoints import weights as checkpoint
from nova_model.checkpoints.weights import load_config, load_schedule, load_transformer, save_schedule, save_transformer
from nova_model.presets import PRESETS
from nova_model.sampling.schedule import Ddpm, FlowMatching
from tests.nova_model.models import OF_CLASSES, generator, one_line_error, randn, tiny

FILE = "diffusion_pytorch_model.safetensors"
RELEASED = """
video_encoder.patch_embed.proj.{weight,bias}
image_encoder.patch_embed.proj.{weight,bias}
{video,image}_encoder.blocks.0.{norm1,norm2,attn.qkv,attn.proj,mlp.fc1,mlp.fc2}.{weight,bias}
{video,image}_encoder.norm.{weight,bias}
video_encoder.mixer.{lora.weight,proj.weight,proj.bias}
video_pos_embed.{time_proj.0,time_proj.2,norm}.{weight,bias}
motion_embed.{flow_proj,fps_proj}.{0,2}.{weight,bias}
text_embed.{proj,norm}.{weight,bias}
text_embed.weight
mask_embed.{bos_token,mask_token}
image_decoder.patch_embed.proj.{weight,bias}
image_decoder.time_cond_embed.{timestep_proj,condition_proj}.{fc1,fc2}.{weight,bias}
image_decoder.blocks.0.{norm1.proj,proj.fc1,proj.fc2,norm2}.{weight,bias}
image_decoder.norm.proj.{weight,bias}
image_decoder.head.{weight,bias}
"""


def expanded(line):
    """As a shell expands braces."""
    found = re.search(r"\{([^{}]+)\}", line)
    if not found:
        return {line}
    each = (line[: found.start()] + part + line[found.end() :] for part in found[1].split(","))
    return set().union(*map(expanded, each))


def losses(model, **changes):
    prompt = {"text": randn(2, 16, 64), **changes}
    return model(latents=randn(2, 4, 3, 8, 8), **prompt, schedule=FlowMatching(), generator=generator()).total


def same(loss, expected):
    """Not to the last bit: weights read from a file may lie otherwise in memory, which changes how sums are rounded."""
    torch.testing.assert_close(loss, expected, atol=0, rtol=1e-5)


@pytest.fixture
def folder(tmp_path):
    """A saved model."""
    save_transformer(tiny(), tmp_path / "transformer")
    return tmp_path / "transformer"


def rewrite(folder, change):
    """Changes the saved weights in place."""
    weights = load_file(folder / FILE)
    change(weights)
    save_file(weights, folder / FILE)


def test_keys_are_named_as_released():
    model = tiny(arch=("vit_d1w64", "vit_d1w64", "mlp_d1w96"))
    assert set(model.state_dict()) == set().union(*map(expanded, RELEASED.split()))


@pytest.mark.parametrize(
    ("changes", "absent", "present"),
    [
        ({"video_mixer_rank": -1}, {"video_encoder.mixer.lora.weight"}, {"video_encoder.mixer.proj.weight"}),
        ({"video_mixer_rank": None}, {"video_encoder.mixer.proj.weight"}, set()),
        ({"video_base_size": (1, 2, 2)}, {"motion_embed.flow_proj.0.weight"}, {"video_pos_embed.norm.weight"}),
        (OF_CLASSES, {"text_embed.weight"}, {"label_embed.weight", "label_embed.norm.bias"}),
        (
            {"rotary_pos_embed": True, "arch": ("vit_d1w64h2", "vit_d1w64h2", "mlp_d1w96")},
            {"video_pos_embed.norm.weight"},
            {"motion_embed.flow_proj.0.weight"},
        ),
    ],
)
def test_variants_have_the_keys_that_their_config_asks_for(changes, absent, present):
    keys = set(tiny(**changes).state_dict())
    assert not keys & absent
    assert present <= keys


def test_a_saved_model_comes_back_whole(folder):
    model, loaded = tiny(), load_transformer(folder)
    assert loaded.config == model.config == load_config(folder)
    assert list(loaded.state_dict()) == list(model.state_dict())
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    same(losses(loaded), losses(model))
    assert not tiny(seed=1).state_dict()["image_decoder.head.weight"].equal(model.image_decoder.head.weight)


def test_the_number_of_classes_is_that_of_the_weights(tmp_path):
    """A released config names neither the number of classes nor, as version 0.1 wrote one, a length of prompts."""
    model = tiny(**OF_CLASSES, label_classes=7)
    save_transformer(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["text_token_dim"], config["text_token_len"], config.pop("label_classes")) == (None, None, 7)
    stripped = {key: value for key, value in config.items() if not key.startswith("text_")}
    for values in (config, {**config, "text_token_len": 256}, stripped):
        (tmp_path / "config.json").write_text(json.dumps(values))
        loaded = load_transformer(tmp_path)
        assert loaded.config == model.config
        labels = {"text": None, "labels": torch.tensor([6, 0])}
        same(losses(loaded, **labels), losses(model, **labels))
    (tmp_path / "config.json").write_text(json.dumps({**config, "label_classes": 9}))
    with one_line_error(r"label_embed.weight has shape \(8, 64\); the config asks for \(10, 64\)"):
        load_transformer(tmp_path)


def test_a_loaded_model_can_be_trained(folder):
    loaded = load_transformer(folder)
    losses(loaded).backward()
    assert all(parameter.is_leaf and parameter.grad is not None for parameter in loaded.parameters())


def test_the_layout_is_the_released_one(folder):
    assert {path.name for path in folder.iterdir()} == {"config.json", FILE}
    config = json.loads((folder / "config.json").read_text())
    assert config["_class_name"] == "NOVATransformer3DModel"
    assert config["arch"] == ["vit_d2w64", "vit_d4w64", "mlp_d2w96"]
    assert set(load_file(folder / FILE)) == set(tiny().state_dict())


def test_large_weights_are_sharded_with_an_index(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "MAX_SHARD", "600KB")
    model = tiny()
    save_transformer(model, tmp_path)
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 2
    assert all(path.stat().st_size < 700_000 for path in shards)
    index = json.loads((tmp_path / "diffusion_pytorch_model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(model.state_dict())
    same(losses(load_transformer(tmp_path)), losses(model))


def test_saving_again_leaves_nothing_of_the_model_before(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "MAX_SHARD", "600KB")
    save_transformer(tiny(seed=1), tmp_path)
    monkeypatch.setattr(checkpoint, "MAX_SHARD", "5GB")
    save_transformer(tiny(), tmp_path)
    same(losses(load_transformer(tmp_path)), losses(tiny()))


def test_weights_are_loaded_in_the_precision_asked_for(folder):
    rewrite(folder, lambda weights: weights.update({name: value.half() for name, value in weights.items()}))
    assert {value.dtype for value in load_transformer(folder).state_dict().values()} == {torch.float32}
    loaded = load_transformer(folder, dtype=torch.bfloat16)
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.bfloat16}


def test_a_bin_is_read_without_running_what_is_in_it(folder):
    (folder / FILE).unlink()
    torch.save(tiny(seed=2).state_dict(), folder / "diffusion_pytorch_model.bin")
    same(losses(load_transformer(folder)), losses(tiny(seed=2)))

    class Evil:
        def __reduce__(self):
            return (folder.joinpath("ran").touch, ())

    torch.save({"weight": Evil()}, folder / "diffusion_pytorch_model.bin")
    with one_line_error("holds more than weights"):
        load_transformer(folder)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda weights: weights.pop("mask_embed.bos_token"),
            r"weights lack mask_embed.bos_token, which the config asks for with shape \(1, 64\)",
        ),
        (
            lambda weights: weights.update({"image_decoder.head.bias": torch.zeros(8)}),
            r"image_decoder.head.bias has shape \(8,\); the config asks for \(16,\)",
        ),
        (
            lambda weights: weights.update({"extra.weight": torch.zeros(3)}),
            r"weights hold extra.weight with shape \(3,\), which the config lacks",
        ),
    ],
    ids=["missing", "shape", "extra"],
)
def test_weights_that_do_not_fit_are_a_one_line_error(folder, change, match):
    rewrite(folder, change)
    with one_line_error(match):
        load_transformer(folder)


def test_a_config_of_another_size_is_a_one_line_error_that_names_both_shapes(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "video_mixer_rank": 16}))
    with one_line_error(r"video_encoder.mixer.lora.weight has shape \(8, 64\); the config asks for \(16, 64\)"):
        load_transformer(folder)


def test_a_misspelt_key_in_the_config_is_a_one_line_error(folder):
    config = json.loads((folder / "config.json").read_text())
    config["video_mixer_rang"] = config.pop("video_mixer_rank")
    (folder / "config.json").write_text(json.dumps(config))
    with one_line_error("did you mean video_mixer_rank"):
        load_transformer(folder)


@pytest.mark.parametrize(("name", "match"), [("config.json", "config.json is missing"), (FILE, "no weights in")])
def test_an_incomplete_folder_is_a_one_line_error(folder, name, match):
    (folder / name).unlink()
    with one_line_error(match):
        load_transformer(folder)


def test_a_folder_without_a_scheduler_is_a_one_line_error(tmp_path):
    with one_line_error("scheduler_config.json is missing"):
        load_schedule(tmp_path)


def test_schedules_come_back_and_diffusers_reads_them(tmp_path):
    flow = FlowMatching(shift=3.0)
    save_schedule(flow, tmp_path / "flow")
    assert load_schedule(tmp_path / "flow") == flow
    theirs = FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path / "flow")
    torch.testing.assert_close(theirs.sigmas, flow.table(), atol=1e-6, rtol=1e-6)
    ddpm = Ddpm({"beta_schedule": "squaredcos_cap_v2", "clip_sample": False, "num_train_timesteps": 500})
    save_schedule(ddpm, tmp_path / "ddpm")
    assert load_schedule(tmp_path / "ddpm") == ddpm
    config = DDPMScheduler.from_pretrained(tmp_path / "ddpm").config
    assert (config.beta_schedule, config.clip_sample, config.num_train_timesteps) == ("squaredcos_cap_v2", False, 500)


@pytest.mark.parametrize("theirs", [FlowMatchEulerDiscreteScheduler(shift=2.0), DDPMScheduler(clip_sample=False)])
def test_schedules_that_diffusers_saved_are_read(tmp_path, theirs):
    theirs.save_pretrained(tmp_path)
    ours = load_schedule(tmp_path)
    theirs.set_timesteps(7)
    torch.testing.assert_close(ours.timesteps(7).float(), theirs.timesteps.float(), atol=1e-3, rtol=1e-6)


def test_every_preset_is_saved_as_a_config_that_builds_it_again(tmp_path):
    for name, config in PRESETS.items():
        (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
        assert load_config(tmp_path) == config, name
