"""Released folders: read by their names and keys, written as they were, and one line where something is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from nova_model.diffusers.pipeline import NovaPipeline
from tests.nova_model.folders import FLOW, INDEX, VIDEO_VAE, make_released, make_vae, make_video_vae, write
from tests.nova_model.models import one_line_error, tiny

WEIGHTED = ("transformer", "vae", "text_encoder")
FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    return make_released(tmp_path_factory.mktemp("released") / "nova")


@pytest.fixture
def folder(released, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(released, tmp_path / "nova")


def states(pipeline):
    return {component: getattr(pipeline, component).state_dict() for component in WEIGHTED}


def same_weights(pipeline, reference):
    for component, tensors in states(pipeline).items():
        expected = states(reference)[component]
        assert list(tensors) == list(expected)
        assert all(torch.equal(value, expected[name]) for name, value in tensors.items()), component


def jsons(folder: Path) -> dict[str, Any]:
    """Every JSON file of a folder."""
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*.json"))
    return {str(path): json.loads((folder / path).read_text()) for path in paths}


def test_a_released_folder_is_read_by_its_names(released):
    pipeline = NovaPipeline.from_pretrained(released)
    classes = {name: type(component).__name__ for name, component in pipeline.components.items()}
    assert classes == {
        "transformer": "Nova",
        "scheduler": "FlowMatchEulerDiscreteScheduler",
        "vae": "AutoencoderKL",
        "text_encoder": "PhiEncoderModel",
        "tokenizer": "CodeGenTokenizer",
    }
    assert not any(getattr(pipeline, component).training for component in WEIGHTED)
    read = states(pipeline)
    assert all(torch.equal(value, tiny().state_dict()[name]) for name, value in read["transformer"].items())
    assert all(torch.equal(value, make_vae().state_dict()[name]) for name, value in read["vae"].items())
    assert {"lm_head.weight", "model.final_layernorm.weight"} <= set(read["text_encoder"])
    assert pipeline.tokenizer("red ball")["input_ids"][0] == pipeline.tokenizer.get_vocab()["red"]


@pytest.mark.parametrize("binary", [False, True], ids=["safetensors", "bin"])
def test_what_is_saved_is_what_was_read(tmp_path, binary):
    released = make_released(tmp_path / "released", binary=binary)
    pipeline = NovaPipeline.from_pretrained(released)
    pipeline.save_pretrained(tmp_path / "saved")
    reloaded = NovaPipeline.from_pretrained(tmp_path / "saved")
    same_weights(pipeline, reloaded)
    files = jsons(tmp_path / "saved")
    files.pop("text_encoder/generation_config.json")  # transformers' own addition
    assert files == jsons(released)
    assert (tmp_path / "saved/tokenizer/merges.txt").read_text() == (released / "tokenizer/merges.txt").read_text()
    assert not list((tmp_path / "saved").rglob("*.bin"))
    reloaded.save_pretrained(tmp_path / "third")
    assert jsons(tmp_path / "third") == jsons(tmp_path / "saved")


def test_transformers_reads_the_saved_text_encoder_as_a_language_model(released, tmp_path):
    from transformers import PhiForCausalLM

    pipeline = NovaPipeline.from_pretrained(released)
    pipeline("red", output_type="np", num_inference_steps=1, num_diffusion_steps=1, num_frames=1)
    pipeline.save_pretrained(tmp_path)
    model, report = PhiForCausalLM.from_pretrained(tmp_path / "text_encoder", output_loading_info=True)
    assert not report["missing_keys"]
    assert torch.equal(model.lm_head.weight, pipeline.text_encoder.lm_head.weight)


def test_a_pipeline_of_components_is_written_with_the_released_names(released, tmp_path):
    components = NovaPipeline.from_pretrained(released).components
    NovaPipeline(**components).save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert {component: index[component] for component in WEIGHTED} == {
        component: INDEX[component] for component in WEIGHTED
    }
    assert index["_class_name"] == "NOVAPipeline"
    same_weights(NovaPipeline(**components), NovaPipeline.from_pretrained(tmp_path))


def test_a_component_that_was_replaced_is_written_as_it_is_now(released, tmp_path):
    from diffusers import DDPMScheduler

    pipeline = NovaPipeline.from_pretrained(released)
    pipeline.scheduler = DDPMScheduler(clip_sample=False, beta_end=0.01)
    pipeline.save_pretrained(tmp_path)
    reloaded = NovaPipeline.from_pretrained(tmp_path)
    assert (type(reloaded.scheduler).__name__, reloaded.scheduler.config.beta_end) == ("DDPMScheduler", 0.01)


def test_saving_over_the_folder_that_was_read_keeps_the_weights(folder):
    pipeline = NovaPipeline.from_pretrained(folder)
    expected = {
        component: {name: value.clone() for name, value in state.items()}
        for component, state in states(pipeline).items()
    }
    pipeline.save_pretrained(folder)
    read = states(NovaPipeline.from_pretrained(folder))
    for component, tensors in expected.items():
        assert all(torch.equal(value, read[component][name]) for name, value in tensors.items())


def test_variants_lie_beside_the_plain_weights(folder):
    plain = NovaPipeline.from_pretrained(folder)
    halves = NovaPipeline.from_pretrained(folder, torch_dtype=torch.float16)
    halves.save_pretrained(folder, variant="fp16")
    assert (folder / "transformer/diffusion_pytorch_model.fp16.safetensors").exists()
    same_weights(NovaPipeline.from_pretrained(folder), plain)
    (folder / "transformer" / FILE).unlink()
    same_weights(NovaPipeline.from_pretrained(folder, variant="fp16", torch_dtype=torch.float16), halves)


def test_sharded_variants(folder, monkeypatch):
    from nova_model.checkpoints import weights as checkpoint

    monkeypatch.setattr(checkpoint, "MAX_SHARD", "600KB")
    halves = NovaPipeline.from_pretrained(folder, torch_dtype=torch.float16)
    halves.save_pretrained(folder, variant="fp16")
    index = folder / "transformer" / "diffusion_pytorch_model.safetensors.index.fp16.json"
    shards = set(json.loads(index.read_text())["weight_map"].values())
    assert len(shards) > 1
    same_weights(NovaPipeline.from_pretrained(folder, variant="fp16", torch_dtype=torch.float16), halves)
    (folder / "transformer" / max(shards)).unlink()
    with one_line_error("is missing, which the index names"):
        NovaPipeline.from_pretrained(folder, variant="fp16")


def test_each_component_can_have_its_own_precision(released):
    pipeline = NovaPipeline.from_pretrained(
        released, torch_dtype={"transformer": torch.bfloat16, "default": torch.float32}
    )
    assert (pipeline.transformer.dtype, pipeline.vae.dtype) == (torch.bfloat16, torch.float32)
    assert NovaPipeline.from_pretrained(released, dtype=torch.float16).text_encoder.dtype == torch.float16


def test_components_can_be_replaced_or_left_out(released, tmp_path):
    vae = make_vae()
    pipeline = NovaPipeline.from_pretrained(released, vae=vae, text_encoder=None, tokenizer=None)
    assert pipeline.vae is vae
    assert pipeline.text_encoder is None
    vae.register_to_config(scaling_factor=3.0)
    pipeline = NovaPipeline.from_pretrained(released, vae=vae, text_encoder=None, tokenizer=None)
    pipeline.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["text_encoder"] == [None, None]
    assert NovaPipeline.from_pretrained(tmp_path).vae.config.scaling_factor == 3.0
    assert NovaPipeline.from_pretrained(tmp_path).tokenizer is None


def test_a_vae_with_the_attention_keys_of_older_diffusers(folder):
    weights = load_file(folder / "vae" / FILE)
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for name, value in weights.items():
        for new, former in names.items():
            if f".attentions.0.{new}." in name:
                name, value = name.replace(new, former), value[..., None, None] if value.ndim == 2 else value
        old[name] = value.contiguous()
    assert set(old) != set(weights)
    save_file(old, folder / "vae" / FILE)
    read = NovaPipeline.from_pretrained(folder).vae.state_dict()
    assert all(torch.equal(value, read[name]) for name, value in weights.items())


def test_the_video_vae(folder, tmp_path):
    vae = make_video_vae()
    write(folder / "model_index.json", {**INDEX, "vae": VIDEO_VAE})
    write(folder / "vae/config.json", {**dict(vae.config), "_class_name": VIDEO_VAE[1]})
    save_file(vae.state_dict(), folder / "vae" / FILE)
    pipeline = NovaPipeline.from_pretrained(folder)
    assert type(pipeline.vae).__name__ == "VideoVae"
    assert all(torch.equal(value, pipeline.vae.state_dict()[name]) for name, value in vae.state_dict().items())
    pipeline.save_pretrained(tmp_path / "saved")
    assert jsons(tmp_path / "saved")["vae/config.json"] == jsons(folder)["vae/config.json"]
    assert jsons(tmp_path / "saved")["model_index.json"]["vae"] == VIDEO_VAE
    NovaPipeline(**pipeline.components).save_pretrained(tmp_path / "anew")
    assert jsons(tmp_path / "anew")["vae/config.json"]["_class_name"] == VIDEO_VAE[1]
    same_weights(NovaPipeline.from_pretrained(tmp_path / "anew"), pipeline)


def test_a_text_encoder_that_was_saved_without_its_head(folder):
    path = folder / "text_encoder" / "model.safetensors"
    expected = NovaPipeline.from_pretrained(folder).encode_prompt("red ball")[0]
    weights = {name: value for name, value in load_file(path).items() if not name.startswith("lm_head")}
    save_file(weights, path, metadata={"format": "pt"})
    pipeline = NovaPipeline.from_pretrained(folder)
    torch.testing.assert_close(pipeline.encode_prompt("red ball")[0], expected)
    pipeline.save_pretrained(folder)
    torch.testing.assert_close(NovaPipeline.from_pretrained(folder).encode_prompt("red ball")[0], expected)


def test_code_in_a_folder_is_not_run(folder):
    for component in ("transformer", "tokenizer", "text_encoder"):
        (folder / component / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    config = json.loads((folder / "text_encoder/config.json").read_text())
    write(folder / "text_encoder/config.json", {**config, "auto_map": {"AutoModel": "evil.Evil"}})
    NovaPipeline.from_pretrained(folder)
    assert not (folder / "ran").exists()


# Mistakes.


def drop(key, component="transformer", file=FILE):
    def change(folder):
        weights = load_file(folder / component / file)
        weights.pop(key)
        save_file(weights, folder / component / file, metadata={"format": "pt"})

    return change


def reshape(key, component="transformer", file=FILE):
    def change(folder):
        weights = load_file(folder / component / file)
        weights[key] = torch.zeros(7)
        save_file(weights, folder / component / file, metadata={"format": "pt"})

    return change


def rename(component, pair):
    return lambda folder: write(folder / "model_index.json", {**INDEX, component: pair})


def schedule(name):
    return lambda folder: write(folder / "scheduler/scheduler_config.json", {**FLOW, "_sample_class_name": name})


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda folder: (folder / "model_index.json").unlink(), "has no model_index.json"),
        (lambda folder: (folder / "model_index.json").write_text("{"), "is damaged"),
        (lambda folder: shutil.rmtree(folder / "vae"), "no vae/; download the complete folder"),
        (lambda folder: (folder / "scheduler/scheduler_config.json").unlink(), "scheduler_config.json is missing"),
        (lambda folder: (folder / "text_encoder/config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "text_encoder/model.safetensors").unlink(), "text encoder in .* cannot be loaded"),
        (rename("_class_name", "StableDiffusionPipeline"), "names class StableDiffusionPipeline"),
        (rename("transformer", ["diffusers", "FluxTransformer2DModel"]), "NOVATransformer3DModel can be read"),
        (rename("vae", ["diffusers", "AutoencoderTiny"]), "names a AutoencoderTiny as vae; AutoencoderKL or"),
        (schedule("EulerDiscreteScheduler"), "unknown scheduler 'EulerDiscreteScheduler'"),
        (schedule("Nonsense"), "unknown scheduler 'Nonsense'"),
        (rename("transformer", [None, None]), "names no transformer"),
        (rename("transformer", "x"), "names no class"),
        (drop("mask_embed.bos_token"), r"weights lack mask_embed.bos_token, .* shape \(1, 64\)"),
        (reshape("image_decoder.head.bias"), r"image_decoder.head.bias has shape \(7,\); the config asks for \(16,\)"),
        (drop("decoder.conv_in.bias", "vae"), r"weights lack decoder.conv_in.bias, .* shape \(8,\)"),
        (reshape("decoder.conv_in.bias", "vae"), r"decoder.conv_in.bias has shape \(7,\); the config asks for \(8,\)"),
        (
            drop("model.embed_tokens.weight", "text_encoder", "model.safetensors"),
            r"weights lack model.embed_tokens.weight, .* shape \(300, 64\)",
        ),
        (
            reshape("model.final_layernorm.weight", "text_encoder", "model.safetensors"),
            r"model.final_layernorm.weight has shape \(7,\); the config asks for \(64,\)",
        ),
    ],
)
def test_a_folder_that_does_not_fit_is_a_one_line_error(folder, change, match):
    change(folder)
    with one_line_error(match):
        NovaPipeline.from_pretrained(folder)


@pytest.mark.parametrize("name", ["/nowhere/at/all", "nowhere", "OWNER/not-a-model"])
def test_a_name_that_leads_nowhere_is_a_one_line_error(name):
    with one_line_error("no such folder|cannot be fetched from the hub"):
        NovaPipeline.from_pretrained(name)


def test_an_option_that_is_not_known_is_a_one_line_error(released):
    with one_line_error("does not take torch_dtyp"):
        NovaPipeline.from_pretrained(released, torch_dtyp=torch.float16)


def test_a_precision_that_is_none_is_a_one_line_error(released):
    with one_line_error("torch_dtype is 'bf16'; give a torch.dtype"):
        NovaPipeline.from_pretrained(released, torch_dtype="bf16")


def test_a_variant_that_is_nowhere_is_a_one_line_error(released):
    with one_line_error("holds no bf16 weights"):
        NovaPipeline.from_pretrained(released, variant="bf16")


def test_a_vae_of_another_stride_is_a_one_line_error(released):
    with one_line_error("the vae has a stride of 8, the model was trained with 16"):
        NovaPipeline(tiny(image_stride=16), NovaPipeline.from_pretrained(released).scheduler, vae=make_vae())
