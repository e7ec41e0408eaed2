"""Reads the released folder layout: model_index.json, and a folder for each part of a pipeline.

What model_index.json calls a class is mapped to ours; no code that comes with a folder is fetched or run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nova_model.checkpoints.weights import fill, load_transformer, load_weights, read_json

INDEX = "model_index.json"
PARTS = ("transformer", "scheduler", "vae", "text_encoder", "tokenizer")
WEIGHTED = ("transformer", "vae", "text_encoder")
OPTIONAL = ("vae", "text_encoder", "tokenizer")
"""Parts that a pipeline can do without: it is then given features or labels, and gives latents."""
PIPELINE = "NOVAPipeline"
VIDEO_VAES = ("AutoencoderKLOpenSora", "VideoVae")
"""What the video VAE is called by the release, and here."""
VARIANTS = ("fp16", "bf16", "fp32", "ema", "non_ema")
"""Usual ones, which are fetched only when asked for."""
_RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Keys of a VAE's attention that older diffusers wrote."""


def find(name: str | Path, variant: str | None = None, **hub: Any) -> Path:
    """The folder itself, or the local copy of a hub id.

    Args:
        name: a folder, or OWNER/REPO.
        variant: of the weights, such as fp16.
        hub: revision, cache_dir, token, local_files_only, force_download or proxies.

    Raises:
        ValueError: neither is there, or it holds no released pipeline.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):
            raise ValueError(f"{name}: no such folder, and no hub id (OWNER/REPO)")
        folder = fetch(str(name), variant, **hub)
    if not (folder / INDEX).is_file():
        raise ValueError(f"{name} has no {INDEX}; give a folder as the releases are laid out, and download it whole")
    return folder


def fetch(repo: str, variant: str | None = None, **hub: Any) -> Path:
    """The local copy of a hub id: configs and safetensors; .bin files only of parts that have no others; no code.

    Raises:
        ValueError: it cannot be fetched.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = [INDEX, *(f"{part}/{ending}" for part in PARTS for ending in ("*.json", "*.txt", "*.safetensors"))]
    skipped = ["*.py", *(f"*.{each}{mark}*" for each in VARIANTS if each != variant for mark in ".-")]
    try:
        found = Path(snapshot_download(repo, allow_patterns=patterns, ignore_patterns=skipped, **hub))
        bare = [part for part in WEIGHTED if (found / part).is_dir() and not any((found / part).glob("*.safetensors"))]
        if bare:
            patterns = [f"{part}/*.bin" for part in bare]
            snapshot_download(repo, allow_patterns=patterns, ignore_patterns=skipped, **hub)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"{repo} is no folder here and cannot be fetched from the hub ({type(error).__name__}); "
            "check the name and the network"
        ) from error
    return found


def read_index(folder: Path, variant: str | None = None) -> dict[str, Any]:
    """model_index.json, checked before anything heavy is read.

    Raises:
        ValueError: another pipeline, a class that is not known, or a folder or a variant that is not there.
    """
    index = read_json(folder / INDEX)
    kind = index.get("_class_name", PIPELINE)
    if kind not in (PIPELINE, "NovaPipeline"):
        raise ValueError(f"{folder / INDEX} is of a {kind}; a {PIPELINE} is read here")
    for part in PARTS:
        named = _class_of(index, part)
        if named is None:
            if part not in OPTIONAL:
                raise ValueError(f"{folder / INDEX} names no {part}; download it again")
            continue
        if not (folder / part).is_dir():
            raise ValueError(f"{folder} has a {INDEX} but no {part}/; download it whole")
        _reader(part, named)
    if variant and not any(folder.glob(f"*/*.{variant}[.-]*")):
        raise ValueError(f"{folder} holds no {variant} weights; leave the variant out or name another")
    return index


def _class_of(index: dict[str, Any], part: str) -> str | None:
    pair = index.get(part) or [None, None]
    if not isinstance(pair, list) or len(pair) != 2:
        raise ValueError(f"{INDEX} says {part}: {pair!r}, which names no class; download it again")
    return pair[1]


def load_part(part: str, name: str, folder: Path, dtype: torch.dtype, variant: str | None = None) -> Any:
    """One part of a pipeline.

    Args:
        part: its name in model_index.json.
        name: of its class there.
        folder: of the part.
        dtype: of weights.
        variant: of weights; passed over where the part has no such files.

    Raises:
        ValueError: it cannot be loaded.
    """
    own = variant if variant and any(folder.glob(f"*.{variant}[.-]*")) else None
    return _reader(part, name)(folder, dtype, own)


Reader = Callable[[Path, torch.dtype, str | None], Any]


def _reader(part: str, name: str) -> Reader:
    """What reads a class that model_index.json names.

    Raises:
        ValueError: a class that is not known.
    """
    ours: dict[tuple[str, str], Reader] = {
        ("transformer", "NOVATransformer3DModel"): lambda folder, dtype, variant: load_transformer(
            folder, dtype=dtype, variant=variant
        ).eval(),
        ("vae", "AutoencoderKL"): load_vae,
        **{("vae", kind): load_vae for kind in VIDEO_VAES},
        ("text_encoder", "PhiEncoderModel"): load_text_encoder,
    }
    if (part, name) in ours:
        return ours[part, name]
    if part == "scheduler":
        return lambda folder, dtype, variant: load_scheduler(folder, name)
    if part == "tokenizer":
        return lambda folder, dtype, variant: load_tokenizer(folder, name)
    if part == "text_encoder":
        return lambda folder, dtype, variant: load_text_encoder(folder, dtype, variant, name)
    known = " or ".join(each for where, each in ours if where == part)
    raise ValueError(f"{INDEX} names a {name} as {part}; {known} can be read")


def load_scheduler(folder: str | Path, name: str | None = None) -> Any:
    """diffusers' scheduler of a folder: of the class that its config samples with, else of the one named.

    Raises:
        ValueError: no such folder, or a scheduler that NOVA does not take.
    """
    import diffusers

    config = read_json(Path(folder) / "scheduler_config.json")
    name = config.get("_sample_class_name") or name or config.get("_class_name", "")
    found = getattr(diffusers, name, None)
    if found is None or not hasattr(found, "from_config"):
        raise ValueError(f"unknown scheduler {name!r}; NOVA takes FlowMatchEulerDiscreteScheduler or DDPMScheduler")
    return found.from_config(config)


def load_vae(folder: str | Path, dtype: torch.dtype = torch.float32, variant: str | None = None) -> Any:
    """diffusers' AutoencoderKL, or the video VAE, as the folder's config.json says.

    Raises:
        ValueError: a missing file, or a missing, unexpected or wrong-shaped key.
    """
    from diffusers import AutoencoderKL

    from nova_model.vae.video_vae import VideoVae

    folder = Path(folder)
    config = read_json(folder / "config.json")
    kind = config.get("_class_name", "AutoencoderKL")
    if kind not in ("AutoencoderKL", *VIDEO_VAES):
        raise ValueError(f"{folder / 'config.json'} is of a {kind}; AutoencoderKL or {VIDEO_VAES[0]} can be read")
    with torch.device("meta"):
        vae = (VideoVae if kind in VIDEO_VAES else AutoencoderKL).from_config(config)
    weights = {_renamed(name): value for name, value in load_weights(folder, variant).items()}
    for name, wanted in vae.state_dict().items():
        if name in weights and weights[name].ndim == 4 and wanted.ndim == 2:  # attention that was a 1x1 convolution
            weights[name] = weights[name].flatten(1)
    fill(vae, weights, dtype)
    return vae.eval()


def _renamed(name: str) -> str:
    if ".attentions." not in name:
        return name
    return ".".join(_RENAMED.get(part, part) for part in name.split("."))


def load_text_encoder(
    folder: str | Path,
    dtype: torch.dtype = torch.float32,
    variant: str | None = None,
    name: str = "PhiEncoderModel",
) -> Any:
    """transformers' model that gives last hidden states.

    Args:
        folder: as transformers writes it.
        dtype: of its weights.
        variant: of its weights.
        name: PhiEncoderModel for Phi, its head kept where there is one; else transformers' class.

    Raises:
        ValueError: a class that transformers lacks, missing files, or missing or wrong-shaped keys.
    """
    import transformers

    from nova_model.diffusers.text_encoder import PhiEncoderModel

    found = PhiEncoderModel if name == "PhiEncoderModel" else getattr(transformers, name, None)
    if found is None:
        raise ValueError(f"{INDEX} names a {name} as text_encoder, which transformers does not have")
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"{Path(folder) / 'config.json'} is missing; download the folder whole")
    try:
        model, report = found.from_pretrained(
            folder, dtype=dtype, variant=variant, output_loading_info=True, ignore_mismatched_sizes=True,
            trust_remote_code=False,
        )  # fmt: skip
    except (OSError, RuntimeError) as error:
        raise ValueError(f"the text encoder in {folder} cannot be loaded: {str(error).splitlines()[0]}") from error
    for key, is_shape, wanted_shape in sorted(report["mismatched_keys"]):
        raise ValueError(f"text encoder: {key} has shape {tuple(is_shape)}; the config asks for {tuple(wanted_shape)}")
    missing = sorted(report["missing_keys"])
    if missing and found is PhiEncoderModel and all(key.startswith("lm_head.") for key in missing):
        return model.model.eval()  # saved without a head
    if missing:
        shape = tuple(model.state_dict()[missing[0]].shape)
        raise ValueError(f"text encoder: weights lack {missing[0]}, which the config asks for with shape {shape}")
    return model.eval()


def load_tokenizer(folder: str | Path, name: str = "AutoTokenizer") -> Any:
    """transformers' tokenizer of a folder.

    Raises:
        ValueError: it cannot be loaded.
    """
    import transformers

    found = getattr(transformers, name, None) or transformers.AutoTokenizer
    try:
        return found.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"the tokenizer in {folder} cannot be loaded: {str(error).splitlines()[0]}") from error
