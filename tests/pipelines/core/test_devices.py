"""Devices and data types."""

import pytest
import torch

from pipelines.core import devices


def test_precisions():
    assert devices.device() in ("cpu", "cuda")
    assert devices.dtype("fp16") == torch.float16
    assert devices.dtype("auto") == (torch.bfloat16 if torch.cuda.is_available() else torch.float32)
    with pytest.raises(ValueError, match=r"fp8.*auto, bf16, fp16, fp32"):
        devices.dtype("fp8")
