"""The training loop of the zoo learns, and a resumed training equals an uninterrupted one."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from pipelines.shapes_world.zoo import training
from pipelines.shapes_world.zoo.training import Plan, effort, fit, learning_rate

PLAN = Plan(steps=150, lr=0.05, warmup=5, weight_decay=0.0, ema=0.9)
WEIGHTS = torch.tensor([[2.0, -1.0, 0.5]])


class StoppedError(Exception):
    """Stands for a killed process."""


def batch(step: int) -> torch.Tensor:
    return torch.randn(16, 3, generator=torch.Generator().manual_seed(step))


def run(state: Path, stop: int | None = None, plan: Plan = PLAN) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)

    def loss(x: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
        if step == stop:
            raise StoppedError
        return {"loss": (model(x) - x @ WEIGHTS.T).square().mean()}

    return fit(model, plan, batch, loss, state)


def test_it_fits_the_batches(tmp_path):
    model = run(tmp_path / "line.pt")
    assert not model.training
    torch.testing.assert_close(model.weight.detach(), WEIGHTS, atol=0.1, rtol=0)
    assert effort(tmp_path / "line.pt").startswith("150 steps, 0 minutes on the clock, on ")


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    uninterrupted = run(tmp_path / "uninterrupted.pt")
    with pytest.raises(StoppedError):
        run(tmp_path / "resumed.pt", stop=17)
    resumed = run(tmp_path / "resumed.pt")
    assert torch.equal(resumed.weight, uninterrupted.weight)
    assert torch.equal(resumed.bias, uninterrupted.bias)


def test_a_finished_training_is_not_run_again(tmp_path):
    first = run(tmp_path / "line.pt")
    second = run(tmp_path / "line.pt", stop=0)
    assert torch.equal(second.weight, first.weight)


def test_the_rate_rises_stays_and_falls_to_nothing():
    plan = Plan(steps=100, lr=1.0, warmup=10, cool=0.5)
    rates = [learning_rate(plan, step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert rates[10:50] == pytest.approx([1.0] * 40)
    assert rates[50:] == sorted(rates[50:], reverse=True)
    assert rates[75] == pytest.approx(0.5)
    assert rates[99] < 0.01


def test_a_loss_that_is_no_number_ends_the_training(tmp_path):
    model = nn.Linear(1, 1)
    with pytest.raises(RuntimeError, match="loss is nan at step 0"):
        fit(model, PLAN, batch, lambda x, step: {"loss": model.weight.sum() * math.nan}, tmp_path / "line.pt")
