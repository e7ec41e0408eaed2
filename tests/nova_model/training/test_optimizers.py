"""Learning rates, and which optimizer takes which weights."""

from __future__ import annotations

import pytest
import torch

from nova_model.model import Nova
from nova_model.presets import PRESETS
from nova_model.training.config import OptimizerConfig
from nova_model.training.optimizers import build_optimizers, rate_factor, set_learning_rates


def test_learning_rates_rise_stay_and_fall_to_zero() -> None:
    config = OptimizerConfig(warmup_steps=4, cooldown=0.5)
    factors = [rate_factor(config, step, 20) for step in range(20)]
    assert factors[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert factors[4:11] == [1.0] * 7
    assert factors[10:] == pytest.approx([1 - step / 10 for step in range(10)])


def test_without_cooldown_they_stay() -> None:
    config = OptimizerConfig(warmup_steps=4)
    assert [rate_factor(config, step, 20) for step in range(3, 20)] == [1.0] * 17


def test_steps_after_the_last_one_change_nothing() -> None:
    assert rate_factor(OptimizerConfig(cooldown=0.5), 25, 20) == 0.0


def test_each_optimizer_gets_its_own_rate() -> None:
    config = OptimizerConfig(name="muon", lr=1e-4, warmup_steps=4)
    optimizers = build_optimizers(config, Nova(PRESETS["tiny"]))
    assert set_learning_rates(optimizers, config, 1, 20) == pytest.approx(5e-5)
    assert [group["lr"] for group in optimizers[0].param_groups] == pytest.approx([5e-5, 5e-5])
    assert [group["lr"] for group in optimizers[1].param_groups] == pytest.approx([1e-3])  # 2e-3 is the default


def test_muon_takes_the_matrices_inside_the_blocks_and_adamw_the_others() -> None:
    config = OptimizerConfig(name="muon", lr=1e-4, muon_lr=3e-3)
    model = Nova(PRESETS["tiny"])
    adamw, muon = build_optimizers(config, model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    (group,) = muon.param_groups
    muon_names = {names[id(parameter)] for parameter in group["params"]}
    assert isinstance(muon, torch.optim.Muon)
    assert muon_names == {name for name in names.values() if ".blocks." in name and name.endswith("weight")} - {
        name for name, parameter in model.named_parameters() if parameter.ndim < 2
    }
    assert any("attn" in name for name in muon_names)
    assert any(name.startswith("image_decoder") for name in muon_names)
    adamw_parameters = [parameter for group in adamw.param_groups for parameter in group["params"]]
    assert len(adamw_parameters) + len(muon_names) == len(names)
    assert {names[id(parameter)] for parameter in adamw_parameters}.isdisjoint(muon_names)


def test_frozen_weights_belong_to_neither() -> None:
    model = Nova(PRESETS["tiny"]).requires_grad_(False)
    model.image_decoder.requires_grad_(True)
    groups = [group for o in build_optimizers(OptimizerConfig(name="muon"), model) for group in o.param_groups]
    assert sum(len(group["params"]) for group in groups) == len(list(model.image_decoder.parameters()))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "sgd"}, "optimizer.name='sgd': choose adamw or muon"),
        ({"cooldown": 1.5}, "optimizer.cooldown=1.5"),
        ({"cooldown": -0.1}, "optimizer.cooldown=-0.1"),
        ({"muon_lr": 1e-3}, "no effect with optimizer.name=adamw"),
    ],
)
def test_wrong_options_are_named(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        OptimizerConfig(**wrong)  # type: ignore[arg-type]
