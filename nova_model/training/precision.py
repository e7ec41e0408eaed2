"""Where bf16 pays: what a device multiplies fast."""

from __future__ import annotations

import torch


def multiplies_bf16(device: torch.device) -> bool:
    """Whether products of matrices in bf16 are faster there than in fp32; a CPU without instructions emulates them."""
    if device.type != "cpu":
        return device.type == "cuda"
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
