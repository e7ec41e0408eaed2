"""From a batch of examples to the arguments of the model's training step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipelines.core import model_hub

if TYPE_CHECKING:
    import torch

    from jobs.train.config import TrainingConfig
    from nova_model.model import Nova
    from nova_model.sampling.schedule import Schedule
    from pipelines.dataloading.dataloader import Batch

# nova_model's modules import torch, and stay inside the functions: the driver imports this file without torch.


class InputBuilder:
    """Draws what a step needs of a batch: latents from the stored moments, and one of each example's two captions.

    Args:
        config: config of the training; its VAE gives the latents' scale.
        model: model whose conditions are prepared.
        schedule: schedule of the noise.
        device: device of the tensors.

    Raises:
        ValueError: there is no such VAE.
    """

    def __init__(self, config: TrainingConfig, model: Nova, schedule: Schedule, device: torch.device) -> None:
        from nova_model.vae.codec import read_scaling

        self.config, self.model, self.schedule, self.device = config, model, schedule, device

        with model_hub.loading(config.vae):
            self.scaling, self.shift = read_scaling(model_hub.folder(config.vae))

    def __call__(self, batch: Batch, generator: torch.Generator) -> dict[str, Any]:
        """Arguments of `Nova.forward`; every draw comes from the generator."""
        import torch

        from nova_model.training.latents import sample_latents

        config = self.config
        # Drawn before the latents and for every example, whatever the captions: the order of draws belongs to the
        # result of a seed.
        draws = torch.rand(len(batch.ids), generator=generator, device=self.device).tolist()
        captions = zip(draws, batch.short_text, batch.long_text, strict=True)
        texts = [short if draw < config.data.short_captions else long for draw, short, long in captions]
        # Stored features have the encoder's length limit, which may exceed the model's.
        limit = self.model.config.text_token_len
        return {
            "latents": sample_latents(batch.moments.to(self.device), generator, self.scaling, self.shift),
            "text": self.model.pad_text([text[:limit].to(self.device) for text in texts]),
            "motion": batch.motion.to(self.device),
            "fps": batch.fps.to(self.device),
            "schedule": self.schedule,
            "generator": generator,
            "loss_repeat": config.noise.repeat,
            "text_dropout": config.data.text_dropout,
            "ratios": config.masks,
        }
