"""One training process: its learning rates, and which optimizer takes which weights."""

from __future__ import annotations

import pytest
import torch

from jobs.train.job import TrainConfig, model_config
from jobs.train.worker import optimizers, rate_factor
from nova_model.model import Nova


def test_learning_rates_rise_stay_and_fall_to_zero() -> None:
    config = TrainConfig(steps=20, warmup_steps=4, cooldown=0.5)
    factors = [rate_factor(config, step) for step in range(20)]
    assert factors[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert factors[4:11] == [1.0] * 7
    assert factors[10:] == pytest.approx([1 - step / 10 for step in range(10)])


def test_without_cooldown_they_stay() -> None:
    config = TrainConfig(steps=20, warmup_steps=4)
    assert [rate_factor(config, step) for step in range(3, 20)] == [1.0] * 17


def test_steps_behind_the_last_one_change_nothing() -> None:
    assert rate_factor(TrainConfig(steps=20, cooldown=0.5), 25) == 0.0


def test_muon_takes_the_matrices_inside_the_blocks_and_adamw_the_rest() -> None:
    config = TrainConfig(preset="tiny", optimizer="muon", lr=1e-4, muon_lr=3e-3)
    model = Nova(model_config(config))
    adamw, muon = optimizers(config, model)
    names = {id(each): name for name, each in model.named_parameters()}
    (group,) = muon.param_groups
    theirs = {names[id(each)] for each in group["params"]}
    assert isinstance(muon, torch.optim.Muon)
    assert theirs == {name for name in names.values() if ".blocks." in name and name.endswith("weight")} - {
        name for name, each in model.named_parameters() if each.ndim < 2
    }
    assert any("attn" in name for name in theirs)
    assert any(name.startswith("image_decoder") for name in theirs)
    rest = [each for group in adamw.param_groups for each in group["params"]]
    assert len(rest) + len(theirs) == len(names)
    assert {names[id(each)] for each in rest}.isdisjoint(theirs)


def test_weights_that_are_frozen_belong_to_neither() -> None:
    config = TrainConfig(preset="tiny", optimizer="muon")
    model = Nova(model_config(config)).requires_grad_(False)
    model.image_decoder.requires_grad_(True)
    found = [
        each for optimizer in optimizers(config, model) for group in optimizer.param_groups for each in group["params"]
    ]
    assert len(found) == len(list(model.image_decoder.parameters()))


@pytest.mark.parametrize("wrong", [{"optimizer": "sgd"}, {"cooldown": 1.5}, {"cooldown": -0.1}])
def test_wrong_options_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainConfig(**wrong)  # type: ignore[arg-type]
