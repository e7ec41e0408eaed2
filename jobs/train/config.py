"""Settings of `nova train`. No torch here, so that a command line is parsed without it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from jobs.settings import nearest
from nova_model.config import NETWORKS, MaskRatios, NovaConfig
from nova_model.presets import ABLATIONS, PRESETS
from nova_model.training.config import EmaConfig, NoiseConfig, OptimizerConfig

if TYPE_CHECKING:
    from pipelines.dataloading.dataloader import Bucket


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What a step reads.

    Raises:
        ValueError: a value below its minimum.
    """

    global_batch: int = 16
    """Images per step, over all workers."""
    global_batch_video: int = 4
    """Videos per step, over all workers."""
    images_first: int = 0
    """Steps at the start that take images alone: appearance is learnt more cheaply from images than from videos."""
    short_captions: float = 0.5
    """Probability that an example is trained with its short caption instead of the long one."""
    text_dropout: float = 0.1
    """Probability that a prompt is replaced by the unconditional one, which guidance needs."""

    def __post_init__(self) -> None:
        for name, minimum in (("global_batch", 1), ("global_batch_video", 1), ("images_first", 0)):
            if getattr(self, name) < minimum:
                raise ValueError(f"data.{name}={getattr(self, name)}: must be at least {minimum}")

    def batch_size(self, bucket: Bucket) -> int:
        """Examples of a bucket per step, over all workers."""
        return self.global_batch if bucket.frames == 1 else self.global_batch_video


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When checkpoints are written, and how many stay.

    Raises:
        ValueError: an interval below one step.
    """

    every: int = 50
    """Steps between checkpoints."""
    keep: int = 2
    """Number of newest checkpoints that are kept."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"checkpoint.every={self.every}: must be at least 1")


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """The training processes, and how each computes its share of a batch.

    Raises:
        ValueError: no worker, or no microbatch.
    """

    workers: int = 1
    """Training processes; more than one train data-parallel (DDP)."""
    accumulate: int = 1
    """Microbatches that a worker's share of a batch is computed in, to save memory."""
    cpus_per_worker: float = 1.0
    """Logical CPUs of a worker; also its number of torch threads."""
    gpus_per_worker: float = 0.0
    """GPUs of a worker."""
    # More would repeat a defect of the code or of the data, which fails every time.
    max_failures: int = 3
    """Times that lost workers are replaced before the run fails."""

    def __post_init__(self) -> None:
        for name in ("workers", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"parallel.{name}={getattr(self, name)}: must be at least 1")

    @property
    def resources_per_worker(self) -> dict[str, float]:
        """Resources in Ray's names."""
        gpus = {"GPU": self.gpus_per_worker} if self.gpus_per_worker else {}
        return {"CPU": self.cpus_per_worker, **gpus}


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Training settings, independent of data and output.

    Raises:
        ValueError: an unknown name, a value out of its range, or batch sizes that the workers do not divide.
    """

    RENAMED: ClassVar[dict[str, str]] = {
        "schedule": "noise.schedule", "shift": "noise.shift", "loss_repeat": "noise.repeat",
        "global_batch": "data.global_batch", "global_batch_video": "data.global_batch_video",
        "images_first": "data.images_first", "short_captions": "data.short_captions",
        "text_dropout": "data.text_dropout",
        "lr": "optimizer.lr", "muon_lr": "optimizer.muon_lr",
        "warmup_steps": "optimizer.warmup_steps", "cooldown": "optimizer.cooldown", "betas": "optimizer.betas",
        "weight_decay": "optimizer.weight_decay", "clip_norm": "optimizer.clip_norm",
        "ema_decay": "ema.decay", "ema_every": "ema.every",
        "checkpoint_every": "checkpoint.every", "keep_checkpoints": "checkpoint.keep",
        "workers": "parallel.workers", "accumulate": "parallel.accumulate",
        "cpus_per_worker": "parallel.cpus_per_worker", "gpus_per_worker": "parallel.gpus_per_worker",
        "max_failures": "parallel.max_failures", "optimizer": "optimizer.name",
        "masks.least": "masks.min_ratio",
    }  # fmt: skip
    """Keys of version 0.1, which --set and the command line still take, with a warning."""

    preset: str = "tiny"
    """Architecture: a name of nova_model.presets.PRESETS."""
    ablate: tuple[str, ...] = ()
    """Changes of the architecture, names of nova_model.presets.ABLATIONS: no_temporal, no_scaling, pre_norm,
    post_add_norm, no_motion."""
    checkpointing: tuple[str, ...] = ()
    """Networks whose activations are recomputed in the backward pass, which takes less memory and more time: temporal,
    spatial, denoiser. `python -m nova_model.tools.describe PRESET` shows what each one takes."""
    init_from: str | None = None
    """Checkpoint folder, or zoo/nova, to take weights from; weights that it lacks start fresh (video from image
    models)."""
    freeze: tuple[str, ...] = ()
    """Prefixes of the names of parameters that are not trained."""

    steps: int = 100
    """Optimizer steps in all, including those before a restart."""
    seed: int = 0
    """Seed of weights, data order and noise."""
    precision: str = "auto"
    """bf16 or fp32; auto is bf16 on a GPU, and on a CPU that has instructions for it."""
    log_every: int = 5
    """Steps between two log entries."""

    data: DataConfig = field(default_factory=DataConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    masks: MaskRatios = field(default_factory=MaskRatios)
    """Share of a frame's tokens that is masked."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)

    vae: str = ""
    """VAE that decodes what this model generates; must be the one that encoded the tables."""
    text_encoder: str = ""
    """Text encoder for prompts; must be the one that encoded the tables."""

    def __post_init__(self) -> None:
        for name in ("steps", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        microbatches = self.parallel.workers * self.parallel.accumulate
        for name in ("global_batch", "global_batch_video"):
            size = getattr(self.data, name)
            # Gradients are averaged over workers and microbatches: with unequal shares, examples would have unequal
            # weights.
            if size % microbatches:
                raise ValueError(
                    f"data.{name}={size} must be a multiple of parallel.workers x parallel.accumulate = {microbatches}"
                )
        if self.precision not in ("auto", "bf16", "fp32"):
            raise ValueError(f"precision={self.precision!r}: choose auto, bf16 or fp32")
        for name, choices in (("ablate", tuple(ABLATIONS)), ("checkpointing", NETWORKS)):
            unknown = [value for value in getattr(self, name) if value not in choices]
            if unknown:
                raise ValueError(f"{name}={unknown[0]!r}: choose from {', '.join(choices)}")
        norms = [name for name in self.ablate if "norm" in ABLATIONS[name]]
        if len(norms) > 1:
            raise ValueError(f"ablate={','.join(norms)}: norms have one place; leave all but one out")

    def unused_settings(self) -> dict[str, str]:
        preset = PRESETS.get(self.preset)
        if preset is None:  # `architecture` refuses it
            return {}
        for name in self.ablate:
            if replace(preset, **ABLATIONS[name]) == preset or (name == "no_motion" and not preset.makes_videos):
                reason = f"on preset {self.preset}, which has nothing that {name} removes; leave {name} out"
                return {"ablate": reason}
        return {}

    def architecture(self) -> NovaConfig:
        """The architecture of the preset, with the ablations applied.

        Raises:
            ValueError: there is no such preset; the message names the nearest one.
        """
        if self.preset not in PRESETS:
            raise ValueError(f"unknown preset {self.preset!r}{nearest(self.preset, PRESETS)}")
        changes = {key: value for name in self.ablate for key, value in ABLATIONS[name].items()}
        return replace(PRESETS[self.preset], **changes)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(TrainingConfig):
    """Trains NOVA on a version of curated tables; run again, it continues from its last checkpoint.

    Example: nova train --recipe debug --tables work/tables --run work/run
    """

    tables: str = ""
    """Curated tables: DIR, or DIR@VERSION for a version of `examples`; by default the newest when the run starts."""
    run: str = ""
    """Folder of this run: checkpoints, metrics, the finished model."""
    address: str | None = None
    """Ray cluster to run on; by default RAY_ADDRESS, else this machine."""
    parent_run: str | None = None
    """MLflow run that this one belongs to."""
