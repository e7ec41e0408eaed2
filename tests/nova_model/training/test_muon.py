"""Muon in batches against torch's own, matrix by matrix."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from nova_model.training import muon


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 16), nn.Linear(16, 16))


@pytest.mark.parametrize("how", [None, "match_rms_adamw"])
@pytest.mark.parametrize("max_elements", [1, 1 << 22])
def test_it_is_torchs_own(
    model: nn.Sequential, how: str | None, max_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(muon, "MAX_BATCH_ELEMENTS", max_elements)
    other = copy.deepcopy(model)
    weights = [[each.weight for each in copied] for copied in (model, other)]  # type: ignore[union-attr]
    settings = {"lr": 0.02, "weight_decay": 0.1, "adjust_lr_fn": how}
    ours, theirs = muon.Muon(weights[0], **settings), torch.optim.Muon(weights[1], **settings)
    before = [each.detach().clone() for each in weights[0]]
    for step in range(5):
        for mine, twin in zip(*weights, strict=True):
            mine.grad = torch.randn(mine.shape, generator=torch.Generator().manual_seed(step))
            twin.grad = mine.grad.clone()
        ours.step()
        theirs.step()
    for mine, twin, first in zip(*weights, before, strict=True):
        change = (twin - first).norm()
        assert change > 0.05
        assert (mine - twin).norm() < 0.02 * change
    assert [set(each) for each in ours.state_dict()["state"].values()] == [{"momentum_buffer"}] * 4
    theirs.load_state_dict(ours.state_dict())


def test_what_has_no_gradient_stays(model: nn.Sequential) -> None:
    weights = [each.weight for each in model]  # type: ignore[union-attr]
    before = [each.detach().clone() for each in weights]
    weights[0].grad = torch.randn(weights[0].shape)
    assert muon.Muon(weights, lr=0.1, weight_decay=0.0).step(lambda: 3.0) == 3.0
    stayed = [bool((each == first).all()) for each, first in zip(weights, before, strict=True)]
    assert stayed == [False, True, True, True]


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("shape", [(3, 8, 24), (3, 24, 8)])
def test_singular_values_come_near_one(shape: tuple[int, ...], bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU without instructions for bf16 emulates it, far too slowly."""
    monkeypatch.setattr(muon, "multiplies_bf16", lambda device: bf16)
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-3, 1, 1e3])[:, None, None]
    made = muon.orthogonalised(drawn, (3.4445, -4.775, 2.0315), 5)
    assert made.dtype == (torch.bfloat16 if bf16 else torch.float32)
    values = torch.linalg.svdvals(made.float())
    assert values.min() > 0.5
    assert values.max() < 1.4
