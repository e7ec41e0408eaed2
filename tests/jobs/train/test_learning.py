"""A short training from nothing shows that NOVA learns: the loss falls, and colours follow the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.train.config import DataConfig, TrainConfig
from jobs.train.state import Progress
from jobs.train.worker import Trainer, initial_state
from nova_model.config import SamplingConfig
from nova_model.training.config import EmaConfig, NoiseConfig, OptimizerConfig
from pipelines.core.model_hub import folder
from pipelines.core.text_encoder import TextEncoder
from pipelines.dataloading.dataloader import Batch, Bucket
from pipelines.generation.checkpoint_resolution import resolve_checkpoint
from pipelines.generation.requests import SampleRequest
from pipelines.generation.stage import Generate
from pipelines.shapes_world.draw import render
from pipelines.shapes_world.prompts import Canvas, ShapesBenchmark, questions
from pipelines.shapes_world.scenes import COLOURS, Scene, sample_scene, short_caption
from pipelines.shapes_world.verdicts import judge_sample
from pipelines.shapes_world.zoo.scenes import video_pixels

PICTURES = 512
SIDE = 64
# Muon's own work does not grow with the batch and is most of a step of 16 pictures; with 32, fewer steps do.
CONFIG = TrainConfig(
    preset="shapes", steps=200, data=DataConfig(global_batch=32), noise=NoiseConfig(repeat=1),
    optimizer=OptimizerConfig(name="muon", lr=1e-3, muon_lr=4e-3, warmup_steps=10, cooldown=0.7),
    ema=EmaConfig(every=1, decay=0.97), vae="zoo/vae", text_encoder="zoo/text_encoder",
)  # fmt: skip
LOSS = 0.9
"""The loss begins near 3.8; a model that predicts nothing but the mean has 2."""
ASKED = 32
CHANCE = 1 / len(COLOURS)


def scenes(count: int, seed: int) -> list[Scene]:
    """Pictures of one large thing on a plain black background."""
    rng = np.random.default_rng(seed)
    found: list[Scene] = []
    while len(found) < count:
        scene = sample_scene(rng, width=SIDE, height=SIDE, backgrounds=("black",))
        if len(scene.things) == 1 and scene.things[0].size == "large":
            found.append(replace(scene, texture="plain"))
    return found


@pytest.fixture(scope="module")
def pictures() -> Batch:
    """All of them, encoded."""
    from nova_model.checkpoints.released import load_vae

    drawn = scenes(PICTURES, seed=1)
    vae = load_vae(folder("zoo/vae"))
    with torch.inference_mode():
        pixels = video_pixels([render(scene) for scene in drawn]).split(64)
        moments = torch.cat([vae.encode(each).latent_dist.parameters for each in pixels]).clone()
    captions = [short_caption(scene) for scene in drawn]
    encoder = TextEncoder.load("zoo/text_encoder", torch.float32, 24)
    known = {text: features.clone() for text, features in zip(captions, encoder.encode(captions), strict=True)}
    text = [known[each] for each in captions]
    return Batch(
        bucket=Bucket(1, SIDE, SIDE), ids=[str(index) for index in range(PICTURES)], moments=moments, short_text=text,
        long_text=text, motion=torch.zeros(PICTURES), fps=torch.full((PICTURES,), 12.0),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.essential
def test_a_short_training_teaches_colours(pictures: Batch, tmp_path: Path) -> None:
    state = initial_state(CONFIG, tables="", device=torch.device("cpu"))
    trainer = Trainer(state, state.model, 0, 1, torch.device("cpu"))
    batches = PICTURES // CONFIG.data.global_batch
    losses = [trainer.step(pictures.microbatch(step % batches, batches), step)["loss"] for step in range(CONFIG.steps)]
    assert np.mean(losses[-20:]) < LOSS

    state.export(tmp_path, Progress(step=CONFIG.steps))
    right = colours_right(tmp_path / "model", scenes(ASKED, seed=2))
    assert right > 3 * CHANCE, f"{right:.2f} of the colours are right"


def test_the_bundled_checkpoint_paints_the_colours_of_its_prompts() -> None:
    asked = questions(ShapesBenchmark(tasks=("colors",), samples=ASKED), Canvas(height=SIDE, width=SIDE, frames=17))
    assert colours_right("zoo/nova", [question.scene for question in asked]) >= 0.8


def colours_right(checkpoint: str | Path, asked: Sequence[Scene]) -> float:
    """Share of samples whose largest thing has the colour of the prompt."""
    stage = Generate(
        checkpoint=resolve_checkpoint(str(checkpoint)), output="",
        sampling=SamplingConfig(set_steps=16, diffusion_steps=15, guidance_scale=3.0),
    )  # fmt: skip
    requests = [
        SampleRequest(prompt=short_caption(scene), path=f"{seed}.png", seeds=(seed,), frames=1, motion=0.0)
        for seed, scene in enumerate(asked)
    ]
    samples = stage.sample(stage.load(), requests)
    verdicts = [judge_sample("colors", scene, frames, 1.0) for scene, frames in zip(asked, samples, strict=True)]
    return float(np.mean([bool(verdict.color_right) for verdict in verdicts]))
