"""Where bf16 is worth while."""

from __future__ import annotations

import pytest
import torch

from nova_model.training.precision import multiplies_bf16


@pytest.mark.parametrize(
    ("found", "expected"), [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx2": True}, False)]
)
def test_a_cpu_has_instructions_for_it_or_not(
    found: dict[str, bool], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without them bf16 is emulated, and slower than fp32 by far."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert multiplies_bf16(torch.device("cpu")) is expected


def test_a_gpu_has_them() -> None:
    assert multiplies_bf16(torch.device("cuda"))
