"""Compares a folder of reference tensors with the tensors that this project computes (spec section 7).

    python -m nova_model.tools.parity DIR

DIR holds `config.json`, `weights.safetensors` with exactly the released keys, `golden.safetensors` (inputs and outputs
of the released model) and, for a transformer, `golden.json` (its scheduler, and the settings of each generation). Where
the config names a video VAE, that is checked. One line is printed for each tensor: name, shape, largest absolute
difference, tolerance, and whether it is ok. Exit status: 0 where all are, 1 where one is not, 2 where the folder cannot
be checked because of a missing file, an invalid config or a tensor without a check.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nova_model.checkpoints.weights import check_keys, read_json
from nova_model.tools.arguments import ArgumentParser
from nova_model.tools.parity_transformer import PASS_TOLERANCE, Job, transformer_jobs
from nova_model.vae.video_vae import RELEASED_CLASS, VideoVae


@dataclass(frozen=True)
class Check:
    """The comparison of one tensor."""

    name: str
    shape: tuple[int, ...]
    difference: float
    """Largest absolute difference; infinite where shapes differ."""
    tolerance: float

    @property
    def ok(self) -> bool:
        return self.difference <= self.tolerance

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape))
        verdict = "ok" if self.ok else "NOT OK"
        return f"{self.name:28} {shape:16} {self.difference:9.2e} {self.tolerance:8.0e}  {verdict}"


def compare(folder: str | Path) -> Iterator[Check]:
    """Yields the comparison of every output in a folder.

    Raises:
        ValueError: the folder cannot be checked; before anything is computed, as far as possible.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is not a folder; give one with config.json, weights.safetensors, golden.safetensors"
        )
    config = read_json(folder / "config.json")
    weights, golden = (read_tensors(folder / f"{name}.safetensors") for name in ("weights", "golden"))
    if str(config.get("_class_name", "")).startswith("Autoencoder"):
        jobs = vae_jobs(config, weights, golden)
    else:
        jobs = transformer_jobs(config, weights, golden, read_json(folder / "golden.json"))
    if not jobs:
        raise ValueError(f"{folder / 'golden.safetensors'} holds nothing to check")
    for name, tolerance, compute in jobs:
        with torch.no_grad():
            yield Check(name, tuple(golden[name].shape), difference(_computed(name, compute), golden[name]), tolerance)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a safetensors file.

    Raises:
        ValueError: the file is missing or damaged.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); copy it again") from error


def difference(computed: Tensor, expected: Tensor) -> float:
    """Largest absolute difference of two tensors, which may be flattened differently; infinite where it is NaN."""
    if computed.numel() != expected.numel():
        return float("inf")
    if not expected.numel():
        return 0.0
    differences = (computed.double().reshape(expected.shape) - expected.double()).abs()
    return differences.nan_to_num(nan=float("inf"), posinf=float("inf")).max().item()


def _computed(name: str, compute: Callable[[], Tensor]) -> Tensor:
    """Computes a tensor; inputs whose shapes do not fit fail inside torch, and become a ValueError."""
    try:
        return compute()
    except (RuntimeError, IndexError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{name} cannot be computed from the inputs beside it: {reason}") from error


_VAE_INPUTS = r"image|video_\d+"
_VAE_OUTPUTS = re.compile(r"(?P<image>image_moments|image_decoded)|(?P<kind>moments|decoded)_(?P<frames>\d+)")


def vae_jobs(config: dict[str, Any], weights: dict[str, Tensor], golden: dict[str, Tensor]) -> list[Job]:
    """The checks of a video VAE's outputs; decoded frames are those of the mean of the moments beside them.

    Raises:
        ValueError: config and weights do not fit, or an output has no check.
    """
    if config["_class_name"] != RELEASED_CLASS:
        raise ValueError(f"config.json names class {config['_class_name']}; the video VAE is {RELEASED_CLASS}")
    vae = VideoVae.from_config(config).eval()
    check_keys(vae, weights)
    vae.load_state_dict(weights)
    jobs = list[Job]()

    def tensor(name: str) -> Tensor:
        if name not in golden:
            raise ValueError(f"golden.safetensors lacks {name}, which its outputs need")
        return golden[name]

    def encoded(name: str) -> Tensor:
        return vae.encode(tensor(name)).latent_dist.parameters

    def decoded(name: str) -> Tensor:
        return vae.decode(tensor(name).chunk(2, dim=1)[0]).sample

    for name in sorted(golden):
        match = _VAE_OUTPUTS.fullmatch(name)
        if match is None and not re.fullmatch(_VAE_INPUTS, name):
            raise ValueError(f"golden.safetensors holds {name}, which is no known input and has no check")
        if match is None:
            continue
        of_image, frames = match["image"] is not None, match["frames"]
        if name.endswith("moments") or match["kind"] == "moments":
            compute, source = encoded, "image" if of_image else f"video_{frames}"
        else:
            compute, source = decoded, "image_moments" if of_image else f"moments_{frames}"
        jobs.append((name, PASS_TOLERANCE, functools.partial(compute, source)))
    return jobs


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = ArgumentParser(prog="python -m nova_model.tools.parity", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "folder", metavar="DIR", help="config.json, weights.safetensors, golden.safetensors, golden.json"
    )
    options = parser.parse_args(arguments)
    failures = 0
    try:
        for check in compare(options.folder):
            print(check, flush=True)
            failures += not check.ok
    except ValueError as error:
        reason = str(error).partition("\n")[0]
        print(f"parity: {reason}", file=sys.stderr)
        return 2
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
