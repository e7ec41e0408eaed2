"""The fake models: built identically everywhere, and usable by the stages that load them."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from nova_model.vae.video_vae import VideoVae
from pipelines.core import model_hub
from pipelines.shapes_world.zoo import vocabulary
from tests import fakes
from tests.fakes import captioner, text_encoder, vae, weights

MODULES = {"captioner": captioner, "text_encoder": text_encoder, "vae": vae}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NOVA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folders = {name: tmp_path_factory.mktemp(name) for name in MODULES}
    for name, folder in folders.items():
        MODULES[name].build(folder)
    return folders


@pytest.mark.parametrize("name", MODULES)
def test_building_again_gives_the_same_bytes(name, built, tmp_path):
    torch.manual_seed(1)  # whatever else drew random numbers before
    MODULES[name].build(tmp_path)
    assert model_hub.digest(str(tmp_path)) == model_hub.digest(str(built[name]))
    assert sorted(path.suffix for path in tmp_path.rglob("*") if path.suffix in (".bin", ".pt", ".py")) == []


def test_weights_depend_on_seed_and_name_and_nothing_else():
    one, other = torch.nn.Linear(400, 300), torch.nn.Linear(400, 300)
    weights.fill(one, 7)
    weights.fill(other, 7)
    assert torch.equal(one.weight, other.weight)
    assert one.weight.std().item() * 20 == pytest.approx(1.0, rel=0.01)
    assert not one.bias.any()
    assert one.weight[0, :3].tolist() == pytest.approx(FIRST_WEIGHTS, abs=1e-6)
    weights.fill(other, 8)
    assert not torch.equal(one.weight, other.weight)


FIRST_WEIGHTS = [0.0624728, -0.0681088, -0.0494389]


def test_a_model_is_built_once_however_many_ask(cache, monkeypatch):
    builds, original = [], vae.build

    def build(folder):
        builds.append(folder)
        original(folder)

    monkeypatch.setattr(vae, "build", build)
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: model_hub.resolve("fake/vae"), range(8)))
    assert len(builds) == len(folders) == 1
    assert folders.pop().startswith(str(cache))


def test_a_build_that_was_killed_leaves_nothing_that_counts(cache, monkeypatch):
    def die(folder):
        (folder / "config.json").write_text("{")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(vae, "build", die)
        with pytest.raises(KeyboardInterrupt):
            fakes.path("vae")
    folder = fakes.path("vae")
    assert model_hub.digest(str(folder)) == model_hub.digest("fake/vae")
    assert (folder / "config.json").stat().st_size > 100


def test_a_cache_that_cannot_be_written_names_the_remedy(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NOVA_CACHE", str(tmp_path / "file"))
    with pytest.raises(ValueError, match="NOVA_CACHE") as caught:
        fakes.path("vae")
    assert "\n" not in str(caught.value)


def test_every_name_has_its_builder(cache):
    for module, _ in fakes.BUILDERS.values():
        assert fakes._recipe(module)


def test_another_process_builds_the_same(cache):
    code = (
        "from pipelines.core import model_hub; from tests import fakes; fakes.register_fakes(); "
        "print(model_hub.digest('fake/text_encoder'))"
    )
    environment = {**os.environ, "NOVA_CACHE": str(cache / "other"), "PYTHONHASHSEED": "5"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == model_hub.digest("fake/text_encoder")
    assert done.stderr == ""  # no bars, no warnings


def test_features_tell_prompts_apart(built):
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(built["text_encoder"])
    model = AutoModel.from_pretrained(built["text_encoder"]).eval()
    prompts = ["a red circle moves left", "a blue square falls", "two dogs in the snow", "smoke over a city at night"]
    with torch.inference_mode():
        features = [model(torch.tensor([tokenizer(prompt).input_ids])).last_hidden_state[0] for prompt in prompts]
    assert all(encoded.shape[1] == 64 for encoded in features)
    pooled = torch.nn.functional.normalize(torch.stack([encoded.mean(0) for encoded in features]), dim=1)
    assert (pooled @ pooled.T - torch.eye(4)).max() < 0.8
    assert torch.cat(features).std() == pytest.approx(1.0, rel=0.05)


@pytest.fixture(scope="module")
def autoencoder(built):
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(built["vae"], low_cpu_mem_usage=False).eval()


@torch.inference_mode()
def test_the_vae_keeps_the_mean_colour_of_every_cell(autoencoder):
    pictures = smooth_pictures(8)
    posterior = autoencoder.encode(pictures).latent_dist
    assert posterior.mean.shape == (8, 4, 8, 8)
    colours = torch.nn.functional.avg_pool2d(pictures, 8)
    assert (posterior.mean[:, :3] - colours).abs().max() < 0.001
    assert posterior.std.max() < 0.01
    scaled = posterior.mean * autoencoder.config.scaling_factor
    assert 0.7 < scaled.std() < 1.3
    assert scaled.std((0, 2, 3)).min() > 0.3


@torch.inference_mode()
def test_the_vae_draws_back_what_it_kept(autoencoder):
    pictures = smooth_pictures(8)
    drawn = autoencoder.decode(autoencoder.encode(pictures).latent_dist.mean).sample
    assert psnr(drawn, pictures) > 24
    even = torch.full((1, 3, 64, 64), 0.5)  # an even surface stays even, but for its softened border
    drawn = autoencoder.decode(autoencoder.encode(even).latent_dist.mean).sample
    assert (drawn - even)[..., 4:-4, 4:-4].abs().max() < 0.01


@torch.inference_mode()
def test_the_video_vae_keeps_every_fourth_frame_and_fades_between_them(built):
    video_vae = VideoVae.from_pretrained(model_hub.resolve("fake/video_vae")).eval()
    first, last = smooth_pictures(2)[:, None]
    share = torch.linspace(0, 1, 17)[None, :, None, None]
    video = ((1 - share) * first[0][:, None] + share * last[0][:, None])[None]
    mean = video_vae.encode(video).latent_dist.mean
    assert mean.shape == (1, 4, 5, 8, 8)
    assert (mean[:, :3] - torch.nn.functional.avg_pool3d(video[:, :, ::4], (1, 8, 8))).abs().max() < 0.001
    assert psnr(video_vae.decode(mean).sample, video) > 24


@torch.inference_mode()
def test_the_video_vae_fades_evenly_also_from_the_first_frame_and_between_tiles(built):
    video_vae = VideoVae.from_pretrained(model_hub.resolve("fake/video_vae")).eval()
    levels = torch.linspace(-0.8, 0.8, 33)
    drawn = video_vae.decode(video_vae.encode(levels.expand(1, 3, 32, 32, 33).movedim(-1, 2)).latent_dist.mean).sample
    middle = drawn[0, :, :, 12:20, 12:20].mean((0, 2, 3))
    assert (middle - levels).abs().max() < 0.06  # a frame is 0.05
    assert middle.diff().max() < 0.1


def smooth_pictures(count):
    """Random low frequencies [N, 3, 64, 64] in [-1, 1]."""
    coarse = np.random.default_rng(0).normal(0, 0.7, (count, 3, 4, 4))
    grown = torch.nn.functional.interpolate(torch.from_numpy(coarse).float(), size=64, mode="bicubic")
    return grown.clamp(-1, 1)


def psnr(one, other):
    return float(10 * torch.log10(4 / (one - other).square().mean()))


@torch.inference_mode()
def test_the_captioner_answers_pictures_with_words(built):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(built["captioner"])
    model = AutoModelForImageTextToText.from_pretrained(built["captioner"]).eval()
    answers = set()
    for level in (0, 128, 255):
        images = [{"type": "image", "image": np.full((64, 96, 3), level, np.uint8)}] * 2
        message = {"role": "user", "content": [*images, {"type": "text", "text": "Describe it."}]}
        inputs = processor.apply_chat_template(
            [[message]], tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        new = model.generate(**inputs, max_new_tokens=8)[:, inputs["input_ids"].shape[1] :]
        answers.add(processor.decode(new[0], skip_special_tokens=True).strip())
    assert len(answers) == 3  # the pictures reach it
    assert all(word in vocabulary.WORDS for answer in answers for word in answer.split())
    assert all(len(answer.split()) == 8 for answer in answers)
