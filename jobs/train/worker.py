"""What one training process does: the loop and its checkpoints. `jobs/train/job.py` starts it.

Every draw of a step (captions, masks, noise) comes from one generator that is seeded with (seed, step, rank), and
every batch from a plan that is a function of (seed, position). A run that was killed and goes on from its checkpoint
therefore computes what it would have computed without the interruption.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core import model_hub

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from jobs.train.job import TrainConfig
    from nova_model.model import Nova
    from pipelines.dataloading.dataloader import Batch


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    step: int = 0
    """Optimizer steps that are done."""
    version: int = -1
    """Version of `examples` that is being read."""
    position: int = 0
    """Batches of that version that have been taken."""
    device_hours: float = 0.0
    """Hours of training times number of workers."""

    @property
    def before(self) -> int:
        """Steps that were done on earlier versions."""
        return self.step - self.position


def rate_factor(config: TrainConfig, step: int) -> float:
    """What learning rates are multiplied by: linear warm-up, then constant, then a linear cool-down to zero.

    Args:
        config: warmup_steps, cooldown and steps.
        step: steps done before this one.
    """
    warm = (step + 1) / max(1, config.warmup_steps)
    cooling = max(1.0, config.cooldown * config.steps)
    return max(0.0, min(1.0, warm, (config.steps - step) / cooling))


def learning_rate(config: TrainConfig, step: int) -> float:
    """AdamW's, for a step that has `step` ones before it."""
    return config.lr * rate_factor(config, step)


def optimizers(config: TrainConfig, model: Nova) -> list[torch.optim.Optimizer]:
    """AdamW alone, or AdamW and Muon, which takes the matrices inside the blocks of all three networks.

    Muon's steps are scaled to the size that AdamW's have. Embeddings, heads, norms and biases stay with AdamW.
    """
    import torch

    from nova_model.training.muon import Muon

    trained = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
    inside = [each for name, each in trained if config.optimizer == "muon" and ".blocks." in name and each.ndim == 2]
    theirs = set(map(id, inside))
    rest = [each for _, each in trained if id(each) not in theirs]
    groups = [
        {"params": [each for each in rest if each.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [each for each in rest if each.ndim <= 1], "weight_decay": 0.0},
    ]
    found: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)]
    if inside:
        muon = Muon(inside, lr=config.muon_lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw")
        found.append(muon)
    return found


class Ema:
    """Moving average of weights in fp32 (the released recipe updates it every 100 steps)."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.weights = {name: value.detach().float().clone() for name, value in model.state_dict().items()}

    def update(self, model: torch.nn.Module, decay: float) -> None:
        """average = decay * average + (1 - decay) * weights."""
        for name, value in model.state_dict().items():
            self.weights[name].lerp_(value.detach().float(), 1 - decay)


def train_worker(given: dict[str, Any]) -> None:
    """The train loop of one worker, run by Ray Train.

    Ray replaces a worker that fails and starts it again, which is no help against a full disk or a mistake of the
    user: a worker on its own then leaves word in RUN/.stopped, where the disk lets it, and ends. (One of several lets
    Ray try, so that none of the others waits for it.)

    Args:
        given: config (TrainConfig), tables, version, run (folder), tracking (handle of the MLflow run).
    """
    import ray.train

    from jobs.runtime.disk import is_full

    try:
        _train_loop(given)
    except Exception as error:
        if ray.train.get_context().get_world_size() > 1 or not (is_full(error) or isinstance(error, ValueError)):
            raise
        if isinstance(error, ValueError):
            stopped_note(Path(given["run"])).write_text(str(error).splitlines()[0])


def stopped_note(run: Path) -> Path:
    """The file that says why a worker gave up; a full disk leaves none."""
    return run / ".stopped"


def _train_loop(given: dict[str, Any]) -> None:
    import ray.train
    import torch
    from ray.train.torch import get_device, prepare_model

    from jobs.train.job import model_config
    from jobs.train.log import Log
    from nova_model.model import Nova
    from pipelines.dataloading.dataloader import Prefetcher, Reader, load_plan

    model_hub.register(*given["model_sources"])
    config: TrainConfig = given["config"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    worker = Worker(config, given["tables"], Path(given["run"]), rank, world, get_device())
    torch.manual_seed(config.seed)  # layers draw their first weights from torch's own generator
    model = Nova(model_config(config), config.checkpointing).to(worker.device)
    worker.prepare(model)
    progress = worker.restore(ray.train.get_checkpoint(), given["version"])
    parallel = {"find_unused_parameters": True}  # images use neither the mixer nor later frames
    trained = prepare_model(model, parallel_strategy_kwargs=parallel if world > 1 else None)

    images_first = max(0, config.images_first - progress.before)
    plan = load_plan(given["tables"], given["version"], config.batch_size, config.seed, images_first)
    reader = Reader(plan)
    log = Log(Path(given["run"]) / "metrics.jsonl", given["tracking"], progress.step) if rank == 0 else None
    batches = Prefetcher(lambda position: reader.read(position, rank, world), progress.position)
    try:
        while progress.step < config.steps:
            began = time.perf_counter()
            metrics = worker.step(trained, next(batches), progress.step)
            seconds = time.perf_counter() - began
            progress = replace(
                progress,
                step=progress.step + 1,
                position=progress.position + 1,
                device_hours=progress.device_hours + seconds * world / 3600,
            )
            if log is not None:
                due = progress.step % config.log_every == 0 or progress.step == config.steps
                log.add(metrics, seconds, batches.waited, progress, due=due)
            if progress.step % config.checkpoint_every == 0 or progress.step == config.steps:
                worker.save(progress)
    finally:
        batches.close()
        if log is not None:
            log.close()


class Worker:
    """The state of one training process: weights, their average, optimizer."""

    model: Nova
    ema: Ema
    optimizers: list[torch.optim.Optimizer]

    def __init__(
        self, config: TrainConfig, tables: str, run: Path, rank: int, world: int, device: torch.device
    ) -> None:
        import torch

        from nova_model.sampling.schedule import schedule_from_config
        from nova_model.training.precision import multiplies_bf16
        from nova_model.vae.codec import read_scaling

        self.config, self.tables, self.run, self.rank, self.world, self.device = (
            config,
            tables,
            run,
            rank,
            world,
            device,
        )
        self.schedule = schedule_from_config(scheduler_config(config))
        with model_hub.loading(config.vae):
            self.scaling, self.shift = read_scaling(model_hub.folder(config.vae))
        bf16 = config.precision == "bf16" or (config.precision == "auto" and multiplies_bf16(device))
        self.dtype = torch.bfloat16 if bf16 else torch.float32
        torch.backends.cuda.enable_cudnn_sdp(False)  # it plans each new shape anew, and masks give many
        if device.type == "cpu":
            torch.set_num_threads(max(1, int(config.cpus_per_worker)))

    def prepare(self, model: Nova) -> None:
        """Initialises weights from the seed (or another checkpoint), and the optimizers."""
        self.model = model
        if self.config.init_from:
            copy_weights(self.config.init_from, model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.startswith(self.config.freeze) if self.config.freeze else True)
        self.optimizers = optimizers(self.config, model)
        self.ema = Ema(model)

    def step(self, trained: torch.nn.Module, batch: Batch, step: int) -> dict[str, float]:
        """One optimizer step; returns what is worth logging."""
        import torch

        generator = torch.Generator(self.device).manual_seed(step_seed(self.config.seed, step, self.rank))
        factor = rate_factor(self.config, step)
        for optimizer, rate in zip(self.optimizers, (self.config.lr, self.config.muon_lr), strict=False):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.zero_grad(set_to_none=True)
        losses = self._backward(trained, batch, generator)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        if (step + 1) % self.config.ema_every == 0:
            self.ema.update(self.model, self.config.ema_decay)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        loss = losses["loss"]
        if not math.isfinite(loss):
            raise RuntimeError(f"the loss is {loss} at step {step}; lower lr or look at the data of this step")
        frames, tokens = _sizes(batch, self.model.config.patch_size)
        return {
            **losses,
            "grad_norm": float(norm),
            "lr": self.config.lr * factor,
            "samples": float(len(batch.ids) * self.world),
            "tokens": float(len(batch.ids) * self.world * frames * tokens),
        }

    def _backward(self, trained: torch.nn.Module, batch: Batch, generator: torch.Generator) -> dict[str, float]:
        """Gradients of the batch, part by part; returns the mean losses."""
        import torch

        count = self.config.accumulate
        found: dict[str, float] = {}
        for index in range(count):
            last = index == count - 1
            unsynced = getattr(trained, "no_sync", contextlib.nullcontext)  # DDP averages once, behind the last part
            with contextlib.nullcontext() if last else unsynced():
                with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                    losses = trained(**self.inputs(batch.microbatch(index, count), generator))
                (losses.total / count).backward()
            named = {"loss": losses.total, "loss_first_frame": losses.first_frame}
            if losses.later_frames is not None:
                named["loss_later_frames"] = losses.later_frames
            for name, value in named.items():
                found[name] = found.get(name, 0.0) + value.item() / count
        return found

    def inputs(self, batch: Batch, generator: torch.Generator) -> dict[str, Any]:
        """Arguments of `Nova.forward`: sampled latents, one caption an example, and what conditions them."""
        import torch

        draws = torch.rand(len(batch.ids), generator=generator, device=self.device).tolist()
        pairs = zip(draws, batch.short_text, batch.long_text, strict=True)
        texts = [short if draw < self.config.short_captions else long for draw, short, long in pairs]
        limit = self.model.config.text_token_len
        return {
            "latents": sample_moments(batch.moments.to(self.device), generator, self.scaling, self.shift),
            "text": self.model.pad_text([text[:limit].to(self.device) for text in texts]),
            "motion": batch.motion.to(self.device),
            "fps": batch.fps.to(self.device),
            "schedule": self.schedule,
            "generator": generator,
            "loss_repeat": self.config.loss_repeat,
            "text_dropout": self.config.text_dropout,
            "ratios": self.config.masks,
        }

    def save(self, progress: Progress) -> None:
        """Reports a checkpoint to Ray Train; every worker calls it, the first one writes."""
        import ray.train

        name = f"step-{progress.step:08d}"
        if self.rank:
            ray.train.report({"step": progress.step}, checkpoint_dir_name=name)
            return
        with tempfile.TemporaryDirectory(dir=self.run, prefix=".saving-") as folder:
            self.write(Path(folder), progress)
            checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({"step": progress.step}, checkpoint=checkpoint, checkpoint_dir_name=name)
        if progress.step == self.config.steps:
            self.export(progress)

    def write(self, folder: Path, progress: Progress) -> None:
        """A checkpoint: `transformer/` (averaged weights, released layout), `training/` (all that resuming needs)."""
        import torch
        from safetensors.torch import save_file

        self._write_model(folder, progress)
        training = folder / "training"
        training.mkdir()
        save_file(_contiguous(self.model.state_dict()), training / "model.safetensors")
        save_file(_contiguous(self.ema.weights), training / "ema.safetensors")
        torch.save([each.state_dict() for each in self.optimizers], training / "optimizer.pt")
        torch.save({"torch": torch.get_rng_state()}, training / "random.pt")
        lr = learning_rate(self.config, progress.step)
        (training / "progress.json").write_text(json.dumps({**asdict(progress), "lr": lr, "seed": self.config.seed}))

    def _write_model(self, folder: Path, progress: Progress) -> None:
        import torch

        from jobs.train.job import model_config
        from nova_model.checkpoints.weights import fill, save_schedule, save_transformer
        from nova_model.model import Nova

        with torch.device("meta"):  # no weights are drawn where others take their place
            averaged = Nova(model_config(self.config))
        fill(averaged, {name: value.cpu() for name, value in self.ema.weights.items()}, torch.float32)
        save_transformer(averaged, folder / "transformer")
        save_schedule(self.schedule, folder / "scheduler")
        parts = {
            "vae": self.config.vae,
            "text_encoder": self.config.text_encoder,
            "tables": self.tables,
            "version": progress.version,
            "step": progress.step,
            "preset": self.config.preset,
        }
        (folder / "components.json").write_text(json.dumps(parts, indent=1))

    def export(self, progress: Progress) -> None:
        """Puts the finished model at RUN/model, in one move."""
        partial, final = self.run / ".model", self.run / "model"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        self._write_model(partial, progress)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)

    def restore(self, checkpoint: Any, version: int) -> Progress:
        """Loads the newest checkpoint, where there is one.

        Args:
            checkpoint: from Ray Train, None at the start of a run.
            version: of the examples to read now; another one than the checkpoint's starts at its first batch.
        """
        import torch
        from safetensors.torch import load_file

        if checkpoint is None:
            return Progress(version=version)
        with checkpoint.as_directory() as folder:
            training = Path(folder) / "training"
            self.model.load_state_dict(load_file(training / "model.safetensors"))
            self.ema.weights = load_file(training / "ema.safetensors", device=str(self.device))
            states = torch.load(training / "optimizer.pt", map_location=self.device, weights_only=True)
            for optimizer, state in zip(self.optimizers, states, strict=True):
                optimizer.load_state_dict(state)
            torch.set_rng_state(torch.load(training / "random.pt", weights_only=True)["torch"])
            stored = json.loads((training / "progress.json").read_text())
        progress = Progress(**{key: stored[key] for key in asdict(Progress())})
        return progress if progress.version == version else replace(progress, version=version, position=0)


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of all draws of a step on a worker."""
    import numpy as np

    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> 1)


def sample_moments(moments: Tensor, generator: torch.Generator, scaling: float, shift: float) -> Tensor:
    """Latents drawn from stored moments (spec section 4, step 1).

    Args:
        moments: [B, 2C, T, H, W] mean and log-variance, clamped to [-30, 20].
        generator: of the draw.
        scaling: factor of the VAE.
        shift: of the VAE.

    Returns:
        [B, C, T, H, W].
    """
    import torch

    mean, log_variance = moments.chunk(2, dim=1)
    noise = torch.randn(mean.shape, generator=generator, device=mean.device)
    return (mean + (0.5 * log_variance.clamp(-30, 20)).exp() * noise - shift) * scaling


def scheduler_config(config: TrainConfig) -> dict[str, Any]:
    """The noise schedule as diffusers' scheduler_config.json has it."""
    if config.schedule == "flow":
        return {
            "_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": config.shift,
        }  # fmt: skip
    return {
        "_class_name": "DDPMScheduler", "num_train_timesteps": 1000, "beta_schedule": "scaled_linear",
        "beta_start": 0.00085, "beta_end": 0.012, "prediction_type": "epsilon", "clip_sample": False,
        "timestep_spacing": "leading", "variance_type": "fixed_small",
    }  # fmt: skip


def copy_weights(source: str, model: Nova) -> None:
    """Takes every weight of another checkpoint that fits; parts that it lacks stay as they are.

    Raises:
        ValueError: the checkpoint is of another width.
    """
    from nova_model.checkpoints.weights import load_transformer
    from pipelines.core.model_hub import folder as folder_of

    folder = folder_of(source)
    folder = folder / "transformer" if (folder / "transformer").is_dir() else folder
    theirs = load_transformer(folder).state_dict()
    mine = model.state_dict()
    wrong = [name for name, value in theirs.items() if name in mine and value.shape != mine[name].shape]
    if wrong:
        shapes = f"{tuple(theirs[wrong[0]].shape)} there, {tuple(mine[wrong[0]].shape)} here"
        raise ValueError(f"init_from {source}: {wrong[0]} is {shapes}; choose a checkpoint of the same preset family")
    model.load_state_dict({**mine, **{name: value for name, value in theirs.items() if name in mine}})


def _sizes(batch: Batch, patch: int) -> tuple[int, int]:
    _, _, frames, height, width = batch.moments.shape
    return frames, (height // patch) * (width // patch)


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().contiguous() for name, value in tensors.items()}
