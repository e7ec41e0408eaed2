"""Downloads models from the Hugging Face hub: configurations, tokenizers and safetensors, never code.

This module imports nothing heavy, so that command lines that only name a model start fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nova_model.checkpoints.layout import COMPONENTS, INDEX, VARIANTS, WEIGHTED

SAFE_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
"""Files that contain only data. Pickles (.bin, .pt, .ckpt) and modules (.py) can run code when they are loaded."""


def download(repo: str, patterns: Sequence[str] = SAFE_FILES, **options: Any) -> Path:
    """Returns the local copy of a repository, after downloading what is missing of it.

    Args:
        repo: OWNER/REPO.
        patterns: files to download, with wildcards.
        options: further arguments of `huggingface_hub.snapshot_download`, such as `revision` or `cache_dir`.

    Raises:
        ValueError: the repository cannot be downloaded; the message names the remedy.
    """
    # The hub's client takes a third of a second to import, and only downloads need it.
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(repo, allow_patterns=list(patterns), **options))
    except Exception as error:  # the client raises its own errors, those of requests and httpx, and OSError
        raise ValueError(
            f"model {repo!r} cannot be fetched from the hub ({type(error).__name__}): check the name and the network "
            "(and that HF_HUB_OFFLINE is not set), or give a local folder"
        ) from error


def download_released(repo: str, variant: str | None = None, **options: Any) -> Path:
    """Returns the local copy of a pipeline in the released layout, without the variants that are not requested.

    A component that has no safetensors is downloaded as .bin: these are read by torch with `weights_only`, which
    refuses everything but tensors.

    Args:
        repo: OWNER/REPO.
        variant: variant of the weights, such as fp16.
        options: revision, cache_dir, token, local_files_only, force_download or proxies.

    Raises:
        ValueError: the repository cannot be downloaded.
    """
    patterns = [INDEX, *(f"{component}/{pattern}" for component in COMPONENTS for pattern in SAFE_FILES)]
    # A variant stands between dots, or before a dash in the names of shards: model.fp16.safetensors, model.fp16-00001…
    ignored = [f"*.{name}{separator}*" for name in VARIANTS if name != variant for separator in ".-"]
    folder = download(repo, patterns, ignore_patterns=ignored, **options)
    pickled = [
        component
        for component in WEIGHTED
        if (folder / component).is_dir() and not any((folder / component).glob("*.safetensors"))
    ]
    if pickled:
        download(repo, [f"{component}/*.bin" for component in pickled], ignore_patterns=ignored, **options)
    return folder
