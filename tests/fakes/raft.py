"""fake/raft: torchvision's raft_small with fixed random weights; its flow has no meaning."""

from __future__ import annotations

from pathlib import Path

from tests.fakes.weights import fill

SEED = 4


def build(folder: Path) -> None:
    """Writes the state dict as safetensors."""
    from safetensors.torch import save_file
    from torchvision.models.optical_flow import raft_small

    network = raft_small()
    fill(network, SEED)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, folder / "raft.safetensors")
