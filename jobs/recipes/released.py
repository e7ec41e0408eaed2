"""Recipes of the released checkpoints, with hub ids, for machines with GPUs.

They need one file that is not fetched: LAION's aesthetic head for CLIP ViT-L/14, at AESTHETIC_HEAD or at the path
of `--set aesthetic.head=FILE`. Their batch sizes are the published ones; workers, accumulation and GPU shares are
estimates for 16 GPUs of 80 GB, to be changed with `--set`.
"""

from __future__ import annotations

from dataclasses import dataclass

from jobs.recipes.recipe import Recipe, on_gpu
from jobs.train.config import CheckpointConfig, DataConfig, ParallelConfig, TrainingConfig
from nova_model.config import SamplingConfig
from nova_model.training.config import NoiseConfig, OptimizerConfig
from pipelines.core.stage import Resources
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
from pipelines.evaluation.metrics.flickering import TemporalFlickering
from pipelines.evaluation.metrics.subject_consistency import SubjectConsistency
from pipelines.generation.config import GenerationConfig

AESTHETIC_HEAD = "./models/sa_0_4_vit_l_14_linear.pth"
CAPTIONER = "Qwen/Qwen3-VL-8B-Instruct"
TEXT_ENCODER = "microsoft/phi-2"
SD_VAE = "BAAI/nova-d48w1024-sd512/vae"
SDXL_VAE = "BAAI/nova-d48w1024-sdxl1024/vae"
VIDEO_VAE = "BAAI/nova-d48w1024-osp480/vae"


@dataclass(frozen=True, kw_only=True)
class Release:
    """Training settings of one released checkpoint (the published recipe)."""

    preset: str
    schedule: str
    vae: str
    size: str
    """Height x width in pixels."""
    batch: int
    accumulate: int
    lengths: tuple[int, ...] = ()
    """Frames of video buckets; none for image models."""
    fps: float = 12.0


RELEASES = {
    "t2i-512-0.6b": Release(
        preset="nova-d48w1024-sd512", schedule="ddpm", vae=SD_VAE, size="512x512", batch=1024, accumulate=2
    ),
    "t2i-1024-0.3b": Release(
        preset="nova-d48w768-sdxl1024", schedule="flow", vae=SDXL_VAE, size="1024x1024", batch=1024, accumulate=8
    ),
    "t2i-1024-0.6b": Release(
        preset="nova-d48w1024-sdxl1024", schedule="flow", vae=SDXL_VAE, size="1024x1024", batch=1024, accumulate=16
    ),
    "t2i-1024-1.4b": Release(
        preset="nova-d48w1536-sdxl1024", schedule="flow", vae=SDXL_VAE, size="1024x1024", batch=1024, accumulate=32
    ),
    "t2v-480x768-0.6b": Release(
        preset="nova-d48w1024-osp480", schedule="ddpm", vae=VIDEO_VAE, size="480x768", batch=384, accumulate=12,
        # A causal VAE encodes the first frame alone and then four at a time: lengths are 4k + 1.
        lengths=(17, 33),
    ),
}  # fmt: skip


def released(release: Release) -> Recipe:
    """The recipe of a released checkpoint."""
    return Recipe(
        curation=_real_curation(release),
        training=TrainingConfig(
            preset=release.preset, steps=100_000, log_every=20, freeze=("text_embed.norm",), vae=release.vae,
            text_encoder=TEXT_ENCODER, data=DataConfig(global_batch=release.batch, global_batch_video=release.batch),
            noise=NoiseConfig(schedule=release.schedule), optimizer=OptimizerConfig(warmup_steps=1000),
            checkpoint=CheckpointConfig(every=500),
            parallel=ParallelConfig(workers=16, accumulate=release.accumulate, cpus_per_worker=4, gpus_per_worker=1),
        ),
        frames=max(release.lengths, default=1),
        generation=GenerationConfig(
            fps=release.fps, sampling=_real_sampling(release),
            samples_at_once=8, resources=on_gpu(1.0, workers=(1, 16), batch_size=8),
        ),
        metrics=_real_evaluation(),
    )  # fmt: skip


def _real_curation(release: Release) -> Curation:
    height, width = map(int, release.size.split("x"))
    # Stages of one pass run side by side: with whole GPUs, the first would run to its end before the next gets any.
    quarter = on_gpu(0.25, workers=(1, 16), batch_size=16)
    return Curation(
        ingest=Ingest(resources=Resources(batch_size=64)),
        shots=Shots(min_seconds=2.5, max_seconds=10.0, resources=Resources(batch_size=8)),
        motion=Motion(model="raft_large", weights="C_T_SKHT_V2", max_pairs=16, resources=quarter),
        aesthetic=Aesthetic(model="ViT-L-14", pretrained="openai", head=AESTHETIC_HEAD, resources=quarter),
        dedup=Dedup(threshold=0.95),
        decide=Filters(
            # Nothing is enlarged: a model that is trained on enlarged media generates blurred ones. LAION's heads score
            # about 1 to 10, and 4.5 to 5.5 are the usual bars; motion is in pixels at a short side of 256 per 1/12 s.
            min_short_side=min(height, width), max_aspect_ratio=2.5, min_motion=0.5, max_motion=20.0, min_aesthetic=5.0
        ),
        # The captioner alone fills a GPU; it runs on accepted clips only.
        caption=Caption(model=CAPTIONER, frames=8, resources=on_gpu(1.0, workers=(1, 16), batch_size=16)),
        text=TextFeatures(model=TEXT_ENCODER, resources=on_gpu(0.25, workers=(1, 4), batch_size=32)),
        latents=Latents(
            model=release.vae, sizes=(release.size,), lengths=release.lengths, fps=release.fps,
            resources=on_gpu(0.25, workers=(1, 16), batch_size=8),
        ),
    )  # fmt: skip


def _real_evaluation() -> Metrics:
    """VBench's and LAION's own models, so that the metrics that they define count as theirs."""
    quarter = on_gpu(0.25, workers=(1, 16), batch_size=16)
    return Metrics(
        clip_alignment=ClipAlignment(model="ViT-L-14", pretrained="openai", resources=quarter),
        aesthetic=Aesthetic(model="ViT-L-14", pretrained="openai", head=AESTHETIC_HEAD, resources=quarter),
        flickering=TemporalFlickering(),
        dynamic_degree=DynamicDegree(model="raft_large", weights="C_T_SKHT_V2", resources=quarter),
        subject_consistency=SubjectConsistency(model="facebook/dino-vitb16", resources=quarter),
    )


def _real_sampling(release: Release) -> SamplingConfig:
    return SamplingConfig(set_steps=64, diffusion_steps=100 if release.schedule == "ddpm" else 25)
