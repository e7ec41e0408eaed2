"""Times a training step and a generation against the plain reference, in turn in one run.

    python -m nova_model.tools.bench --json --threads 2

The config is the preset `bench`; images (T1) go without, videos of three latent frames (T3) with scaling and shift.
Ours and `reference.py` compute the same from the same weights and draws; what differs is shown beside each ratio.

What each choice gains, measured alone against ours without it (CPU time of one core, fp32, 2 cores of an AMD EPYC with
AVX2; medians of 3 or 4 pairs, which differed by some per cent):

    sampling   a set's diffusion steps are conditioned and modulated in a few large products      12 %
               the last spatial layer works for the tokens of the set alone                        6 %
    training   only masked tokens are denoised (13 % of them are not, in the mean)                 4 %
               one timestep embedding for each of 1000 timesteps, not for each token               4 %
               the condition is projected once, not for each of the loss's repeats                 3 %
               last layers work for the tokens that are read                                       1 %
               fused AdamW, and attention block by block instead of a dense mask             below 1 %

What is left is products of matrices, 80 % of the time, at 65 to 80 GFLOPS a core, where plain products reach 80. Tried
without a gain there: attention as two products, packed weights (oneDNN), MLPs in chunks that fit a cache.

On one NVIDIA H200 (torch 2.11, one run): a training step 1.04x (T1) and 0.93x (T3) of the reference in fp32, 1.70x and
1.69x for a sample, 1.71x and 1.73x with bf16 weights. At these sizes both wait for launches, not for arithmetic. A
training step in bf16 took 0.25 s against 0.04 s: the number of masked tokens differs from step to step, and cuDNN's
attention, which torch prefers for bf16 there, seems to plan each new shape anew. It is switched off since, in training
and here.

On one NVIDIA H100 80GB HBM3 (torch 2.11, one run with --rounds 1): a training step 1.10x (T1) and 0.89x (T3) of
the reference in fp32, 1.64x and 1.56x for a sample, 1.77x and 1.48x with bf16 weights. A training step in bf16 takes
0.095 s now, against 0.040 s of the reference (T1) and 0.093 s against 0.049 s (T3): better by half, and still behind.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nova_model.config import PRESETS, SamplingConfig
from nova_model.model import Losses, Nova
from nova_model.sampling.schedule import FlowMatching
from nova_model.sampling.video import generate
from nova_model.tools import reference
from nova_model.training.precision import multiplies_bf16

SCHEDULE = FlowMatching()
SIZE = 32
LOSS_REPEAT = 4
SETTINGS = SamplingConfig(set_steps=16, diffusion_steps=25, guidance_scale=5.0)


@dataclass(frozen=True)
class Case:
    """One thing to time."""

    ours: Callable[[int], Tensor]
    """One repetition, by number; gives what the other must give too."""
    plain: Callable[[int], Tensor]
    rounds: int


def model_of(frames: int, device: torch.device) -> Nova:
    """The preset `bench` with weights from a seed; an image model for one frame."""
    config = PRESETS["bench"]
    if frames == 1:
        config = replace(config, video_base_size=(1, *config.video_base_size[1:]), video_mixer_rank=None)
    torch.manual_seed(0)
    return Nova(config).to(device)


def normal(*shape: int, device: torch.device) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)


def train_case(frames: int, batch: int, device: torch.device, rounds: int, dtype: torch.dtype) -> Case:
    """Forward, backward and AdamW; ours is fused."""
    models = [model_of(frames, device).train() for _ in range(2)]
    ours, plain = models
    optimizers = [
        torch.optim.AdamW(ours.parameters(), lr=1e-4, fused=True), torch.optim.AdamW(plain.parameters(), lr=1e-4)
    ]  # fmt: skip
    latents = normal(batch, 4, frames, SIZE, SIZE, device=device)
    text = normal(batch, ours.config.text_token_len, ours.config.text_token_dim or 0, device=device)

    def losses(model: Nova, number: int) -> Losses:
        generator = torch.Generator(device).manual_seed(number)
        if model is ours:
            return model(latents=latents, text=text, schedule=SCHEDULE, generator=generator, loss_repeat=LOSS_REPEAT)
        kept = model.drop(text, None, 0.1, generator)
        draws = model.draw(latents, SCHEDULE, generator, LOSS_REPEAT)
        return reference.losses(model, latents=latents, text=kept, schedule=SCHEDULE, draws=draws)

    def step(which: int) -> Callable[[int], Tensor]:
        def run(number: int) -> Tensor:
            optimizers[which].zero_grad(set_to_none=True)
            with torch.autocast(device.type, dtype, enabled=which == 0 and dtype != torch.float32):
                total = losses(models[which], number).total
            total.backward()
            optimizers[which].step()
            return total.detach()

        return run

    return Case(step(0), step(1), rounds)


def sample_case(frames: int, device: torch.device, rounds: int, dtype: torch.dtype) -> Case:
    """One sample, 16 set steps of 25 diffusion steps, guidance 5."""
    plain = model_of(frames, device).eval()
    ours = model_of(frames, device).eval().to(dtype)
    text = normal(1, ours.config.text_token_len, ours.config.text_token_dim or 0, device=device)

    def arguments(model: Nova, number: int) -> dict[str, Any]:
        generators = [torch.Generator().manual_seed(number)]
        return {
            "text": text.to(next(model.parameters()).dtype), "frames": frames, "latent_size": (SIZE, SIZE),
            "generators": generators, "settings": SETTINGS,
        }  # fmt: skip

    return Case(
        lambda number: generate(ours, SCHEDULE, **arguments(ours, number)).float(),
        lambda number: reference.generate(plain, SCHEDULE, **arguments(plain, number)),
        rounds,
    )


def cases(device: torch.device, dtype: torch.dtype, rounds: int) -> dict[str, Callable[[], Case]]:
    return {
        "train_step_T1_B4": lambda: train_case(1, 4, device, 2 * rounds, dtype),
        "train_step_T3_B2": lambda: train_case(3, 2, device, 2 * rounds, dtype),
        "sample_T1_16x25": lambda: sample_case(1, device, rounds, dtype),
        "sample_T3_16x25": lambda: sample_case(3, device, rounds, dtype),
    }


@dataclass(frozen=True)
class Timing:
    """Medians over rounds."""

    seconds: float
    reference_seconds: float
    ratio: float
    """Of the rounds' own ratios."""
    difference: float
    """Largest difference of the results, over the largest result."""


def measure(case: Case, device: torch.device) -> Timing:
    """Runs both in turn; a first round warms up and is not counted."""
    times: list[tuple[float, float]] = []
    difference = 0.0
    for number in range(case.rounds + 1):
        pair, results = [], []
        for run in (case.ours, case.plain):
            began = time.perf_counter()
            results.append(run(number))
            if device.type == "cuda":
                torch.cuda.synchronize()
            pair.append(time.perf_counter() - began)
        if number:
            times.append((pair[0], pair[1]))
        ours, plain = (each.float().cpu() for each in results)
        difference = max(difference, ((ours - plain).abs().max() / plain.abs().max()).item())
    ours_s, plain_s = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(plain / ours for ours, plain in times)
    return Timing(ours_s, plain_s, ratio, difference)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m nova_model.tools.bench", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--json", action="store_true", help="end with one line that is a JSON object")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's own number by default")
    parser.add_argument("--rounds", type=int, default=3, help="times that a generation is timed; a step twice as often")
    parser.add_argument("--only", help="the cases whose name has this in it")
    given = parser.parse_args(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.enable_cudnn_sdp(False)  # as training does it
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    precisions = {"": torch.float32}
    if multiplies_bf16(device):
        precisions["_bf16"] = torch.bfloat16
    for suffix, dtype in precisions.items():
        for name, make in cases(device, dtype, given.rounds).items():
            if given.only and given.only not in name:
                continue
            timing = measure(make(), device)
            found[name + suffix] = round(timing.seconds, 4)
            found[f"{name}{suffix}_ratio"] = round(timing.ratio, 3)
            found[f"{name}{suffix}_difference"] = timing.difference
            print(
                f"{name + suffix:24} {timing.seconds:8.3f} s   reference {timing.reference_seconds:8.3f} s   "
                f"{timing.ratio:5.2f}x   results differ by {timing.difference:.1e}",
                flush=True,
            )
    if given.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
