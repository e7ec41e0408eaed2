"""Device, data type and number of CPUs that a process computes with."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PRECISIONS = ("auto", "bf16", "fp16", "fp32")


def cores() -> int:
    """Number of logical CPUs that this process may use."""
    # A container or `taskset` limits the process to some of the machine's CPUs; macOS has no call that tells which.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device() -> str:
    """'cuda' where this process may use a GPU, else 'cpu'."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def dtype(precision: str = "auto") -> torch.dtype:
    """The torch data type of a precision; `auto` is bf16 on a GPU and fp32 on a CPU.

    Raises:
        ValueError: the precision is unknown.
    """
    import torch

    check_precision(precision)
    if precision == "auto":
        precision = "bf16" if device() == "cuda" else "fp32"
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]


def check_precision(precision: str) -> None:
    """Raises a ValueError if a config names an unknown precision."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is unknown; write one of {', '.join(PRECISIONS)}")
