"""`python -m nova_model.tools.parity` on the reference material, and on folders written from the spec to the letter."""

import json
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from nova_model.config import NovaConfig
from nova_model.model import Nova
from nova_model.tools import parity
from nova_model.tools.parity_transformer import INPUTS
from nova_model.vae.video_vae import VideoVae
from tests.nova_model.literal import Literal
from tests.nova_model.models import OF_CLASSES, generator, randn

FLOW = {"kind": "flow", "shift": 1.0, "num_train_timesteps": 1000}
DDPM = {"kind": "ddpm", "beta_schedule": "scaled_linear", "clip_sample": False}
IMAGE = {
    "_class_name": "NOVATransformer3DModel", "image_dim": 4, "image_size": 64, "image_stride": 8, "text_token_dim": 12,
    "text_token_len": 6, "arch": ["vit_d2w64", "vit_d3w64", "mlp_d2w48"], "image_base_size": [4, 4],
    "video_base_size": [1, 2, 2],
}  # fmt: skip
VIDEO = {**IMAGE, "video_base_size": [3, 2, 2], "video_mixer_rank": 6}
ROTARY = {**VIDEO, "rotary_pos_embed": True, "arch": ["vit_d2w64h2", "vit_d3w64h1", "mlp_d2w48"]}
ASKED = {
    "latent_frames": 1, "set_steps": 3, "diffusion_steps": 3, "seed": 1, "motion_flow": 4.0, "fps": 12,
    "first_frame": None, "guidance_scale": 3,
}  # fmt: skip
CLIP = {**ASKED, "latent_frames": 2}


def folder_of(tmp_path, config, scheduler, generations, *, latents=(2, 4, 1, 8, 8), visible=5, repeat=2, classes=None):
    """Writes a folder of the reference material's form, which the literal reference computed."""
    rng = generator(7)
    said = {key: value for key, value in config.items() if not key.startswith("_")}
    model = Nova(NovaConfig.from_dict({**said, **({"label_classes": classes} if classes else {})}))
    weights = {name: torch.randn(value.shape, generator=rng) for name, value in model.state_dict().items()}
    for name, value in weights.items():
        value *= 0.2 if value.ndim == 1 else 0.8 / value[0].numel() ** 0.5
        if re.search(r"norm\d?\.weight", name):
            value += 1
    literal = Literal(config, weights, scheduler)
    batch, channels, frames, height, width = latents
    tokens = height // literal.patch * (width // literal.patch)
    rows = batch * frames
    index = torch.randint(0, scheduler.get("num_train_timesteps", 1000), (repeat * rows, tokens), generator=rng)
    golden = {
        "latents": torch.randn(latents, generator=rng),
        "train_visible_ids": torch.rand(rows, tokens, generator=rng).argsort(1)[:, :visible],
        "train_timesteps": index,
        "train_noise": torch.randn(repeat * rows, tokens, literal.patch**2 * channels, generator=rng),
    }
    if classes:
        golden["labels"] = torch.randint(0, classes, (batch,), generator=rng)
    else:
        lengths = [3, config["text_token_len"], 1][:batch]
        golden |= {
            f"prompt_{i}": torch.randn(n, config["text_token_dim"], generator=rng) for i, n in enumerate(lengths)
        }
    if config["video_base_size"][0] > 1:
        golden |= {"motion_flow": torch.tensor([2.0, 9.5, 0.0][:batch]), "fps": torch.tensor([8, 24, 12][:batch])}
    out = literal.training_pass(golden)
    theirs = literal.diffusers()
    theirs.set_timesteps(5)
    out["sched_timesteps_5"] = theirs.timesteps
    if scheduler["kind"] == "flow":
        out["sched_sigmas_5"] = theirs.sigmas
    for name, asked in generations.items():
        given = asked.get("first_frame")
        start = {None: None, "latents[:, :, 0]": golden["latents"][:, :, :1]}
        start["latents[:, :, :2]"] = golden["latents"][:, :, :2]
        out[name] = literal.generation(golden, {**asked, "given": start[given]}, (height, width))
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "golden.json").write_text(
        json.dumps({"scheduler": scheduler, "loss_repeat": repeat, "generations": generations})
    )
    save_file(weights, tmp_path / "weights.safetensors")
    save_file({name: value.contiguous() for name, value in {**golden, **out}.items()}, tmp_path / "golden.safetensors")
    return tmp_path


FOLDERS = {
    "images, flow": (IMAGE, FLOW, {"gen_a": ASKED, "gen_b": {**ASKED, "guidance_scale": 1, "seed": 2}}, {}),
    "shift, no base": (
        {**IMAGE, "image_base_size": [9, 9], "video_base_size": [1, 7, 7], "rotary_pos_embed": False},
        {**FLOW, "shift": 3.0},
        {"gen_a": {**ASKED, "min_guidance_scale": 1.5, "set_steps": 5}},
        {"latents": (1, 4, 1, 12, 8), "visible": 0},
    ),
    "labels": ({**IMAGE, **OF_CLASSES}, FLOW, {"gen_a": ASKED}, {"classes": 7, "latents": (3, 4, 1, 8, 8)}),
    "labels, video": (
        {**VIDEO, **OF_CLASSES}, DDPM, {"gen_a": CLIP, "gen_b": {**CLIP, "image_guidance_scale": 2}},
        {"classes": 1000, "latents": (2, 4, 2, 4, 8)},
    ),
    "no mixer": ({**VIDEO, "video_mixer_rank": None}, DDPM, {"gen_a": CLIP}, {"latents": (2, 4, 3, 4, 8)}),
    "mixer rank 0": ({**VIDEO, "video_mixer_rank": 0}, FLOW, {"gen_a": CLIP}, {"latents": (1, 4, 2, 8, 4)}),
    "vanilla AdaLN": (
        {**VIDEO, "video_mixer_rank": -1}, {**DDPM, "variance_type": "fixed_large"},
        {"gen_a": {**CLIP, "guidance_trunc": 400, "guidance_renorm": 0.8, "min_guidance_scale": 0.5, "seed": 4}},
        {"latents": (2, 4, 2, 8, 4), "visible": 2},
    ),
    "rotary": (
        ROTARY, {**FLOW, "shift": 0.7},
        {"gen_a": {**CLIP, "first_frame": "latents[:, :, 0]"}, "gen_long": {**ASKED, "latent_frames": 5}},
        {"latents": (1, 4, 2, 8, 12), "repeat": 1},
    ),
    "rotary images, labels": (
        {**ROTARY, "video_base_size": [1, 2, 2], **OF_CLASSES, "video_mixer_rank": None}, FLOW,
        {"gen_a": ASKED}, {"classes": 3, "latents": (1, 4, 1, 8, 4)},
    ),
    "video, given frames": (
        VIDEO, {**FLOW, "num_train_timesteps": 500, "shift": 2.0},
        {
            "gen_one": {**CLIP, "first_frame": "latents[:, :, 0]", "motion_flow": None, "fps": None},
            "gen_two": {**ASKED, "latent_frames": 4, "first_frame": "latents[:, :, :2]", "guidance_renorm": 0.3},
        },
        {"latents": (2, 4, 3, 4, 8), "visible": 2},
    ),
    "thresholding": (
        IMAGE, {**DDPM, "thresholding": True, "dynamic_thresholding_ratio": 0.8, "sample_max_value": 2.0},
        {"gen_a": ASKED, "gen_b": {**ASKED, "guidance_scale": 1}}, {},
    ),
    "clipped v": (
        IMAGE, {
            "kind": "ddpm", "beta_schedule": "sigmoid", "prediction_type": "v_prediction", "clip_sample_range": 2.0,
            "rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
        }, {"gen_a": ASKED}, {},
    ),
    "clean, trained betas": (
        IMAGE, {
            "kind": "ddpm", "trained_betas": [0.01 * (1 + i % 9) for i in range(50)], "num_train_timesteps": 50,
            "prediction_type": "sample", "timestep_spacing": "linspace", "clip_sample": False,
        }, {"gen_a": ASKED}, {},
    ),
    "16 channels, stride 16": (
        {**IMAGE, "image_dim": 16, "image_stride": 16, "image_size": [64, 64]}, {**DDPM, "steps_offset": 1},
        {"gen_a": ASKED}, {"latents": (1, 16, 1, 4, 4)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_what_a_config_can_say_is_computed_as_the_spec_reads(tmp_path, name, capsys):
    config, scheduler, generations, sizes = FOLDERS[name]
    check_all(folder_of(tmp_path, config, scheduler, generations, **sizes), capsys)


def check_all(folder, capsys):
    """Every output of a folder has a check, and is right."""
    assert parity.main([str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    outputs = [key for key in load_file(folder / "golden.safetensors") if not re.fullmatch(INPUTS, key)]
    assert sorted(line.split()[0] for line in lines) == sorted(outputs)
    assert all(line.endswith("  ok") for line in lines)


# Image guidance, for a video, one that begins with a given frame, one that is longer than in training, and a picture.
BY_FRAMES = {
    "gen_video": {**CLIP, "image_guidance_scale": 1.6},
    "gen_first_frame": {
        **ASKED, "latent_frames": 3, "first_frame": "latents[:, :, 0]", "image_guidance_scale": 2,
        "guidance_renorm": 0.5, "guidance_trunc": 200, "min_guidance_scale": 2,
    },
    "gen_long": {**ASKED, "latent_frames": 5, "image_guidance_scale": 0.5, "seed": 2},
    "gen_image": {**ASKED, "image_guidance_scale": 1.6, "seed": 3},
}  # fmt: skip


@pytest.mark.odd_input(
    "Models",
    "Image guidance with absolute positions",
    "The unconditional branch sees begin-of-video tokens without place and time, as in the release.",
)
@pytest.mark.parametrize(
    ("positions", "rank", "scheduler"),
    [
        (VIDEO, 6, FLOW),
        (VIDEO, None, FLOW),
        (ROTARY, 6, FLOW),
        (ROTARY, None, FLOW),
        (VIDEO, -1, {**DDPM, "beta_schedule": "squaredcos_cap_v2", "variance_type": "fixed_small_log"}),
    ],
    ids=["mixer", "no mixer", "rotary, mixer", "rotary, no mixer", "ddpm"],
)
def test_image_guidance_is_computed_as_the_spec_reads(tmp_path, positions, rank, scheduler, capsys):
    config = {**positions, "video_mixer_rank": rank}
    folder = folder_of(tmp_path, config, scheduler, BY_FRAMES, latents=(2, 4, 3, 4, 8), visible=2)
    check_all(folder, capsys)


@pytest.fixture
def folder(tmp_path):
    return folder_of(tmp_path, VIDEO, FLOW, {"gen_a": CLIP}, latents=(2, 4, 2, 4, 4), visible=1)


def change(path, edit):
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def test_a_line_says_name_shape_difference_and_tolerance(folder, capsys):
    assert parity.main([str(folder)]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("spatial_out"))
    name, shape, difference, tolerance, verdict = line.split()
    assert (name, shape, float(tolerance), verdict) == ("spatial_out", "4x4x64", 5e-5, "ok")
    assert 0 <= float(difference) < 5e-5


@pytest.mark.parametrize(
    ("name", "by", "held"),
    [("spatial_out", 6e-5, False), ("spatial_out", 3e-5, True), ("gen_a", 4e-4, False), ("gen_a", 1e-4, True)],
)
def test_one_number_that_is_off_fails_the_run(folder, capsys, name, by, held):
    def off(tensors):
        tensors[name].view(-1)[3] += by

    change(folder / "golden.safetensors", off)
    assert parity.main([str(folder)]) == (0 if held else 1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.endswith("NOT OK")] == ([] if held else [name])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_does_not_hold(folder, value, capsys):
    change(folder / "golden.safetensors", lambda tensors: tensors["loss_t2i"].fill_(value))
    assert parity.main([str(folder)]) == 1


def test_another_shape_does_not_hold(folder, capsys):
    change(folder / "golden.safetensors", lambda tensors: tensors.update(temporal_out=torch.zeros(2, 3, 64)))
    assert parity.main([str(folder)]) == 1


def test_a_weight_that_changed_is_seen_in_what_follows_from_it(folder, capsys):
    def off(weights):
        weights["video_encoder.blocks.1.mlp.fc1.bias"][5] += 2.0

    change(folder / "weights.safetensors", off)
    assert parity.main([str(folder)]) == 1
    lines = capsys.readouterr().out.splitlines()
    wrong = {line.split()[0] for line in lines if line.endswith("NOT OK")}
    assert wrong == {"temporal_out", "spatial_out", "denoiser_out", "gen_a", "loss_t2i", "loss_i2i"}


def rewrite(folder, name, edit):
    values = json.loads((folder / name).read_text())
    edit(values)
    (folder / name).write_text(json.dumps(values))


BROKEN = {
    "no config": (lambda at: (at / "config.json").unlink(), "config.json is missing"),
    "no weights": (lambda at: (at / "weights.safetensors").unlink(), "weights.safetensors is missing"),
    "no golden": (lambda at: (at / "golden.safetensors").unlink(), "golden.safetensors is missing"),
    "no settings": (lambda at: (at / "golden.json").unlink(), "golden.json is missing"),
    "damaged": (lambda at: (at / "golden.safetensors").write_bytes(b"no tensors"), "golden.safetensors is damaged"),
    "unknown arch": (
        lambda at: rewrite(at, "config.json", lambda c: c.update(arch=["vit_d2w65", "vit_d2w64", "mlp_d1w8"])),
        "arch 'vit_d2w65'",
    ),
    "unknown key": (lambda at: rewrite(at, "config.json", lambda c: c.update(image_dims=4)), "did you mean image_dim?"),
    "unknown tensor": (
        lambda at: change(at / "golden.safetensors", lambda t: t.update(mixer_out=torch.zeros(2))),
        "golden.safetensors holds mixer_out, which is no known input and has no check",
    ),
    "generation that was not asked for": (
        lambda at: change(at / "golden.safetensors", lambda t: t.update(gen_b=torch.zeros(2))),
        "golden.safetensors holds gen_b",
    ),
    "generation that is lost": (
        lambda at: rewrite(at, "golden.json", lambda g: g["generations"].update(gen_b=CLIP)),
        "golden.json asks for gen_b, which golden.safetensors lacks",
    ),
    "unknown setting": (
        lambda at: rewrite(at, "golden.json", lambda g: g["generations"]["gen_a"].update(eta=0.5)),
        "golden.json has 'eta' in gen_a",
    ),
    "missing weight": (
        lambda at: change(at / "weights.safetensors", lambda w: w.pop("mask_embed.bos_token")),
        "weights lack mask_embed.bos_token, which the config asks for with shape (1, 64)",
    ),
    "weight too many": (
        lambda at: change(at / "weights.safetensors", lambda w: w.update(extra=torch.zeros(3))),
        "weights hold extra with shape (3,), which the config lacks",
    ),
    "wrong shape": (
        lambda at: change(at / "weights.safetensors", lambda w: w.update({"mask_embed.bos_token": torch.zeros(1, 32)})),
        "mask_embed.bos_token has shape (1, 32); the config asks for (1, 64)",
    ),
    "missing input": (
        lambda at: change(at / "golden.safetensors", lambda t: t.pop("train_noise")),
        "golden.safetensors lacks train_noise",
    ),
    "scheduler": (
        lambda at: rewrite(at, "golden.json", lambda g: g["scheduler"].update(use_dynamic_shifting=True)),
        "use_dynamic_shifting, which NOVA has no use for",
    ),
    "kind of scheduler": (
        lambda at: rewrite(at, "golden.json", lambda g: g["scheduler"].update(kind="ddim")), "of kind 'ddim'",
    ),
    "table": (
        lambda at: rewrite(at, "golden.json", lambda g: g.update(scheduler=DDPM)),
        "golden.safetensors holds sched_sigmas_5, which the scheduler of golden.json does not have",
    ),
    "repeats": (
        lambda at: rewrite(at, "golden.json", lambda g: g.update(loss_repeat=3)), "a loss_repeat of 3",
    ),
    "first frame": (
        lambda at: rewrite(at, "golden.json", lambda g: g["generations"]["gen_a"].update(first_frame="frames[0]")),
        "gives the first frame 'frames[0]'",
    ),
    "prompts": (
        lambda at: change(at / "golden.safetensors", lambda t: t.update(prompt_0=torch.zeros(9, 12))),
        "prompt 0 has features of shape (9, 12)",
    ),
    "sizes": (
        lambda at: change(at / "golden.safetensors", lambda t: t.update(latents=torch.zeros(2, 4, 2, 6, 4))),
        "latents of 6x4 do not divide by the temporal patch 4",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_folder_that_cannot_be_checked_is_a_one_line_error(folder, name, capsys):
    spoil, match = BROKEN[name]
    spoil(folder)
    assert parity.main([str(folder)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert match in error


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, -1]), "class label -1; the model has classes 0 to 6, and 7 for no class"),
        (torch.tensor([0.0, 1.0]), "class labels are float32 of shape (2,)"),
        (None, "golden.safetensors lacks labels"),
    ],
)
def test_labels_that_are_no_classes_are_a_one_line_error(tmp_path, labels, message, capsys):
    folder = folder_of(tmp_path, {**IMAGE, **OF_CLASSES}, FLOW, {}, classes=7)
    change(folder / "golden.safetensors", lambda t: t.pop("labels") if labels is None else t.update(labels=labels))
    assert parity.main([str(folder)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_no_folder_is_a_one_line_error(tmp_path, capsys):
    assert parity.main([str(tmp_path / "nowhere")]) == 2
    assert "nowhere is not a folder" in capsys.readouterr().err


def test_inputs_alone_are_nothing_to_check(folder, capsys):
    def strip(tensors):
        for name in [name for name in tensors if not re.fullmatch(INPUTS, name)]:
            del tensors[name]

    change(folder / "golden.safetensors", strip)
    rewrite(folder, "golden.json", lambda settings: settings["generations"].clear())
    assert parity.main([str(folder)]) == 2
    assert "holds nothing to check" in capsys.readouterr().err


# The video VAE.


@pytest.fixture
def vae_folder(tmp_path):
    """Of a small VAE; its outputs are our own, here they are only found and compared."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = VideoVae(
            block_out_channels=(8, 8, 16, 16), layers_per_block=1, norm_num_groups=4, latent_channels=3
        ).eval()
    config = {key: value for key, value in vae.config.items() if not key.startswith("_")}
    (tmp_path / "config.json").write_text(json.dumps({**config, "_class_name": "AutoencoderKLOpenSora"}))
    save_file(vae.state_dict(), tmp_path / "weights.safetensors")
    held = {"video_5": randn(1, 3, 5, 16, 24), "image": randn(2, 3, 16, 16, seed=1)}
    with torch.no_grad():
        held["moments_5"] = vae.encode(held["video_5"]).latent_dist.parameters
        held["image_moments"] = vae.encode(held["image"]).latent_dist.parameters
        held["decoded_5"] = vae.decode(held["moments_5"][:, :3]).sample
        held["image_decoded"] = vae.decode(held["image_moments"][:, :3]).sample
    save_file({name: value.contiguous() for name, value in held.items()}, tmp_path / "golden.safetensors")
    return tmp_path


def test_a_vae_is_checked_without_golden_json(vae_folder, capsys):
    assert parity.main([str(vae_folder)]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["decoded_5", "image_decoded", "image_moments", "moments_5"]


def test_a_vae_decodes_the_mean_that_is_given(vae_folder, capsys):
    change(vae_folder / "golden.safetensors", lambda held: held["moments_5"][:, 3:].add_(1))
    assert parity.main([str(vae_folder)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.endswith("NOT OK")] == ["moments_5"]


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (
            lambda at: change(at / "golden.safetensors", lambda held: held.update(latents=torch.zeros(1))),
            "golden.safetensors holds latents, which is no known input",
        ),
        (
            lambda at: change(at / "golden.safetensors", lambda held: held.pop("video_5")),
            "golden.safetensors lacks video_5",
        ),
        (
            lambda at: change(at / "weights.safetensors", lambda held: held.pop("quant_conv.bias")),
            "weights lack quant_conv.bias",
        ),
        (
            lambda at: rewrite(at, "config.json", lambda config: config.update(_class_name="AutoencoderTiny")),
            "names class AutoencoderTiny; the video VAE is AutoencoderKLOpenSora",
        ),
        (
            lambda at: rewrite(at, "config.json", lambda config: config["down_block_types"].pop()),
            "3 block types for 4 block_out_channels",
        ),
    ],
    ids=["unknown", "input", "weight", "class", "config"],
)
def test_a_vae_that_cannot_be_checked_is_a_one_line_error(vae_folder, capsys, spoil, match):
    spoil(vae_folder)
    assert parity.main([str(vae_folder)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert match in error


# What the folders above are made with.


@pytest.mark.parametrize("name", ["t2i_flow", "t2v_ddpm"])
def test_the_literal_reading_is_that_of_the_release(shared, name):
    folder = shared / "golden" / name
    settings, golden = json.loads((folder / "golden.json").read_text()), load_file(folder / "golden.safetensors")
    config, weights = json.loads((folder / "config.json").read_text()), load_file(folder / "weights.safetensors")
    literal = Literal(config, weights, settings["scheduler"])
    for key, value in literal.training_pass(golden).items():
        torch.testing.assert_close(value.reshape(golden[key].shape), golden[key], atol=1e-5, rtol=0, msg=key)
    for key, asked in settings["generations"].items():
        given = golden["latents"][:, :, :1] if asked["first_frame"] else None
        made = literal.generation(golden, {**asked, "given": given}, tuple(golden["latents"].shape[-2:]))
        torch.testing.assert_close(made, golden[key], atol=3e-4, rtol=0, msg=key)


def test_the_former_place_of_the_command_still_works(tmp_path):
    """`python -m nova_model.parity`, for one version."""
    done = subprocess.run(
        [sys.executable, "-m", "nova_model.parity", str(tmp_path / "nowhere")], capture_output=True, text=True
    )
    assert done.returncode == 2
    note, message = done.stderr.splitlines()
    assert note.endswith("deprecated: use python -m nova_model.tools.parity")
    assert message.startswith("parity: ")
    assert "is not a folder; give one with config.json" in message


def test_wrong_options_are_one_line_and_exit_status_2(capsys):
    with pytest.raises(SystemExit) as ended:
        parity.main(["--nothing"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
