"""A folder in the layout of the releases, with small networks: their classes, files and key names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from nova_model.checkpoints.weights import save_transformer
from tests.nova_model.models import tiny

INDEX = {
    "_class_name": "NOVAPipeline",
    "_diffusers_version": "0.31.0",
    "transformer": ["diffnext.models.transformers.transformer_nova", "NOVATransformer3DModel"],
    "vae": ["diffnext.models.autoencoders.autoencoder_kl", "AutoencoderKL"],
    "text_encoder": ["diffnext.models.text_encoders.phi", "PhiEncoderModel"],
    "tokenizer": ["transformers", "CodeGenTokenizerFast"],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
}
VIDEO_VAE = ["diffnext.models.autoencoders.autoencoder_kl_opensora", "AutoencoderKLOpenSora"]
FLOW = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "_diffusers_version": "0.31.0",
    "_noise_class_name": "FlowMatchEulerDiscreteScheduler",
    "_sample_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 1.0,
}
VAE = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.31.0",
    "block_out_channels": [8, 8, 8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "scaling_factor": 0.5,
    "shift_factor": 0.25,
}


def write(folder: Path, content: Any) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text(json.dumps(content))


def make_released(folder: Path, *, binary: bool = False, **changes: Any) -> Path:
    """Writes every component; `changes` are of the tiny transformer."""
    from safetensors.torch import save_file

    save_transformer(tiny(**changes), folder / "transformer")
    write(folder / "model_index.json", INDEX)
    write(folder / "scheduler" / "scheduler_config.json", FLOW)
    write(folder / "vae" / "config.json", VAE)
    make_tokenizer(folder / "tokenizer")
    weights = {
        folder / "vae" / "diffusion_pytorch_model": make_vae().state_dict(),
        folder / "text_encoder" / ("pytorch_model" if binary else "model"): make_phi(folder / "text_encoder"),
    }
    if binary:
        saved = folder / "transformer" / "diffusion_pytorch_model.safetensors"
        saved.unlink()
        weights[saved.with_suffix("")] = tiny(**changes).state_dict()
    for path, tensors in weights.items():
        if binary:
            torch.save(tensors, path.with_name(f"{path.name}.bin"))
        else:
            save_file(tensors, path.with_name(f"{path.name}.safetensors"), metadata={"format": "pt"})
    return folder


def make_vae() -> Any:
    from diffusers import AutoencoderKL

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return AutoencoderKL.from_config(VAE).eval()


def make_video_vae() -> Any:
    from nova_model.vae.video_vae import VideoVae

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return VideoVae(layers_per_block=1, norm_num_groups=4, block_out_channels=(8, 8, 8, 8)).eval()


def make_phi(folder: Path) -> dict[str, torch.Tensor]:
    """Writes the config; returns the weights under the release's keys, head included."""
    from transformers import PhiConfig, PhiForCausalLM

    config = PhiConfig(
        vocab_size=300, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, architectures=["PhiForCausalLM"],
    )  # fmt: skip
    write(folder / "config.json", {**config.to_diff_dict(), "architectures": ["PhiForCausalLM"], "model_type": "phi"})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return PhiForCausalLM(config).state_dict()


def make_tokenizer(folder: Path) -> None:
    """A CodeGen tokenizer over bytes and a few words."""
    from tokenizers import pre_tokenizers

    pieces = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "re", "red", "Ġb", "Ġba"]
    write(folder / "vocab.json", {piece: index for index, piece in enumerate(pieces)})
    (folder / "merges.txt").write_text("#version: 0.2\nr e\nre d\nĠ b\nĠb a\n")
    write(folder / "tokenizer_config.json", {"tokenizer_class": "CodeGenTokenizer", "model_max_length": 2048})
