"""NovaPipeline: the model as a diffusers pipeline, for pictures and videos from text, pictures and videos.

    pipe = NovaPipeline.from_pretrained("BAAI/nova-d48w1024-sd512", torch_dtype=torch.bfloat16).to("cuda")
    pipe("a red ball on grass", generator=torch.Generator().manual_seed(0)).images[0].save("ball.png")

What a call takes is explained in `inputs.Inputs`. A generator on the CPU gives the released model's noise.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from nova_model import masking
from nova_model.config import SamplingConfig
from nova_model.diffusers.components import NovaParts, bring, sampling_schedule
from nova_model.diffusers.inputs import Inputs, Plan, plan
from nova_model.diffusers.outputs import NovaPipelineOutput, joined, pictures, shown
from nova_model.diffusers.text_encoder import encode
from nova_model.sampling.frame import Change
from nova_model.sampling.schedule import FlowMatching, Schedule
from nova_model.sampling.video import Request, SetStep, generate_frames
from nova_model.vae.codec import Codec

FLOW_STEPS, DDPM_STEPS = 25, 100
"""Denoising steps of a token where a call names none."""


class NovaPipeline(NovaParts):
    """Text-to-image, text-to-video, image-to-video, video-to-video and extrapolation."""

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        negative_prompt: str | Sequence[str] | None = None,
        image: Any = None,
        video: Any = None,
        given_latents: Tensor | None = None,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 64,
        num_diffusion_steps: int | None = None,
        guidance_scale: float = Inputs.guidance_scale,
        min_guidance_scale: float | None = None,
        guidance_trunc: float = Inputs.guidance_trunc,
        guidance_renorm: float = Inputs.guidance_renorm,
        image_guidance_scale: float | None = None,
        negative_motion: float | None = None,
        temperature: float = Inputs.temperature,
        corrections: int = 0,
        shift: float | None = None,
        motion_score: float | Sequence[float] = Inputs.motion_score,
        fps: float | Sequence[float] = Inputs.fps,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        prompt_embeds: Tensor | Sequence[Tensor] | None = None,
        negative_prompt_embeds: Tensor | Sequence[Tensor] | None = None,
        class_labels: int | Sequence[int] | Tensor | None = None,
        window: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any] | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = Inputs.callback_on_step_end_tensor_inputs,
    ) -> NovaPipelineOutput | tuple[Any, ...]:
        """Generates; `Inputs` explains every option.

        Returns:
            `images` where one frame was asked for, else `frames`; a tuple of it without `return_dict`. What an
            interrupted call had not made is zeros.

        Raises:
            ValueError: options that do not go together or that the model cannot take, before any heavy work.
        """
        inputs = Inputs(
            prompt=prompt, negative_prompt=negative_prompt, image=image, video=video, given_latents=given_latents,
            num_frames=num_frames, height=height, width=width, num_inference_steps=num_inference_steps,
            num_diffusion_steps=num_diffusion_steps, guidance_scale=guidance_scale,
            min_guidance_scale=min_guidance_scale, guidance_trunc=guidance_trunc, guidance_renorm=guidance_renorm,
            image_guidance_scale=image_guidance_scale, negative_motion=negative_motion, temperature=temperature,
            corrections=corrections, shift=shift, motion_score=motion_score, fps=fps,
            num_images_per_prompt=num_images_per_prompt, generator=generator, prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds, class_labels=class_labels, window=window,
            output_type=output_type, callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
        )  # fmt: skip
        planned = self._plan(inputs)
        made = list(self._latents(inputs, planned))
        made += [torch.zeros_like(made[0])] * (planned.latent_frames - len(made))
        chunks = [self._shown(made[start:stop], start, inputs) for start, stop in self._tiles(inputs, len(made))]
        self.maybe_free_model_hooks()
        videos = joined(chunks, output_type)
        if planned.frames > 1:
            output = NovaPipelineOutput(frames=videos)
        else:
            output = NovaPipelineOutput(images=pictures(videos, output_type))
        return output if return_dict else output.to_tuple()

    def stream(self, prompt: str | Sequence[str] | None = None, **options: Any) -> Iterator[Any]:
        """Yields frames as soon as the VAE can decode them: frame by frame, or a tile of the video VAE at a time.

        Takes what a call takes, but for `return_dict`. Each part has the form of `frames` and a sample an entry;
        together they are the frames that a call with the same seed gives. An interrupted one ends with the last whole
        part.

        Raises:
            ValueError: as a call, at once.
        """
        inputs = Inputs(prompt=prompt, **options)
        return self._streamed(inputs, self._plan(inputs))

    def check(self, prompt: str | Sequence[str] | None = None, **options: Any) -> Plan:
        """What a call would make; takes what `stream` takes.

        Raises:
            ValueError: what a call would raise.
        """
        return self._plan(Inputs(prompt=prompt, **options))

    @torch.no_grad()
    def _streamed(self, inputs: Inputs, planned: Plan) -> Iterator[Any]:
        tiles = self._tiles(inputs, planned.latent_frames)
        made: list[Tensor] = []
        try:
            for frame in self._latents(inputs, planned):
                made.append(frame)
                while tiles and tiles[0][1] <= len(made):
                    start, stop = tiles.pop(0)
                    yield joined([self._shown(made[start:stop], start, inputs)], inputs.output_type)
        finally:
            self.maybe_free_model_hooks()

    def encode_prompt(self, prompt: str | Sequence[str]) -> list[Tensor]:
        """Features of prompts, [tokens, D] each: what `prompt_embeds` takes.

        Raises:
            ValueError: this pipeline has no text encoder.
        """
        if self.text_encoder is None or self.tokenizer is None:
            raise ValueError("this pipeline has no text encoder and tokenizer; give prompt_embeds")
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        limit = self.transformer.config.text_token_len
        return encode(self.text_encoder, self.tokenizer, texts, limit, self._execution_device)

    def _plan(self, inputs: Inputs) -> Plan:
        """Checks a call."""
        planned = plan(inputs, self.transformer.config, None if self.vae is None else Codec(self.vae))
        self._settings(inputs)
        wrong = set(inputs.callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs)
        if wrong:
            known = ", ".join(self._callback_tensor_inputs)
            raise ValueError(f"callback_on_step_end_tensor_inputs has {min(wrong)}; one of {known}")
        if (inputs.prompt is not None or inputs.negative_prompt is not None) and self.text_encoder is None:
            raise ValueError("this pipeline has no text encoder; give prompt_embeds and negative_prompt_embeds")
        return planned

    def _settings(self, inputs: Inputs) -> tuple[Schedule, SamplingConfig]:
        schedule = sampling_schedule(self.scheduler, inputs.shift)
        return schedule, inputs.settings(FLOW_STEPS if isinstance(schedule, FlowMatching) else DDPM_STEPS)

    def _latents(self, inputs: Inputs, planned: Plan) -> Iterator[Tensor]:
        """Latents of each frame as it is made, [B, C, h, w]."""
        self._guidance_scale, self._interrupt = inputs.guidance_scale, False
        schedule, settings = self._settings(inputs)
        request = self._request(inputs, planned, settings)
        tokens = request.latent_size[0] * request.latent_size[1] // self.transformer.config.patch_size**2
        sets = sum(map(len, masking.rounds(settings, tokens)))
        self._num_timesteps = sets * (request.frames - request.given)
        with self.progress_bar(total=self._num_timesteps) as bar:
            frames = generate_frames(self.transformer, schedule, request, self._teller(inputs, request, bar.update))
            for index, frame in enumerate(frames):
                yield frame
                if index < request.frames - 1:
                    bring(self.transformer)  # a stream's VAE may have taken its place

    def _request(self, inputs: Inputs, planned: Plan, settings: SamplingConfig) -> Request:
        """Runs what comes before generation: the text encoder, and the VAE on given frames."""
        prompts = planned.embeds or self._encoded(planned.prompt, planned.prompts)
        negative = planned.negative_embeds or self._encoded(planned.negative_prompt, planned.prompts)
        given = inputs.given_latents
        if planned.pixels is not None:
            bring(self.vae)
            given = Codec(self.vae).encode(planned.pixels.to(self._execution_device))
        if given is not None:
            given = given.expand(planned.prompts, -1, -1, -1, -1)
        bring(self.transformer)
        model, each = self.transformer, inputs.num_images_per_prompt
        stride = model.config.image_stride

        def repeated(values: Any) -> Tensor:
            return torch.as_tensor(values, device=model.device).repeat_interleave(each, dim=0)

        if planned.labels is not None:
            text = torch.tensor(planned.labels)
        elif model.config.text_token_dim is None:
            text = model.null(planned.prompts)
        else:
            text = model.pad_text(prompts)
        return Request(
            text=repeated(text),
            negative_text=None if negative[0] is None else repeated(model.pad_text(negative)),
            frames=planned.latent_frames,
            latent_size=(planned.height // stride, planned.width // stride),
            generators=_generators(inputs.generator),
            settings=settings,
            motion=repeated([float(each) for each in planned.motion]),
            fps=repeated([float(each) for each in planned.fps]),
            first_frames=None if given is None else repeated(given),
            window=planned.window,
        )

    def _encoded(self, prompts: list[str] | None, count: int) -> Sequence[Tensor | None]:
        return [None] * count if prompts is None else self.encode_prompt(prompts)

    def _teller(self, inputs: Inputs, request: Request, done: Callable[[], object]) -> Callable[[SetStep], Change]:
        """What happens after each set: the bar moves, the callback is called, and what it changed is taken over."""
        callback, names = inputs.callback_on_step_end, inputs.callback_on_step_end_tensor_inputs
        if isinstance(callback, (PipelineCallback, MultiPipelineCallbacks)):
            names = callback.tensor_inputs
        steps = itertools.count()

        def told(made: SetStep) -> Change:
            done()
            tensors = {
                "latents": made.latents,
                "prompt_embeds": request.text,
                "negative_prompt_embeds": request.negative_text,
            }
            named = {name: tensors[name] for name in names}
            changed = None if callback is None else callback(self, next(steps), made.frame, dict(named))
            latents = None if callback is None else {**named, **(changed or {})}.get("latents")
            return Change(latents=latents, guidance_scale=self._guidance_scale, stop=self._interrupt)

        return told

    # What is shown.

    def _tiles(self, inputs: Inputs, frames: int) -> list[tuple[int, int]]:
        """Ranges of latent frames that are shown together."""
        if inputs.output_type == "latent":
            return [(index, index + 1) for index in range(frames)]
        return Codec(self.vae).tiles(frames)

    def _shown(self, made: Sequence[Tensor], start: int, inputs: Inputs) -> Any:
        """One of `_tiles` in the form that was asked for, with frames."""
        latents = torch.stack(list(made), dim=2)
        if inputs.output_type == "latent":
            return latents
        bring(self.vae)
        return shown(Codec(self.vae).decode(latents.to(self._execution_device), start), inputs.output_type)


def _generators(given: torch.Generator | Sequence[torch.Generator] | None) -> list[torch.Generator]:
    if given is None:
        return [torch.Generator().manual_seed(int(torch.randint(2**62, ())))]
    return [given] if isinstance(given, torch.Generator) else list(given)
