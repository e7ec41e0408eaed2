"""What only a GPU shows: bf16 training and generation. `pytest -m gpu` runs these on a machine with one."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


def nova(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "jobs.cli", *arguments], check=True)


def test_the_loop_runs_on_a_gpu(media: Path, tmp_path: Path) -> None:
    tables, run = tmp_path / "tables", tmp_path / "run"
    stages = ("motion", "aesthetic", "caption", "text", "latents")
    shares = [each for name in stages for each in ("--set", f"{name}.resources.gpus=0.1")]
    nova("curate", "--input", str(media), "--tables", str(tables), *shares)
    nova("train", "--tables", str(tables), "--run", str(run), "--steps", "40", "--set", "gpus_per_worker=1")
    losses = [json.loads(line)["loss_first_frame"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0]
    output = tmp_path / "samples"
    gpu = ["--set", "resources.gpus=1"]
    nova("generate", "--checkpoint", str(run), "--prompt", "a red circle", "--output", str(output), *gpu)
    assert (output / "00000-0.png").stat().st_size > 0
