"""The optimizers of a training, and the rule that moves their learning rates."""

from __future__ import annotations

import torch
from torch import nn

from nova_model.training.config import OptimizerConfig
from nova_model.training.muon import Muon


def build_optimizers(config: OptimizerConfig, model: nn.Module) -> list[torch.optim.Optimizer]:
    """AdamW alone, or AdamW and Muon.

    Muon takes the matrices inside the blocks of all three networks, with updates scaled to the size that AdamW's have.
    Embeddings, heads, norms and biases stay with AdamW: Muon orthogonalises its updates, which suits only matrices
    that act on hidden features.

    Args:
        config: names of the optimizers and their settings.
        model: parameters that need no gradient are left out.
    """
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    matrices = [p for name, p in trainable if config.name == "muon" and ".blocks." in name and p.ndim == 2]
    muon_ids = {id(parameter) for parameter in matrices}
    remaining = [parameter for _, parameter in trainable if id(parameter) not in muon_ids]
    groups = [
        {"params": [p for p in remaining if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in remaining if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)]
    if matrices:
        muon_lr = config.learning_rates[1]
        optimizers.append(Muon(matrices, lr=muon_lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"))
    return optimizers


def rate_factor(config: OptimizerConfig, step: int, steps: int) -> float:
    """Factor of the learning rates: linear warm-up, then constant, then a linear cool-down to zero.

    Args:
        config: warmup_steps and cooldown.
        step: steps completed before this one.
        steps: number of steps of the training run.
    """
    warmup = (step + 1) / max(1, config.warmup_steps)
    cooldown_steps = max(1.0, config.cooldown * steps)
    return max(0.0, min(1.0, warmup, (steps - step) / cooldown_steps))


def set_learning_rates(
    optimizers: list[torch.optim.Optimizer], config: OptimizerConfig, step: int, steps: int
) -> float:
    """Sets the rates of a step in all optimizers and returns AdamW's.

    Args:
        optimizers: optimizers from `build_optimizers`.
        config: the peak rates and how they move.
        step: steps completed before this one.
        steps: number of steps of the training run.
    """
    factor = rate_factor(config, step, steps)
    for optimizer, peak in zip(optimizers, config.learning_rates, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = peak * factor
    return config.lr * factor
