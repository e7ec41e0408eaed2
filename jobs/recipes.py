"""Named runs: what `--recipe NAME` starts from. Each is a function that returns the config of every command.

    debug               small models that the project carries (the zoo), seconds; what runs without --recipe
    shapes              the same on a corpus of `nova shapes`; an hour of training
    demo                the same on the demo's corpus, going on from zoo/nova; a minute of training
    t2i-512-0.6b        one per released checkpoint, with hub ids, for machines with GPUs
    t2i-1024-0.3b
    t2i-1024-0.6b
    t2i-1024-1.4b
    t2v-480x768-0.6b

The real ones need one file that is not fetched: LAION's aesthetic head for CLIP ViT-L/14, at AESTHETIC_HEAD or wherever
`--set aesthetic.head=FILE` says. Their batch sizes are the published ones; workers, accumulation and GPU shares are
estimates for 16 GPUs of 80 GB, to be changed with `--set`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobs.ablate.job import AblateConfig
    from jobs.curate import CurateConfig
    from jobs.demo import DemoConfig
    from jobs.evaluate import EvaluateConfig
    from jobs.generate import GenerateConfig
    from jobs.refresh import RefreshConfig
    from jobs.train.job import TrainConfig
    from nova_model.config import SamplingConfig
    from pipelines.core.stage import Resources

AESTHETIC_HEAD = "./models/sa_0_4_vit_l_14_linear.pth"
CAPTIONER = "Qwen/Qwen3-VL-8B-Instruct"
TEXT_ENCODER = "microsoft/phi-2"
SD_VAE = "BAAI/nova-d48w1024-sd512/vae"
SDXL_VAE = "BAAI/nova-d48w1024-sdxl1024/vae"
VIDEO_VAE = "BAAI/nova-d48w1024-osp480/vae"
CALIBRATION = 16.0
"""Of motion scores in the shapes world, so that they span what can be asked for."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The configs that belong together."""

    curate: CurateConfig
    train: TrainConfig
    generate: GenerateConfig
    evaluate: EvaluateConfig

    @property
    def refresh(self) -> RefreshConfig:
        from jobs.refresh import RefreshConfig

        settings = {each.name: getattr(self.curate, each.name) for each in fields(self.curate)}
        return RefreshConfig(**settings, trainer=self.train)

    @property
    def ablate(self) -> AblateConfig:
        from jobs.ablate.job import AblateConfig

        return AblateConfig(curate=self.curate, train=self.train, evaluate=self.benchmark)

    @property
    def benchmark(self) -> EvaluateConfig:
        """`evaluate`, whose benchmarks make their samples as `generate` does."""
        return replace(self.evaluate, generate=self.generate)

    @property
    def demo(self) -> DemoConfig:
        from jobs.demo import DemoConfig

        return DemoConfig(curate=self.curate, train=self.train, generate=self.generate, evaluate=self.evaluate)


def debug() -> Recipe:
    """The zoo's models in seconds, nothing rejected but duplicates."""
    from jobs.curate import CurateConfig
    from jobs.evaluate import EvaluateConfig
    from jobs.generate import GenerateConfig
    from jobs.train.job import TrainConfig
    from nova_model.config import SamplingConfig
    from pipelines.curation.aesthetic import Aesthetic
    from pipelines.curation.caption import Caption
    from pipelines.curation.dedup import Dedup
    from pipelines.curation.filters import Filters
    from pipelines.curation.ingest import Ingest
    from pipelines.curation.latents import Latents
    from pipelines.curation.motion import Motion
    from pipelines.curation.shots import Shots
    from pipelines.curation.text_features import TextFeatures
    from pipelines.evaluation.metrics.clip_alignment import ClipAlignment
    from pipelines.evaluation.metrics.dynamic_degree import DynamicDegree
    from pipelines.evaluation.metrics.subject_consistency import SubjectConsistency
    from pipelines.shapes_world.zoo import captioner

    small = _small_batches(8)
    aesthetic = Aesthetic(model="zoo/clip", head="zoo/aesthetic", frames=3, short_side=128, resources=small)
    return Recipe(
        curate=CurateConfig(
            ingest=Ingest(resources=small),
            shots=Shots(min_seconds=0.4, resources=_small_batches(2)),
            motion=Motion(
                weights="zoo/raft", short_side=128, updates=4, max_pairs=4, pairs_at_once=4, resources=small
            ),
            aesthetic=aesthetic,
            dedup=Dedup(threshold=0.9, alike=0.95),  # of many that show the same, few have it in the same places
            decide=Filters(),
            caption=Caption(
                model="zoo/captioner", frames=captioner.FRAMES, as_video=True, short_side=captioner.SIDE,
                short_prompt=captioner.SHORT, long_prompt=captioner.LONG, short_tokens=24, long_tokens=40,
                resources=small,
            ),
            text=TextFeatures(model="zoo/text_encoder", max_tokens=16, resources=small),
            latents=Latents(model="zoo/vae", lengths=(5, 17), resources=small),
        ),
        train=TrainConfig(
            preset="shapes", steps=20, global_batch=8, global_batch_video=4, checkpoint_every=10, log_every=5,
            warmup_steps=5, lr=4e-4, ema_every=5, vae="zoo/vae", text_encoder="zoo/text_encoder",
        ),
        generate=GenerateConfig(
            sampling=SamplingConfig(set_steps=4, diffusion_steps=5, guidance_scale=2.0), resources=_small_batches(2)
        ),
        evaluate=EvaluateConfig(
            clip_alignment=ClipAlignment(model="zoo/clip", short_side=64, resources=small),
            aesthetic=aesthetic,
            dynamic_degree=DynamicDegree(weights="zoo/raft", updates=4, resources=small),
            subject_consistency=SubjectConsistency(model="zoo/dino", resources=small),
        ),
    )  # fmt: skip


def shapes() -> Recipe:
    """The zoo's models on a corpus of `nova shapes`: an hour of training on two cores.

    Motion of this world is slight, as its things cover a tenth of a frame: scores are multiplied, so that they span
    what can be asked for. What moves has a median of 3, which is what samples are asked for; 90 % are below 9.
    """
    from nova_model.config import MaskRatios, SamplingConfig
    from pipelines.curation.filters import Filters

    base = debug()
    return replace(
        base,
        curate=replace(
            base.curate,
            shots=replace(base.curate.shots, min_seconds=1.0),
            motion=replace(base.curate.motion, updates=8, calibration=CALIBRATION),
            decide=Filters(min_aesthetic=5.0, min_short_side=60),  # ugly is about 3.9, clean 6.2
            latents=replace(base.curate.latents, lengths=(17,)),
        ),
        train=replace(
            base.train, steps=14800, images_first=1500, global_batch=48, global_batch_video=24, loss_repeat=4,
            shift=2.0, short_captions=0.8, masks=MaskRatios(least=0.1, std=0.5),
            optimizer="muon", warmup_steps=200, cooldown=0.8, ema_decay=0.99, checkpoint_every=200, log_every=20,
            cpus_per_worker=2,
        ),
        generate=replace(
            base.generate, samples_at_once=32, motion=3.0,
            sampling=SamplingConfig(  # the card of zoo/nova has what each was worth
                set_steps=32, diffusion_steps=25, guidance_scale=2.5, negative_motion=5.0, temperature=0.85,
                corrections=4,
            ),
        ),
        evaluate=replace(base.evaluate, shapes=replace(base.evaluate.shapes, calibration=CALIBRATION)),
    )  # fmt: skip


def demo() -> Recipe:
    """As `shapes`, on the demo's own small corpus: some steps that go on from the checkpoint that is carried."""
    base = shapes()
    return replace(
        base,
        curate=replace(base.curate, decide=replace(base.curate.decide, min_motion=0.5)),  # what stands still is below
        train=replace(
            base.train, init_from="zoo/nova", steps=100, images_first=0, checkpoint_every=50, log_every=5,
            warmup_steps=20, lr=1e-4, muon_lr=2e-4, ema_decay=0.9,
        ),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Release:
    """What one released checkpoint was trained as (NOVA_SPEC section 2 and the published training recipe)."""

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
        lengths=(17, 33),
    ),
}  # fmt: skip


def released(release: Release) -> Recipe:
    """The recipe of a released checkpoint."""
    from jobs.generate import GenerateConfig
    from jobs.train.job import TrainConfig

    return Recipe(
        curate=_real_curation(release),
        train=TrainConfig(
            preset=release.preset, schedule=release.schedule, steps=100_000, warmup_steps=1000, log_every=20,
            checkpoint_every=500, global_batch=release.batch, global_batch_video=release.batch,
            accumulate=release.accumulate, freeze=("text_embed.norm",), workers=16, cpus_per_worker=4,
            gpus_per_worker=1, vae=release.vae, text_encoder=TEXT_ENCODER,
        ),
        generate=GenerateConfig(
            frames=max(release.lengths, default=1), fps=release.fps, sampling=_real_sampling(release),
            samples_at_once=8, resources=_gpu(1.0, workers=(1, 16), batch_size=8),
        ),
        evaluate=_real_evaluation(),
    )  # fmt: skip


def _real_curation(release: Release) -> CurateConfig:
    from jobs.curate import CurateConfig
    from pipelines.core.stage import Resources
    from pipelines.curation.aesthetic import Aesthetic
    from pipelines.curation.caption import Caption
    from pipelines.curation.dedup import Dedup
    from pipelines.curation.filters import Filters
    from pipelines.curation.ingest import Ingest
    from pipelines.curation.latents import Latents
    from pipelines.curation.motion import Motion
    from pipelines.curation.shots import Shots
    from pipelines.curation.text_features import TextFeatures

    height, width = map(int, release.size.split("x"))
    quarter = _gpu(0.25, workers=(1, 16), batch_size=16)
    return CurateConfig(
        ingest=Ingest(resources=Resources(batch_size=64)),
        shots=Shots(min_seconds=2.5, max_seconds=10.0, resources=Resources(batch_size=8)),
        motion=Motion(model="raft_large", weights="C_T_SKHT_V2", max_pairs=16, resources=quarter),
        aesthetic=Aesthetic(model="ViT-L-14", pretrained="openai", head=AESTHETIC_HEAD, resources=quarter),
        dedup=Dedup(threshold=0.95),
        decide=Filters(
            min_short_side=min(height, width), max_aspect_ratio=2.5, min_motion=0.5, max_motion=20.0, min_aesthetic=5.0
        ),
        caption=Caption(model=CAPTIONER, frames=8, resources=_gpu(1.0, workers=(1, 16), batch_size=16)),
        text=TextFeatures(model=TEXT_ENCODER, resources=_gpu(0.25, workers=(1, 4), batch_size=32)),
        latents=Latents(
            model=release.vae, sizes=(release.size,), lengths=release.lengths, fps=release.fps,
            resources=_gpu(0.25, workers=(1, 16), batch_size=8),
        ),
    )  # fmt: skip


def _real_evaluation() -> EvaluateConfig:
    """VBench's and LAION's own models, so that the metrics that they define count as theirs."""
    from jobs.evaluate import EvaluateConfig
    from pipelines.curation.aesthetic import Aesthetic
    from pipelines.evaluation.metrics.clip_alignment import ClipAlignment
    from pipelines.evaluation.metrics.dynamic_degree import DynamicDegree
    from pipelines.evaluation.metrics.flickering import TemporalFlickering
    from pipelines.evaluation.metrics.subject_consistency import SubjectConsistency

    quarter = _gpu(0.25, workers=(1, 16), batch_size=16)
    return EvaluateConfig(
        clip_alignment=ClipAlignment(model="ViT-L-14", pretrained="openai", resources=quarter),
        aesthetic=Aesthetic(model="ViT-L-14", pretrained="openai", head=AESTHETIC_HEAD, resources=quarter),
        flickering=TemporalFlickering(),
        dynamic_degree=DynamicDegree(model="raft_large", weights="C_T_SKHT_V2", resources=quarter),
        subject_consistency=SubjectConsistency(model="facebook/dino-vitb16", resources=quarter),
    )


def _real_sampling(release: Release) -> SamplingConfig:
    from nova_model.config import SamplingConfig

    return SamplingConfig(set_steps=64, diffusion_steps=100 if release.schedule == "ddpm" else 25)


def _small_batches(rows: int) -> Resources:
    from pipelines.core.stage import Resources

    return Resources(batch_size=rows)


def _gpu(share: float, *, workers: tuple[int, int], batch_size: int) -> Resources:
    from pipelines.core.stage import Resources

    return Resources(cpus=2, gpus=share, workers=workers, batch_size=batch_size)


RECIPES: dict[str, Callable[[], Recipe]] = {
    "debug": debug,
    "demo": demo,
    "shapes": shapes,
    **{name: partial(released, release) for name, release in RELEASES.items()},
}
NAMES = tuple(RECIPES)


def get(name: str, command: str) -> Any:
    """The config of a command in a recipe.

    Raises:
        ValueError: no such recipe (the nearest is named), or one that the command does not run.
    """
    if name not in RECIPES:
        from jobs.settings import nearest

        raise ValueError(f"unknown recipe {name!r}{nearest(name, NAMES)}")
    if command == "demo" and name in RELEASES:
        raise ValueError(f"nova demo runs small models; --recipe {name} is for the other commands")
    recipe = RECIPES[name]()
    return recipe.benchmark if command == "evaluate" else getattr(recipe, command)
