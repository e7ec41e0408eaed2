"""`nova train`: from a version of the tables to a trained NOVA, with Ray Train.

    nova train --recipe debug --tables work/tables@3 --run work/run

The same command again goes on from the last checkpoint. What a worker does is in `jobs/train/worker.py`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.runtime import disk
from nova_model.config import MaskRatios
from pipelines.core import model_hub

if TYPE_CHECKING:
    from nova_model.config import NovaConfig
    from pipelines.dataloading.dataloader import BatchPlan, Bucket

OURS = {"run.json", "metrics.jsonl", "checkpoints", "model", "mlflow.json", "refresh.json", "report.html"}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Trains NOVA on a version of curated tables; run again, it goes on from its last checkpoint.

    Example: nova train --recipe debug --tables work/tables --run work/run
    """

    tables: str = ""
    """Curated tables: DIR, or DIR@VERSION for a version of `examples`; the newest when the run starts otherwise."""
    run: str = ""
    """Folder of this run: checkpoints, metrics, the finished model."""
    address: str | None = None
    """Ray cluster to run on; without it RAY_ADDRESS, else this machine."""

    preset: str = "tiny"
    """Architecture, a name of nova_model.config.PRESETS."""
    ablate: tuple[str, ...] = ()
    """What is changed in the architecture, names of nova_model.config.ABLATIONS: no_temporal, no_scaling, pre_norm,
    post_add_norm, no_motion."""
    checkpointing: tuple[str, ...] = ()
    """Parts that keep no activations and compute them again in the backward pass, for less memory and more time:
    temporal, spatial, denoiser. `python -m nova_model.tools.describe PRESET` says what each takes."""
    init_from: str | None = None
    """Checkpoint folder, or zoo/nova, to take weights from; parts that it lacks start fresh (T2V from T2I weights)."""
    schedule: str = "flow"
    """Noise schedule: flow (flow matching) or ddpm (epsilon)."""
    shift: float = 1.0
    """Shift of the flow-matching schedule."""
    freeze: tuple[str, ...] = ()
    """Parameters whose names start with one of these are not trained."""

    steps: int = 100
    """Optimizer steps in all, those before a restart included."""
    global_batch: int = 16
    """Images per step over all workers."""
    global_batch_video: int = 4
    """Videos per step over all workers."""
    images_first: int = 0
    """Steps at the start that take images alone: what things look like is learnt cheaper than how they move."""
    accumulate: int = 1
    """Parts that a worker's share of a batch is computed in, one after the other, where memory is short."""
    short_captions: float = 0.5
    """Chance that an example is trained with its short caption."""
    text_dropout: float = 0.1
    """Chance that a prompt is replaced by the unconditional one."""
    loss_repeat: int = 4
    """Noise draws per token."""
    masks: MaskRatios = field(default_factory=MaskRatios)
    """Share of a frame's tokens that is masked."""

    optimizer: str = "adamw"
    """adamw, or muon: Muon for the matrices inside the blocks, AdamW for the rest; learns faster by the step."""
    lr: float = 1e-4
    """AdamW's learning rate."""
    muon_lr: float = 2e-3
    """Muon's learning rate, on AdamW's scale."""
    warmup_steps: int = 10
    """Steps over which learning rates rise from zero."""
    cooldown: float = 0.0
    """Share of the steps, at the end, over which learning rates fall to zero; they stay as they are where it is 0."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's moment decays."""
    weight_decay: float = 0.02
    """On matrices only: none on norms and biases."""
    clip_norm: float = 1.0
    """Largest gradient norm."""
    ema_decay: float = 0.97
    """Weight of the old average at each update of the moving average of the weights (fp32)."""
    ema_every: int = 100
    """Steps between updates of the moving average."""
    precision: str = "auto"
    """bf16 or fp32; auto is bf16 on a GPU, and on a CPU that has instructions for it."""

    workers: int = 1
    """Training processes; more than one train data-parallel (DDP)."""
    cpus_per_worker: float = 1.0
    """Logical CPUs of a worker, and its torch threads."""
    gpus_per_worker: float = 0.0
    """GPUs of a worker."""
    max_failures: int = 3
    """Times that lost workers are replaced before the run fails."""

    checkpoint_every: int = 50
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept."""
    log_every: int = 5
    """Steps between log entries."""
    seed: int = 0
    """Of weights, data order and noise."""

    vae: str = ""
    """VAE that decodes what this model generates; must be the one that encoded the tables."""
    text_encoder: str = ""
    """Text encoder for prompts; must be the one that encoded the tables."""
    parent_run: str | None = None
    """MLflow run that this one belongs to."""

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "global_batch",
            "global_batch_video",
            "workers",
            "accumulate",
            "checkpoint_every",
            "log_every",
            "ema_every",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        parts = self.workers * self.accumulate
        for name in ("global_batch", "global_batch_video"):
            if getattr(self, name) % parts:
                raise ValueError(f"{name}={getattr(self, name)} must be a multiple of workers x accumulate = {parts}")
        if self.images_first < 0:
            raise ValueError(f"images_first={self.images_first}: must be at least 0")
        self._check_names()
        if self.schedule not in ("flow", "ddpm"):
            raise ValueError(f"schedule={self.schedule!r}: choose flow or ddpm")
        if self.optimizer not in ("adamw", "muon"):
            raise ValueError(f"optimizer={self.optimizer!r}: choose adamw or muon")
        if not 0 <= self.cooldown <= 1:
            raise ValueError(f"cooldown={self.cooldown}: a share of the steps, 0 to 1")
        if self.precision not in ("auto", "bf16", "fp32"):
            raise ValueError(f"precision={self.precision!r}: choose auto, bf16 or fp32")

    def _check_names(self) -> None:
        from nova_model.config import ABLATIONS, PARTS

        for name, known in (("ablate", tuple(ABLATIONS)), ("checkpointing", PARTS)):
            wrong = [each for each in getattr(self, name) if each not in known]
            if wrong:
                raise ValueError(f"{name}={wrong[0]!r}: choose from {', '.join(known)}")

    def batch_size(self, bucket: Bucket) -> int:
        """Examples per step over all workers, for a bucket."""
        return self.global_batch if bucket.frames == 1 else self.global_batch_video


def run(config: TrainConfig) -> int:
    """Trains, or goes on training; 0 on success."""
    train(config)
    return 0


def train(config: TrainConfig) -> Path:
    """Trains under an MLflow run and returns the folder of the finished model.

    Raises:
        ValueError: missing or empty tables, examples that the model cannot take, a run folder of another run, a full
            disk.
    """
    import ray.train
    from ray.train.torch import TorchTrainer

    from jobs import settings
    from jobs.curate import beside
    from jobs.runtime import tracking
    from jobs.runtime.cluster import connect
    from jobs.train import progress as train_progress
    from jobs.train.worker import stopped_note, train_worker
    from pipelines.report.page import write_report
    from pipelines.report.training import training_section

    root, version = _data(config)
    folder = Path(config.run).expanduser().absolute()
    plan = check(config, root, version)
    _claim(folder, config, root, version)
    flat = settings.flatten(config) | {"tables": root, "version": version}
    with tracking.start(
        "train", config=flat, beside=beside(str(folder)), parent=config.parent_run, resume=folder / "mlflow.json"
    ) as tracked:
        tracked.log_dataset(root, version, "training")
        print(f"training on {sum(plan.examples.values())} examples of {root} at version {version}", flush=True)
        connect(config.address)
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={
                "config": config, "tables": root, "version": version, "run": str(folder), "tracking": tracked.handle(),
                "model_sources": model_hub.registered(),
            },
            scaling_config=ray.train.ScalingConfig(
                num_workers=config.workers,
                use_gpu=config.gpus_per_worker > 0,
                resources_per_worker=_resources(config),
            ),
            run_config=ray.train.RunConfig(
                storage_path=str(folder),
                name="checkpoints",
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=config.keep_checkpoints),
                failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
            ),
        )  # fmt: skip
        note = stopped_note(folder)
        note.unlink(missing_ok=True)
        try:
            with train_progress.show(folder / "metrics.jsonl", config.steps):
                trainer.fit()
            if steps_done(config.run) < config.steps:
                raise ValueError(note.read_text() if note.exists() else full_disk(folder))
        except Exception as error:
            raise _explained(error, folder) from error
        tracked.log_artifact(folder / "model" / "transformer" / "config.json", "model")
        section = training_section(folder)
        if section is not None:
            tracked.log_artifact(write_report(folder / "report.html", title="Training", sections=[section]))
    print(f"model: {folder / 'model'}", f"report: {folder / 'report.html'}", sep="\n")
    return folder / "model"


def steps_done(run: str) -> int:
    """Steps up to the newest checkpoint of a run, 0 where there is none."""
    checkpoints = sorted((Path(run).expanduser() / "checkpoints").glob("step-*"))
    return int(checkpoints[-1].name.removeprefix("step-")) if checkpoints else 0


def _data(config: TrainConfig) -> tuple[str, int]:
    """Address and version of the data: the version asked for, else the run's own, else the newest."""
    from pipelines.store.tables import Tables, split_version

    if not config.tables:
        raise ValueError("--tables is missing; give the folder that `nova curate` wrote")
    if not config.run:
        raise ValueError("--run is missing; give a folder for checkpoints and metrics")
    address, version = split_version(config.tables)
    tables = Tables(address)
    newest = tables.version("examples")
    started = _read_json(Path(config.run).expanduser() / "run.json")
    if version is None and started.get("tables") == tables.root:
        version = started["version"]
        if version != newest:
            print(f"going on with version {version}; the newest is {newest}, take it with --tables {address}@{newest}")
    return tables.root, newest if version is None else version


def check(config: TrainConfig, root: str, version: int) -> BatchPlan:
    """Checks, before anything heavy, that the model can be trained on the version; returns the plan of its batches.

    Raises:
        ValueError: no such version, no examples, or examples of other shapes than the model takes.
    """
    import pyarrow.dataset as ds

    from pipelines.dataloading.dataloader import load_plan
    from pipelines.store.tables import Tables

    plan = load_plan(root, version, config.batch_size, config.seed, config.images_first)
    model = model_config(config)
    columns = ["bucket", "moments_shape", "short_text_shape", "latents_by", "text_by"]
    fingerprints: set[tuple[str, str]] = set()
    for bucket in plan.examples:
        where = ds.field("bucket") == str(bucket)
        found = Tables(root).dataset("examples", version).head(1, columns=columns, filter=where).to_pylist()[0]
        _check_bucket(model, config.preset, found)
        fingerprints.add((found["latents_by"], found["text_by"]))
    if len(fingerprints) > 1:
        raise ValueError(
            f"{root}@{version} mixes encoders {sorted(fingerprints)}; run `nova curate` again to finish it"
        )
    return plan


def model_config(config: TrainConfig) -> NovaConfig:
    """The architecture that the preset names, without what is ablated.

    Raises:
        ValueError: no such preset; the nearest is named.
    """
    from jobs.settings import nearest
    from nova_model.config import ABLATIONS, PRESETS

    if config.preset not in PRESETS:
        raise ValueError(f"unknown preset {config.preset!r}{nearest(config.preset, PRESETS)}")
    changes = {key: value for name in config.ablate for key, value in ABLATIONS[name].items()}
    return replace(PRESETS[config.preset], **changes)


def _check_bucket(model: NovaConfig, preset: str, example: dict[str, Any]) -> None:
    channels, frames, height, width = example["moments_shape"]
    bucket, patch = example["bucket"], 2 * model.patch_size
    if channels != 2 * model.image_dim:
        raise ValueError(
            f"bucket {bucket} holds latents of {channels // 2} channels, preset {preset} takes {model.image_dim}; "
            "choose the preset of the VAE that encoded the tables"
        )
    if height % patch or width % patch:
        raise ValueError(
            f"bucket {bucket} has latents of {height}x{width}, which patches of {patch} do not divide; "
            "curate with other latents.sizes"
        )
    if frames > 1 and not model.makes_videos:
        raise ValueError(f"bucket {bucket} holds videos, preset {preset} is for images; choose a video preset")
    dim = example["short_text_shape"][1]
    if dim != model.text_token_dim:
        raise ValueError(
            f"text features of {dim} values, preset {preset} takes {model.text_token_dim}; "
            "choose the preset of the text encoder that encoded the tables"
        )


def _claim(folder: Path, config: TrainConfig, root: str, version: int) -> None:
    """Makes the run folder ours and remembers what the run is."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--run {folder} is a file; give a folder")
    started = _read_json(folder / "run.json")
    others = [path.name for path in folder.glob("*") if not path.name.startswith(".") and path.name not in OURS]
    if not started and others:
        raise ValueError(f"--run {folder} holds other files ({others[0]}); give an empty or new folder")
    settings = json.loads(json.dumps(asdict(config)))  # as the file has them
    older = {"ablate": [], "optimizer": "adamw"}  # of runs from before there was a choice
    for key in ("preset", "ablate", "schedule", "shift", "seed", "optimizer"):
        before = started["config"].get(key, older.get(key)) if started else settings[key]
        if before != settings[key]:
            raise ValueError(f"--run {folder} was started with {key}={before}, not {settings[key]}; give another --run")
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / ".run.json"
    partial.write_text(json.dumps({"tables": root, "version": version, "config": settings}, indent=1))
    partial.replace(folder / "run.json")


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def _resources(config: TrainConfig) -> dict[str, float]:
    gpus = {"GPU": config.gpus_per_worker} if config.gpus_per_worker else {}
    return {"CPU": config.cpus_per_worker, **gpus}


def _explained(error: Exception, folder: Path) -> Exception:
    """What the user can do about a failed run, where that is known; else the error itself."""
    if disk.is_full(error):
        return ValueError(full_disk(folder))
    for cause in disk.causes(error):
        if isinstance(cause, ValueError):
            return ValueError(str(cause).splitlines()[0])
    return error


def full_disk(folder: Path) -> str:
    """What to do about a disk that is full."""
    return f"the disk of {folder} is full; free some space and run the same command again"
