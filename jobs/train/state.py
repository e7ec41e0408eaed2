"""The state of one training process, and the checkpoints that hold it.

A checkpoint folder contains

    transformer/, scheduler/, components.json    the averaged weights in the released layout: a model to generate from
    training/                                    everything that resuming needs: weights, average, optimizers, progress
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.core import model_hub
from pipelines.store.files import replacing_folder

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from jobs.train.config import TrainingConfig
    from nova_model.model import Nova
    from nova_model.sampling.schedule import Schedule
    from nova_model.training.ema import Ema

# nova_model's modules import torch, which takes seconds, and only workers train: they are imported in the functions.


@dataclass(frozen=True)
class Progress:
    """Progress of a run."""

    step: int = 0
    """Optimizer steps completed."""
    version: int = -1
    """Version of `examples` that is being read."""
    position: int = 0
    """Batches of that version that have been consumed."""
    device_hours: float = 0.0
    """Hours of training, times the number of workers."""

    @property
    def earlier_steps(self) -> int:
        """Steps that were taken on earlier versions."""
        return self.step - self.position


class TrainState:
    """Weights, their moving average, and the optimizers.

    Args:
        config: config of the training.
        model: model with initialised weights.
        schedule: schedule of the noise; written beside the weights.
        tables: address of the tables; written into checkpoints.
    """

    def __init__(self, config: TrainingConfig, model: Nova, schedule: Schedule, tables: str) -> None:
        from nova_model.training.ema import Ema
        from nova_model.training.optimizers import build_optimizers

        self.config, self.model, self.schedule, self.tables = config, model, schedule, tables
        # Before the average is taken, which starts as a copy of the weights.
        if config.init_from:
            copy_weights(config.init_from, model)
        for name, parameter in model.named_parameters():
            # Frozen parameters also leave the optimizers, which skip what requires no gradient; so freeze first.
            parameter.requires_grad_(not name.startswith(config.freeze) if config.freeze else True)
        self.optimizers: list[torch.optim.Optimizer] = build_optimizers(config.optimizer, model)
        self.ema: Ema = Ema(model)

    def write(self, folder: Path, progress: Progress) -> None:
        """Writes a checkpoint into an empty folder."""
        import torch
        from safetensors.torch import save_file

        from nova_model.training.optimizers import rate_factor

        self.write_model(folder, progress)
        training = folder / "training"
        training.mkdir()
        save_file(_contiguous(self.model.state_dict()), training / "model.safetensors")
        save_file(_contiguous(self.ema.weights), training / "ema.safetensors")
        # Optimizer states are nested and hold numbers, which safetensors cannot store. They are loaded with
        # weights_only, so that a foreign checkpoint runs no code.
        torch.save([optimizer.state_dict() for optimizer in self.optimizers], training / "optimizer.pt")
        torch.save({"torch": torch.get_rng_state()}, training / "random.pt")
        config = self.config
        lr = config.optimizer.lr * rate_factor(config.optimizer, progress.step, config.steps)
        (training / "progress.json").write_text(json.dumps({**asdict(progress), "lr": lr, "seed": config.seed}))

    def write_model(self, folder: Path, progress: Progress) -> None:
        """Writes the averaged weights in the released layout, with the components that belong to them."""
        import torch

        from nova_model.checkpoints.weights import fill, save_schedule, save_transformer
        from nova_model.model import Nova

        with torch.device("meta"):  # the weights are replaced at once, so none are allocated or initialised
            averaged = Nova(self.config.architecture())
        fill(averaged, {name: value.cpu() for name, value in self.ema.weights.items()}, torch.float32)
        save_transformer(averaged, folder / "transformer")
        save_schedule(self.schedule, folder / "scheduler")
        components = {
            "vae": self.config.vae,
            "text_encoder": self.config.text_encoder,
            "tables": self.tables,
            "version": progress.version,
            "step": progress.step,
            "preset": self.config.preset,
        }
        (folder / "components.json").write_text(json.dumps(components, indent=1))

    def export(self, run: Path, progress: Progress) -> None:
        """Puts the finished model at RUN/model."""
        with replacing_folder(run / "model") as folder:
            self.write_model(folder, progress)

    def restore(self, folder: Path, version: int) -> Progress:
        """Loads a checkpoint.

        Args:
            folder: folder of the checkpoint.
            version: version of the examples to read now; if the checkpoint was written on another version, reading
                starts at the first batch.
        """
        import torch
        from safetensors.torch import load_file

        training = folder / "training"
        # Strict, as by default: a checkpoint of another architecture must fail here, and not continue on half of the
        # weights.
        self.model.load_state_dict(load_file(training / "model.safetensors"))
        self.ema.weights = load_file(training / "ema.safetensors", device=str(self.model.device))
        states = torch.load(training / "optimizer.pt", map_location=self.model.device, weights_only=True)
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)
        torch.set_rng_state(torch.load(training / "random.pt", weights_only=True)["torch"])
        stored = json.loads((training / "progress.json").read_text())
        progress = Progress(**{key: stored[key] for key in asdict(Progress())})
        return progress if progress.version == version else replace(progress, version=version, position=0)


def copy_weights(source: str, model: Nova) -> None:
    """Copies every weight of another checkpoint that the model has too; the model's other weights stay as they are.

    Raises:
        ValueError: a weight has another shape.
    """
    from nova_model.checkpoints.weights import load_transformer

    folder = model_hub.folder(source)
    folder = folder / "transformer" if (folder / "transformer").is_dir() else folder
    source_weights = load_transformer(folder).state_dict()
    weights = model.state_dict()
    misfits = [name for name, value in source_weights.items() if name in weights and value.shape != weights[name].shape]
    if misfits:
        shapes = f"{tuple(source_weights[misfits[0]].shape)} there, {tuple(weights[misfits[0]].shape)} here"
        raise ValueError(f"init_from {source}: {misfits[0]} is {shapes}; choose a checkpoint of the same preset family")
    model.load_state_dict({**weights, **{name: value for name, value in source_weights.items() if name in weights}})


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # safetensors refuses tensors that are not contiguous, such as weights in channels_last.
    return {name: value.detach().contiguous() for name, value in tensors.items()}
