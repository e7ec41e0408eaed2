"""What one training process does. `jobs/train/job.py` starts it through Ray Train.

All draws of a step (captions, masks, noise) come from one generator that is seeded with (seed, step, rank), and every
batch from a plan that is a function of (seed, position). A run that was killed and resumes from its checkpoint
therefore computes what it would have computed without the interruption.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jobs.runtime.disk import is_full
from jobs.train.config import TrainConfig
from jobs.train.inputs import InputBuilder
from jobs.train.log import TrainLog
from jobs.train.state import Progress, TrainState
from pipelines.core import model_hub
from pipelines.dataloading.dataloader import Prefetcher, Reader, load_plan
from pipelines.store.texts import first_line

if TYPE_CHECKING:
    import torch
    from ray.train import Checkpoint

    from jobs.runtime.tracking import Handle
    from nova_model.model import Nova
    from pipelines.core.model_hub import ModelSource
    from pipelines.dataloading.dataloader import Batch

# Imports of torch, Ray and the model stay inside functions: this module is imported by the driver too, whose start-up
# they would slow down by seconds.


@dataclass(frozen=True, kw_only=True)
class WorkerArguments:
    """What Ray Train hands to each worker."""

    config: TrainConfig
    tables: str
    version: int
    run: str
    tracking: Handle
    model_sources: tuple[ModelSource, ...]


def train_worker(arguments: dict[str, WorkerArguments]) -> None:
    """The training function of one worker, called by Ray Train.

    Ray replaces a worker that fails and starts it again, which does not help against a full disk or a user's mistake:
    a single worker then writes the reason to RUN/.stopped, if the disk lets it, and ends. One of several workers raises
    instead, so that Ray ends the others too rather than leaving them waiting for it.

    Args:
        arguments: WorkerArguments under the key `arguments`, as Ray Train passes only dictionaries.
    """
    import ray.train

    worker = arguments["arguments"]
    try:
        _train(worker)
    except Exception as error:
        if ray.train.get_context().get_world_size() > 1 or not (is_full(error) or isinstance(error, ValueError)):
            raise
        if isinstance(error, ValueError):
            stop_note(Path(worker.run)).write_text(first_line(error))


def stop_note(run: Path) -> Path:
    """The file with the error of a worker that failed; missing if the disk was full."""
    return run / ".stopped"


def _train(arguments: WorkerArguments) -> None:
    import ray.train
    import torch
    from ray.train.torch import get_device, prepare_model

    config, run = arguments.config, Path(arguments.run)
    # A worker is a fresh process: prefixes such as zoo/ are known where they were registered, which is the driver.
    model_hub.register(*arguments.model_sources)
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = get_device()
    # torch starts a thread for each core of the machine; workers that share it would slow each other down.
    if device.type == "cpu":
        torch.set_num_threads(max(1, int(config.parallel.cpus_per_worker)))
    # cuDNN's attention plans each new shape anew, and the number of masked tokens gives many shapes.
    torch.backends.cuda.enable_cudnn_sdp(False)

    state = initial_state(config, arguments.tables, device)
    progress = _restored(state, ray.train.get_checkpoint(), arguments.version)
    # Images use neither the mixer nor the networks' inputs for later frames, so DDP must expect missing gradients.
    ddp_options = {"find_unused_parameters": True} if world > 1 else None
    trainer = Trainer(state, prepare_model(state.model, parallel_strategy_kwargs=ddp_options), rank, world, device)

    # `images_first` counts steps of the run, and the plan counts batches of one version: after a change of versions,
    # only what is left of the images-only phase is planned.
    images_first = max(0, config.data.images_first - progress.earlier_steps)
    plan = load_plan(arguments.tables, arguments.version, config.data.batch_size, config.seed, images_first)
    reader = Reader(plan)
    log = TrainLog(run / "metrics.jsonl", arguments.tracking, progress.step) if rank == 0 else None
    # From the position in the checkpoint, not from 0: with the seeds of `step_seed` this is all it takes to resume
    # mid-epoch, as Ray Train saves no position in its data.
    batches = Prefetcher(lambda position: reader.read(position, rank, world), progress.position)
    try:
        while progress.step < config.steps:
            started = time.perf_counter()
            metrics = trainer.step(next(batches), progress.step)
            seconds = time.perf_counter() - started
            progress = replace(
                progress,
                step=progress.step + 1,
                position=progress.position + 1,
                device_hours=progress.device_hours + seconds * world / 3600,
            )
            is_last = progress.step == config.steps
            if log is not None:
                due = is_last or progress.step % config.log_every == 0
                log.add(metrics, seconds, batches.waited, progress, due=due)
            if is_last or progress.step % config.checkpoint.every == 0:
                _report_checkpoint(state, run, progress, rank)
    finally:
        batches.close()
        if log is not None:
            log.close()


def initial_state(config: TrainConfig, tables: str, device: torch.device) -> TrainState:
    """The state in which a run begins, which is the same on every worker.

    Args:
        config: config of the training.
        tables: address of the tables; written into checkpoints.
        device: device of the model.
    """
    import torch

    from nova_model.model import Nova
    from nova_model.sampling.schedule import schedule_from_config

    torch.manual_seed(config.seed)  # layers draw their initial weights from torch's global generator
    model = Nova(config.architecture(), config.checkpointing).to(device)
    return TrainState(config, model, schedule_from_config(config.noise.to_scheduler_config()), tables)


def _restored(state: TrainState, checkpoint: Checkpoint | None, version: int) -> Progress:
    """Progress after the newest checkpoint has been loaded, or at the start of a run."""
    if checkpoint is None:
        return Progress(version=version)
    with checkpoint.as_directory() as folder:
        return state.restore(Path(folder), version)


def _report_checkpoint(state: TrainState, run: Path, progress: Progress, rank: int) -> None:
    """Reports a checkpoint to Ray Train; every worker has to call it, the first one writes."""
    import ray.train

    name = f"step-{progress.step:08d}"
    if rank:
        ray.train.report({"step": progress.step}, checkpoint_dir_name=name)
        return
    # In the run's folder and not in /tmp, which is often smaller than the optimizer's state and on another disk.
    with tempfile.TemporaryDirectory(dir=run, prefix=".saving-") as folder:
        state.write(Path(folder), progress)
        checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report({"step": progress.step}, checkpoint=checkpoint, checkpoint_dir_name=name)
    if progress.step == state.config.steps:
        state.export(run, progress)


class Trainer:
    """Takes optimizer steps.

    Args:
        state: weights and optimizers to train.
        parallel_model: the same model, wrapped for data-parallel training where there are several workers.
        rank: rank of this worker.
        world: number of workers.
        device: device of the model.
    """

    def __init__(
        self, state: TrainState, parallel_model: torch.nn.Module, rank: int, world: int, device: torch.device
    ) -> None:
        import torch

        from nova_model.training.precision import multiplies_bf16

        self.state, self.parallel_model, self.device = state, parallel_model, device
        self.rank, self.world = rank, world
        self.config = state.config
        self.build_inputs = InputBuilder(state.config, state.model, state.schedule, device)
        precision = self.config.precision
        bf16 = precision == "bf16" or (precision == "auto" and multiplies_bf16(device))
        self.dtype = torch.bfloat16 if bf16 else torch.float32

    @property
    def model(self) -> Nova:
        return self.state.model

    def step(self, batch: Batch, step: int) -> dict[str, float]:
        """Takes one optimizer step and returns the metrics to log.

        Raises:
            RuntimeError: the loss is not finite.
        """
        import torch

        from nova_model.training.optimizers import set_learning_rates

        config, optimizers = self.config, self.state.optimizers
        generator = torch.Generator(self.device).manual_seed(step_seed(config.seed, step, self.rank))
        lr = set_learning_rates(optimizers, config.optimizer, step, config.steps)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        losses = self._accumulate_gradients(batch, generator)
        # Once over all microbatches: clipping each of them would change the gradient with `parallel.accumulate`.
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.optimizer.clip_norm)
        for optimizer in optimizers:
            optimizer.step()
        if (step + 1) % config.ema.every == 0:
            self.state.ema.update(self.model, config.ema.decay)
        if self.device.type == "cuda":
            torch.cuda.synchronize()  # so that the caller's clock covers the whole step
        # A loss that is not finite has spoilt the weights by now, but they are in no checkpoint: the newest one is from
        # before.
        loss = losses["loss"]
        if not math.isfinite(loss):
            raise RuntimeError(f"the loss is {loss} at step {step}; lower optimizer.lr, or check the data of this step")
        samples = len(batch.ids) * self.world
        _, _, frames, height, width = batch.moments.shape
        patch = self.model.config.patch_size
        return {
            **losses,
            "grad_norm": float(norm),
            "lr": lr,
            "samples": float(samples),
            "tokens": float(samples * frames * (height // patch) * (width // patch)),
        }

    def _accumulate_gradients(self, batch: Batch, generator: torch.Generator) -> dict[str, float]:
        """Computes the gradients of a batch, one microbatch after the other; returns the mean losses."""
        import torch

        count = self.config.parallel.accumulate
        means: dict[str, float] = {}
        for index in range(count):
            is_last = index == count - 1
            # DDP averages gradients over workers in the backward pass; once, with the last microbatch, is enough.
            no_sync = getattr(self.parallel_model, "no_sync", contextlib.nullcontext)
            with contextlib.nullcontext() if is_last else no_sync():
                with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                    losses = self.parallel_model(**self.build_inputs(batch.microbatch(index, count), generator))
                (losses.total / count).backward()
            # Metrics are read by the first worker only, so they are means over its own share of the batch.
            values = {"loss": losses.total, "loss_first_frame": losses.first_frame}
            if losses.later_frames is not None:
                values["loss_later_frames"] = losses.later_frames
            for name, value in values.items():
                means[name] = means.get(name, 0.0) + value.item() / count
        return means


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of all draws of a step on a worker."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> 1)
