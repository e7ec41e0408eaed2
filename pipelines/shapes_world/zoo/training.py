"""The training loop of all models of the zoo: AdamW, an average of the weights, and a state on disk to resume from.

Batches are drawn ahead in worker processes. Each batch, and whatever else is random in a step, is a function of the
seed and the number of the step, so that a resumed training ends with the same weights as an uninterrupted one. It runs
on a GPU if there is one.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core.devices import cores, device
from pipelines.store.files import replacing

if TYPE_CHECKING:
    from torch import Tensor, nn

WORKERS = 12
"""Largest number of processes that draw batches; one core is left for the training."""
SAVE_SECONDS = 60.0
LOG_STEPS = 20
EMA_WARMUP = 10.0
"""After n steps, the average decays by at most (1 + n) / (EMA_WARMUP + n), so that it forgets the untrained weights."""

Loss = Callable[[Any, int], dict[str, "Tensor"]]
"""Function of the inputs and the number of a step; `loss` is minimised, other values are logged."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Number of steps, and settings of the optimizer."""

    steps: int
    lr: float
    warmup: int = 100
    cool: float = 0.4
    """Share of the steps, at the end, over which the learning rate decays to zero."""
    weight_decay: float = 0.01
    clip: float = 1.0
    """Largest norm of the gradients."""
    ema: float = 0.995
    """Decay of the average of the weights, which becomes the trained model."""


def learning_rate(plan: Plan, step: int) -> float:
    """Learning rate of a step: a linear warm-up, a constant phase, and a decay by half a cosine."""
    start = plan.steps * (1 - plan.cool)
    progress = max(0.0, (step - start) / (plan.steps - start)) if plan.cool else 0.0
    return plan.lr * min(1.0, (step + 1) / max(1, plan.warmup)) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def fit(model: nn.Module, plan: Plan, batch: Callable[[int], Any], loss: Loss, state: Path) -> nn.Module:
    """Trains a model in place, resuming from `state` if it exists, and leaves the averaged weights in it.

    Args:
        model: the model, with auxiliary heads that are discarded later.
        plan: number of steps, and settings of the optimizer.
        batch: returns the inputs of a step as tensors in dictionaries and tuples. It is called ahead of time in other
            processes, so it must be picklable.
        loss: returns the losses of a step.
        state: file of the training's state; it remains after the last step.

    Raises:
        RuntimeError: the loss is not finite.
    """
    from accelerate.utils import send_to_device

    training = _Training(model.to(device()), plan, state)
    model.train()
    with _progress(state, plan.steps) as show:
        for inputs in _prefetched(batch, range(training.step, plan.steps)):
            show(training.step + 1, training.update(loss(send_to_device(inputs, device()), training.step)))
            training.save_if_due()
    model.load_state_dict(training.average)
    return model.cpu().eval()


def _prefetched(batch: Callable[[int], Any], steps: range) -> Iterator[Any]:
    """The inputs of steps, in order, drawn ahead by worker processes."""
    from torch.utils.data import DataLoader

    dataset: Any = _Batches(batch)
    workers = max(1, min(WORKERS, cores() - 1))
    return iter(DataLoader(dataset, batch_size=None, sampler=steps, num_workers=workers))


@dataclass(frozen=True)
class _Batches:
    """A dataset whose items are the inputs of steps."""

    batch: Callable[[int], Any]

    def __getitem__(self, step: int) -> Any:
        return self.batch(step)


class _Training:
    """Model, optimizer, averaged weights, and the number of steps done."""

    def __init__(self, model: nn.Module, plan: Plan, state: Path) -> None:
        import torch

        self.model, self.plan, self.state = model, plan, state
        parameters = list(model.parameters())
        groups = [
            {"params": [param for param in parameters if param.ndim > 1], "weight_decay": plan.weight_decay},
            {"params": [param for param in parameters if param.ndim <= 1], "weight_decay": 0.0},  # norms and biases
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=plan.lr, betas=(0.9, 0.95))
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.step, seconds = 0, 0.0
        if state.exists():
            stored = torch.load(state, map_location=parameters[0].device, weights_only=True)
            model.load_state_dict(stored["model"])
            self.optimizer.load_state_dict(stored["optimizer"])
            self.average, self.step, seconds = stored["average"], int(stored["step"]), float(stored["seconds"])
        self.saved = time.monotonic()
        self.start = self.saved - seconds

    def update(self, losses: Mapping[str, Tensor]) -> dict[str, float]:
        """Takes one optimizer step; returns the losses as numbers."""
        import torch

        values = {name: value.item() for name, value in losses.items()}
        if not math.isfinite(values["loss"]):
            raise RuntimeError(f"{self.state.stem}: the loss is {values['loss']} at step {self.step}")
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.plan, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.clip)
        self.optimizer.step()
        self._update_average(min(self.plan.ema, (1 + self.step) / (EMA_WARMUP + self.step)))
        self.step += 1
        return values

    def _update_average(self, decay: float) -> None:
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value.detach(), 1 - decay)
            else:
                self.average[name].copy_(value)

    def save_if_due(self) -> None:
        """Saves the state after the last step, and every SAVE_SECONDS before."""
        import torch

        now = time.monotonic()
        if now - self.saved <= SAVE_SECONDS and self.step < self.plan.steps:
            return
        self.saved = now
        state = {
            "model": self.model.state_dict(), "average": self.average, "optimizer": self.optimizer.state_dict(),
            "step": self.step, "seconds": now - self.start, "device": _device_name(),
        }  # fmt: skip
        with replacing(self.state) as temporary:
            torch.save(state, temporary)


def effort(state: Path) -> str:
    """Steps and duration of a training over all its runs, and the hardware of the last one, as text for a card."""
    import torch

    stored = torch.load(state, map_location="cpu", weights_only=True)
    return f"{stored['step']} steps, {stored['seconds'] / 60:.0f} minutes on the clock, on {stored['device']}"


def _device_name() -> str:
    import torch

    return f"{cores()} CPU cores" if device() == "cpu" else f"an {torch.cuda.get_device_name()}"


@contextmanager
def _progress(state: Path, steps: int) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """Yields a function that reports losses: on a bar in a terminal, in a few lines of a log, and in STATE.jsonl."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    note = TextColumn("{task.fields[note]}")
    columns = (TextColumn(state.stem), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), note)
    state.parent.mkdir(parents=True, exist_ok=True)
    log = state.with_suffix(".jsonl")
    sums: dict[str, list[float]] = {}
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(state.stem, total=steps, note="")

        def show(step: int, losses: Mapping[str, float]) -> None:
            for name, value in losses.items():
                sums.setdefault(name, []).append(value)
            if step % LOG_STEPS and step != steps:
                return
            means = {name: sum(values) / len(values) for name, values in sums.items()}
            sums.clear()
            note = "  ".join(f"{name} {value:.4g}" for name, value in means.items())
            progress.update(task, completed=step, note=note)
            if progress.disable and (step % (10 * LOG_STEPS) == 0 or step == steps):
                console.print(f"{state.stem} {step}/{steps}  {note}", highlight=False)
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **means}) + "\n")

        yield show
