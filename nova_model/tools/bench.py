"""Times a training step and a generation against the plain reference, alternating in one run.

    python -m nova_model.tools.bench --json --threads 2

The model is that of the preset `bench`: for images (T1) without scaling and shift, for videos of three latent frames
(T3) with them. The model and `reference.py` compute the same results from the same weights and random draws; how far
they differ is printed beside each ratio. `docs/performance.md` has measurements.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nova_model.config import SamplingConfig
from nova_model.model import Losses, Nova
from nova_model.presets import PRESETS
from nova_model.sampling.request import Request
from nova_model.sampling.schedule import FlowMatching
from nova_model.sampling.video import generate
from nova_model.tools import reference
from nova_model.tools.arguments import ArgumentParser
from nova_model.training.precision import multiplies_bf16

SCHEDULE = FlowMatching()
SIZE = 32
"""Height and width of the latents."""
LOSS_REPEAT = 4
SAMPLING = SamplingConfig(set_steps=16, diffusion_steps=25, guidance_scale=5.0)


@dataclass(frozen=True)
class TimedCase:
    """A computation that is timed, in two implementations with the same results."""

    model: Callable[[int], Tensor]
    """Runs a repetition, by its number, with the model."""
    reference: Callable[[int], Tensor]
    rounds: int


def model_of(frames: int, device: torch.device) -> Nova:
    """The model of preset `bench` with weights from a seed; an image model for one frame."""
    config = PRESETS["bench"]
    if frames == 1:
        config = replace(config, video_base_size=(1, *config.video_base_size[1:]), video_mixer_rank=None)
    torch.manual_seed(0)
    return Nova(config).to(device)


def normal(*shape: int, device: torch.device) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)


def train_case(frames: int, batch: int, device: torch.device, rounds: int, dtype: torch.dtype) -> TimedCase:
    """A training step: forward, backward and AdamW, which is fused for the model and plain for the reference."""
    model, plain = (model_of(frames, device).train() for _ in range(2))
    latents = normal(batch, 4, frames, SIZE, SIZE, device=device)
    text = normal(batch, *(model.config.text_shape or ()), device=device)

    def losses(number: int) -> Losses:
        generator = torch.Generator(device).manual_seed(number)
        return model(latents=latents, text=text, schedule=SCHEDULE, generator=generator, loss_repeat=LOSS_REPEAT)

    def reference_losses(number: int) -> Losses:
        generator = torch.Generator(device).manual_seed(number)
        prompt = plain.drop(text, None, 0.1, generator)
        draws = plain.draw(latents, SCHEDULE, generator, LOSS_REPEAT)
        return reference.losses(plain, latents=latents, text=prompt, schedule=SCHEDULE, draws=draws)

    def step(
        optimizer: torch.optim.Optimizer, compute: Callable[[int], Losses], autocast: bool
    ) -> Callable[[int], Tensor]:
        def run(number: int) -> Tensor:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, dtype, enabled=autocast):
                total = compute(number).total
            total.backward()
            optimizer.step()
            return total.detach()

        return run

    return TimedCase(
        step(torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True), losses, dtype != torch.float32),
        step(torch.optim.AdamW(plain.parameters(), lr=1e-4), reference_losses, False),
        rounds,
    )


def sample_case(frames: int, device: torch.device, rounds: int, dtype: torch.dtype) -> TimedCase:
    """One sample with the options of `SAMPLING`."""
    plain = model_of(frames, device).eval()
    model = model_of(frames, device).eval().to(dtype)
    text = normal(1, *(model.config.text_shape or ()), device=device)

    def arguments(model: Nova, number: int) -> dict[str, Any]:
        generators = [torch.Generator().manual_seed(number)]
        return {
            "text": text.to(next(model.parameters()).dtype), "frames": frames, "latent_size": (SIZE, SIZE),
            "generators": generators, "sampling": SAMPLING,
        }  # fmt: skip

    return TimedCase(
        lambda number: generate(model, SCHEDULE, Request(**arguments(model, number))).float(),
        lambda number: reference.generate(plain, SCHEDULE, **arguments(plain, number)),
        rounds,
    )


def cases(device: torch.device, dtype: torch.dtype, rounds: int) -> dict[str, Callable[[], TimedCase]]:
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
    """Median of the rounds' ratios, which a machine that slows down for a while affects less than medians."""
    difference: float
    """Largest difference of the results, relative to the largest result."""


def measure(case: TimedCase, device: torch.device) -> Timing:
    """Runs both implementations alternately; the first round warms up and is not counted."""
    times: list[tuple[float, float]] = []
    difference = 0.0
    for number in range(case.rounds + 1):
        model_result, model_seconds = _time(case.model, number, device)
        reference_result, reference_seconds = _time(case.reference, number, device)
        if number:
            times.append((model_seconds, reference_seconds))
        error = (model_result - reference_result).abs().max() / reference_result.abs().max()
        difference = max(difference, error.item())
    seconds, reference_seconds = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(reference / model for model, reference in times)
    return Timing(seconds, reference_seconds, ratio, difference)


def _time(run: Callable[[int], Tensor], number: int, device: torch.device) -> tuple[Tensor, float]:
    """Result of a repetition, and the seconds that it took."""
    start = time.perf_counter()
    result = run(number)
    if device.type == "cuda":
        torch.cuda.synchronize()  # the call returns when its kernels are queued, not when they are done
    seconds = time.perf_counter() - start
    return result.float().cpu(), seconds


def bench(device: torch.device, rounds: int, only: str | None = None) -> dict[str, Any]:
    """Times all cases, or those whose name contains a text, and prints a line for each.

    Returns:
        Seconds, ratio and difference of each case, by name.

    Raises:
        ValueError: no case has that name.
    """
    precisions = {"": torch.float32}
    if multiplies_bf16(device):
        precisions["_bf16"] = torch.bfloat16
    results: dict[str, Any] = {}
    for suffix, dtype in precisions.items():
        for name, build in cases(device, dtype, rounds).items():
            if only and only not in name:
                continue
            timing = measure(build(), device)
            results[name + suffix] = round(timing.seconds, 4)
            results[f"{name}{suffix}_ratio"] = round(timing.ratio, 3)
            results[f"{name}{suffix}_difference"] = timing.difference
            print(
                f"{name + suffix:24} {timing.seconds:8.3f} s   reference {timing.reference_seconds:8.3f} s   "
                f"{timing.ratio:5.2f}x   results differ by {timing.difference:.1e}",
                flush=True,
            )
    if not results:
        raise ValueError(f"no case is called {only!r}; they are {', '.join(cases(device, torch.float32, rounds))}")
    return results


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = ArgumentParser(prog="python -m nova_model.tools.bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="end with one line that is a JSON object")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's own number by default")
    parser.add_argument("--rounds", type=int, default=3, help="times that a sample is timed; a step twice as often")
    parser.add_argument("--only", metavar="TEXT", help="only the cases whose name contains this text")
    options = parser.parse_args(arguments)
    for name in ("threads", "rounds"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}; it must be at least 1")
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.enable_cudnn_sdp(False)  # as in training, where it plans each new number of tokens anew
    try:
        results = bench(device, options.rounds, options.only)
    except ValueError as error:
        parser.error(str(error))
    if options.json:
        environment = {
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        print(json.dumps({**environment, **results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
