"""Recipes of the small bundled models: debug, shapes, demo."""

from __future__ import annotations

from dataclasses import replace

from jobs.recipes.recipe import Recipe, batches_of
from jobs.train.config import CheckpointConfig, DataConfig, ParallelConfig, TrainingConfig
from nova_model.config import MaskRatios, SamplingConfig
from nova_model.training.config import EmaConfig, NoiseConfig, OptimizerConfig
from pipelines.curation.aesthetic import Aesthetic
from pipelines.curation.caption import Caption
from pipelines.curation.dedup import Dedup
from pipelines.curation.filters import Filters
from pipelines.curation.ingest import Ingest
from pipelines.curation.latents import Latents
from pipelines.curation.motion import Motion
from pipelines.curation.shots import Shots
from pipelines.curation.stages import Curation
from pipelines.curation.text_features import TextFeatures
from pipelines.evaluation.metrics import Metrics
from pipelines.evaluation.metrics.clip_alignment import ClipAlignment
from pipelines.evaluation.metrics.dynamic_degree import DynamicDegree
from pipelines.evaluation.metrics.subject_consistency import SubjectConsistency
from pipelines.generation.config import GenerationConfig
from pipelines.shapes_world import zoo
from pipelines.shapes_world.zoo import captioner

CALIBRATION = 16.0
"""Factor of motion scores in the shapes world, so that they span the scores that samples are requested with."""

zoo.register()  # the recipes below name its models


def debug() -> Recipe:
    """The zoo's models, a few seconds of work; nothing is rejected but duplicates."""
    small = batches_of(8)
    aesthetic = Aesthetic(model="zoo/clip", head="zoo/aesthetic", frames=3, short_side=128, resources=small)
    return Recipe(
        curation=Curation(
            ingest=Ingest(resources=small),
            shots=Shots(min_seconds=0.4, resources=batches_of(2)),
            motion=Motion(
                weights="zoo/raft", short_side=128, updates=4, max_pairs=4, pairs_at_once=4, resources=small
            ),
            aesthetic=aesthetic,
            dedup=Dedup(threshold=0.9, alike=0.95),  # many clips show the same objects, few at the same positions
            decide=Filters(),
            caption=Caption(
                model="zoo/captioner", frames=captioner.FRAMES, as_video=True, short_side=captioner.SIDE,
                short_prompt=captioner.SHORT, long_prompt=captioner.LONG, short_tokens=24, long_tokens=40,
                resources=small,
            ),
            text=TextFeatures(model="zoo/text_encoder", max_tokens=16, resources=small),
            latents=Latents(model="zoo/vae", lengths=(5, 17), resources=small),
        ),
        training=TrainingConfig(
            preset="shapes", steps=20, log_every=5, vae="zoo/vae", text_encoder="zoo/text_encoder",
            data=DataConfig(global_batch=8, global_batch_video=4), optimizer=OptimizerConfig(lr=4e-4, warmup_steps=5),
            ema=EmaConfig(every=5), checkpoint=CheckpointConfig(every=10),
        ),
        generation=GenerationConfig(
            sampling=SamplingConfig(set_steps=4, diffusion_steps=5, guidance_scale=2.0), resources=batches_of(2)
        ),
        metrics=Metrics(
            clip_alignment=ClipAlignment(model="zoo/clip", short_side=64, resources=small),
            aesthetic=aesthetic,
            dynamic_degree=DynamicDegree(weights="zoo/raft", updates=4, resources=small),
            subject_consistency=SubjectConsistency(model="zoo/dino", resources=small),
        ),
    )  # fmt: skip


def shapes() -> Recipe:
    """The zoo's models on a corpus of `nova shapes`: an hour of training on two cores.

    Objects cover little of a frame, so raw motion scores are small. They are multiplied so that they span the useful
    range; moving clips have a median of 3.
    """
    base = debug()
    return replace(
        base,
        curation=replace(
            base.curation,
            shots=replace(base.curation.shots, min_seconds=1.0),
            motion=replace(base.curation.motion, updates=8, calibration=CALIBRATION),
            decide=Filters(min_aesthetic=5.0, min_short_side=60),  # between the scores of degraded and of clean images
            latents=replace(base.curation.latents, lengths=(17,)),
        ),
        training=replace(
            base.training, steps=14800, log_every=20,
            data=DataConfig(global_batch=48, global_batch_video=24, images_first=1500, short_captions=0.8),
            # Frames have 16 tokens: the published ratios of 0.7 to 1 would never show the model more than four visible
            # tokens, while the last sets of a sampled frame are predicted from nearly all of them.
            noise=NoiseConfig(shift=2.0, repeat=4), masks=MaskRatios(min_ratio=0.1, std=0.5),
            optimizer=replace(base.training.optimizer, name="muon", warmup_steps=200, cooldown=0.8),
            # A memory of 100 updates, which is 500 steps: the released 0.97 every 100 steps would span a quarter of
            # this training.
            ema=replace(base.training.ema, decay=0.99), checkpoint=CheckpointConfig(every=200),
            parallel=ParallelConfig(cpus_per_worker=2),
        ),
        generation=replace(
            base.generation, samples_at_once=base.generation.resources.batch_size, motion=3.0,
            sampling=SamplingConfig(  # the card of zoo/nova lists the effect of each
                set_steps=32, diffusion_steps=25, guidance_scale=2.5, negative_motion=5.0, temperature=0.85,
                corrections=4,
            ),
        ),
        shapes=replace(base.shapes, calibration=CALIBRATION),
    )  # fmt: skip


def demo() -> Recipe:
    """As `shapes`, on the demo's own small corpus: a few steps that continue from the bundled checkpoint."""
    base = shapes()
    return replace(
        base,
        curation=replace(
            base.curation, decide=replace(base.curation.decide, min_motion=0.5)  # still videos score below
        ),
        training=replace(
            base.training, init_from="zoo/nova", steps=100, log_every=5,
            # The bundled checkpoint has learnt appearance already.
            data=replace(base.training.data, images_first=0),
            # A quarter of the rate that it was trained at: the full one undoes more than 100 steps repair.
            optimizer=replace(base.training.optimizer, warmup_steps=20, lr=1e-4, muon_lr=2e-4),
            # 20 updates: at 0.99, four fifths of the average would still be the bundled weights.
            ema=replace(base.training.ema, decay=0.9), checkpoint=CheckpointConfig(every=50),
        ),
    )  # fmt: skip
