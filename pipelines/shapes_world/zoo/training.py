"""The loop that every model of the zoo is trained by: batches drawn ahead in processes of their own, AdamW, an average
of the weights, and a state on disk that a training which was stopped goes on from, on a GPU where there is one.

A step is a function of its number: the batch is drawn from (seed, step), and so is whatever else is random.
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

from pipelines.store.files import replacing

if TYPE_CHECKING:
    from torch import Tensor, nn

WORKERS = 12
"""Processes that draw batches, at most; one core is left to the training."""
SAVE_SECONDS = 60.0
LOG_STEPS = 20
EMA_WARMUP = 10.0
"""The average begins as young as its steps: after n of them it decays by (1 + n) / (EMA_WARMUP + n) at most."""

Loss = Callable[[Any, int], dict[str, "Tensor"]]
"""Of inputs and step; `loss` is minimised, the others are shown."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and how fast to learn."""

    steps: int
    lr: float
    warmup: int = 100
    cool: float = 0.4
    """Share of the steps, at the end, over which the learning rate falls to nothing."""
    weight_decay: float = 0.01
    clip: float = 1.0
    """Norm that gradients are clipped to."""
    ema: float = 0.995
    """Decay of the average of the weights that is kept."""


def learning_rate(plan: Plan, step: int) -> float:
    """Rises linearly, stays, and falls as half a cosine."""
    begins = plan.steps * (1 - plan.cool)
    fallen = max(0.0, (step - begins) / (plan.steps - begins)) if plan.cool else 0.0
    return plan.lr * min(1.0, (step + 1) / max(1, plan.warmup)) * 0.5 * (1 + math.cos(math.pi * min(1.0, fallen)))


def fit(model: nn.Module, plan: Plan, batch: Callable[[int], Any], loss: Loss, state: Path) -> nn.Module:
    """Trains a model in place, from where `state` says, and leaves the averaged weights in it.

    Args:
        model: what is trained, helpers that are thrown away later included.
        plan: steps and rates.
        batch: inputs of a step, tensors in dictionaries and tuples; called in other processes, ahead of time, so it is
            something that can be pickled.
        loss: what is minimised.
        state: file that the training's state is kept in; it stays when all is done.

    Raises:
        RuntimeError: the loss is not finite.
    """
    from accelerate.utils import send_to_device

    from pipelines.core.devices import device

    training = _Training(model.to(device()), plan, state)
    model.train()
    with _shown(state, plan.steps) as show:
        for inputs in _ahead(batch, range(training.step, plan.steps)):
            show(training.step + 1, training.take(loss(send_to_device(inputs, device()), training.step)))
            training.save_now_and_then()
    model.load_state_dict(training.average)
    return model.cpu().eval()


def _ahead(batch: Callable[[int], Any], steps: range) -> Iterator[Any]:
    """The inputs of steps, in order."""
    from torch.utils.data import DataLoader

    from pipelines.core.devices import cores

    dataset: Any = _Batches(batch)
    workers = max(1, min(WORKERS, cores() - 1))
    return iter(DataLoader(dataset, batch_size=None, sampler=steps, num_workers=workers))


@dataclass(frozen=True)
class _Batches:
    """A function of a step as a data set whose items are the inputs of steps."""

    batch: Callable[[int], Any]

    def __getitem__(self, step: int) -> Any:
        return self.batch(step)


class _Training:
    """Model, optimizer, average, and how far they are."""

    def __init__(self, model: nn.Module, plan: Plan, state: Path) -> None:
        import torch

        self.model, self.plan, self.state = model, plan, state
        groups = [
            {"params": [each for each in model.parameters() if each.ndim > 1], "weight_decay": plan.weight_decay},
            {"params": [each for each in model.parameters() if each.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=plan.lr, betas=(0.9, 0.95))
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.step, seconds = 0, 0.0
        if state.exists():
            kept = torch.load(state, map_location=next(model.parameters()).device, weights_only=True)
            model.load_state_dict(kept["model"])
            self.optimizer.load_state_dict(kept["optimizer"])
            self.average, self.step, seconds = kept["average"], int(kept["step"]), float(kept["seconds"])
        self.saved = time.monotonic()
        self.began = self.saved - seconds

    def take(self, losses: Mapping[str, Tensor]) -> dict[str, float]:
        """One optimizer step; returns what is worth showing."""
        import torch

        values = {name: each.item() for name, each in losses.items()}
        if not math.isfinite(values["loss"]):
            raise RuntimeError(f"{self.state.stem}: the loss is {values['loss']} at step {self.step}")
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.plan, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.clip)
        self.optimizer.step()
        self._follow(min(self.plan.ema, (1 + self.step) / (EMA_WARMUP + self.step)))
        self.step += 1
        return values

    def _follow(self, decay: float) -> None:
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value.detach(), 1 - decay)
            else:
                self.average[name].copy_(value)

    def save_now_and_then(self) -> None:
        """Keeps the state, in one move, when it is time to or all is done."""
        import torch

        now = time.monotonic()
        if now - self.saved <= SAVE_SECONDS and self.step < self.plan.steps:
            return
        self.saved = now
        whole = {
            "model": self.model.state_dict(), "average": self.average, "optimizer": self.optimizer.state_dict(),
            "step": self.step, "seconds": now - self.began, "device": _device_name(),
        }  # fmt: skip
        with replacing(self.state) as temporary:
            torch.save(whole, temporary)


def effort(state: Path) -> str:
    """Steps of a training, how long it took over all its parts, and on what it ended."""
    import torch

    kept = torch.load(state, map_location="cpu", weights_only=True)
    return f"{kept['step']} steps, {kept['seconds'] / 60:.0f} minutes on the clock, on {kept['device']}"


def _device_name() -> str:
    import torch

    from pipelines.core.devices import cores, device

    return f"{cores()} CPU cores" if device() == "cpu" else f"an {torch.cuda.get_device_name()}"


@contextmanager
def _shown(state: Path, steps: int) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """A bar on a terminal, a line now and then in a log, and every entry in STATE.jsonl."""
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

        def show(step: int, values: Mapping[str, float]) -> None:
            for name, value in values.items():
                sums.setdefault(name, []).append(value)
            if step % LOG_STEPS and step != steps:
                return
            means = {name: sum(each) / len(each) for name, each in sums.items()}
            sums.clear()
            said = "  ".join(f"{name} {value:.4g}" for name, value in means.items())
            progress.update(task, completed=step, note=said)
            if progress.disable and (step % (10 * LOG_STEPS) == 0 or step == steps):
                console.print(f"{state.stem} {step}/{steps}  {said}", highlight=False)
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **means}) + "\n")

        yield show
