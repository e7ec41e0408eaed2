"""NovaPipeline: the model as a pipeline of diffusers, for images and videos from text, images and videos.

    pipe = NovaPipeline.from_pretrained("BAAI/nova-d48w1024-sd512", torch_dtype=torch.bfloat16).to("cuda")
    pipe("a red ball on grass", generator=torch.Generator().manual_seed(0)).images[0].save("ball.png")

The options of a call are documented in `inputs.Inputs`. A generator on the CPU draws the noise of the released model.
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
from nova_model.diffusers.components import NovaComponents, onload, schedule_of
from nova_model.diffusers.inputs import Inputs
from nova_model.diffusers.outputs import NovaPipelineOutput, concatenate, postprocess, to_images
from nova_model.diffusers.preparation import Dimensions, prepare
from nova_model.diffusers.text_encoder import encode
from nova_model.sampling.frame import Change, SetStep
from nova_model.sampling.request import Request
from nova_model.sampling.schedule import FlowMatching
from nova_model.sampling.video import generate_frames
from nova_model.vae.codec import Codec

FLOW_STEPS, DDPM_STEPS = 25, 100
"""Default number of diffusion steps with flow matching and with DDPM, as the releases are sampled."""


class NovaPipeline(NovaComponents):
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
        sampling: SamplingConfig | None = None,
        num_inference_steps: int | None = None,
        num_diffusion_steps: int | None = None,
        guidance_scale: float | None = None,
        min_guidance_scale: float | None = None,
        guidance_trunc: float | None = None,
        guidance_renorm: float | None = None,
        image_guidance_scale: float | None = None,
        negative_motion: float | None = None,
        temperature: float | None = None,
        corrections: int | None = None,
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
        """Generates images or videos.

        `Inputs` documents the options. How to sample is either `sampling`, or the options from `num_inference_steps`
        (set steps) to `corrections`, each of which is a field of `SamplingConfig` with the same default; the number of
        diffusion steps defaults to 25 with flow matching and to 100 with DDPM.

        Returns:
            An output with `images` where one frame is requested, else with `frames`; a tuple of it without
            `return_dict`. Latents that an interrupted call has not reached are zeros.

        Raises:
            ValueError: options contradict each other or the model does not support them; before any network runs.
        """
        inputs, dimensions = self._prepare(
            prompt=prompt, negative_prompt=negative_prompt, image=image, video=video, given_latents=given_latents,
            num_frames=num_frames, height=height, width=width, sampling=sampling,
            num_inference_steps=num_inference_steps, num_diffusion_steps=num_diffusion_steps,
            guidance_scale=guidance_scale, min_guidance_scale=min_guidance_scale, guidance_trunc=guidance_trunc,
            guidance_renorm=guidance_renorm, image_guidance_scale=image_guidance_scale,
            negative_motion=negative_motion, temperature=temperature, corrections=corrections, shift=shift,
            motion_score=motion_score, fps=fps, num_images_per_prompt=num_images_per_prompt, generator=generator,
            prompt_embeds=prompt_embeds, negative_prompt_embeds=negative_prompt_embeds, class_labels=class_labels,
            window=window, output_type=output_type, callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
        )  # fmt: skip
        output = self._output(inputs, dimensions)
        return output if return_dict else output.to_tuple()

    def stream(self, prompt: str | Sequence[str] | None = None, **options: Any) -> Iterator[Any]:
        """Yields frames as soon as the VAE can decode them: frame by frame, or a tile of the video VAE at a time.

        Takes the options of a call except `return_dict`. Each segment has the form of `frames`, with an entry for each
        sample; together they are the frames that a call with the same seed returns. An interrupted stream ends with the
        last complete segment.

        Raises:
            ValueError: as a call does, and at once, not when the first segment is requested.
        """
        inputs, dimensions = self._prepare(prompt=prompt, **options)
        return self._segments(inputs, dimensions)

    def check(self, prompt: str | Sequence[str] | None = None, **options: Any) -> Dimensions:
        """Returns the sizes of what a call would generate; takes the options of `stream`.

        Raises:
            ValueError: as a call does.
        """
        _, dimensions = self._prepare(prompt=prompt, **options)
        return dimensions

    def encode_prompt(self, prompt: str | Sequence[str]) -> list[Tensor]:
        """Features of prompts, [tokens, D] each, in the form that `prompt_embeds` takes.

        Raises:
            ValueError: the pipeline has no text encoder, or the model takes class labels.
        """
        limit = self.transformer.config.text_token_len
        if limit is None:
            raise ValueError("this model takes class_labels, not prompts")
        if self.text_encoder is None or self.tokenizer is None:
            raise ValueError("this pipeline has no text encoder and tokenizer; give prompt_embeds")
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        return encode(self.text_encoder, self.tokenizer, texts, limit, self._execution_device)

    # Before generation: checks and conditions.

    def _prepare(self, **options: Any) -> tuple[Inputs, Dimensions]:
        """Checks a call; returns its inputs with one entry for each prompt, and its sizes."""
        schedule = schedule_of(self.scheduler, options.get("shift"))
        inputs = Inputs.from_options(options, FLOW_STEPS if isinstance(schedule, FlowMatching) else DDPM_STEPS)
        codec = None if self.vae is None else Codec(self.vae)
        inputs, dimensions = prepare(inputs, self.transformer.config, codec)
        unknown = set(inputs.callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs)
        if unknown:
            names = ", ".join(self._callback_tensor_inputs)
            raise ValueError(f"callback_on_step_end_tensor_inputs has {min(unknown)}; one of {names}")
        if (inputs.prompt is not None or inputs.negative_prompt is not None) and self.text_encoder is None:
            raise ValueError("this pipeline has no text encoder; give prompt_embeds and negative_prompt_embeds")
        return inputs, dimensions

    def _request(self, inputs: Inputs, dimensions: Dimensions) -> Request:
        """Runs the text encoder on the prompts and the VAE on the first frames."""
        model, stride = self.transformer, self.transformer.config.image_stride
        embeds = self._embeds(inputs.prompt, inputs.prompt_embeds)
        negative_embeds = self._embeds(inputs.negative_prompt, inputs.negative_prompt_embeds)
        first_frames = self._first_frames(inputs, dimensions)
        onload(model)  # last, as it may push the other networks off the device
        if inputs.class_labels is not None:
            text = torch.as_tensor(inputs.class_labels)
        else:
            text = model.null(dimensions.prompts) if embeds is None else model.pad_text(embeds)

        def per_sample(values: Any) -> Tensor:
            tensor = torch.as_tensor(values, device=model.device)
            return tensor.repeat_interleave(inputs.num_images_per_prompt, dim=0)

        return Request(
            text=per_sample(text),
            negative_text=None if negative_embeds is None else per_sample(model.pad_text(negative_embeds)),
            frames=dimensions.latent_frames,
            latent_size=(dimensions.height // stride, dimensions.width // stride),
            generators=_generators(inputs.generator),
            sampling=inputs.sampling,
            motion=per_sample(torch.as_tensor(inputs.motion_score, dtype=torch.float32)),
            fps=per_sample(torch.as_tensor(inputs.fps, dtype=torch.float32)),
            first_frames=None if first_frames is None else per_sample(first_frames),
            window=dimensions.window,
        )

    def _embeds(
        self, prompt: str | Sequence[str] | None, embeds: Tensor | Sequence[Tensor] | None
    ) -> list[Tensor] | None:
        """Features of prompts, [tokens, D] each: computed, or precomputed ones."""
        if prompt is not None:
            return self.encode_prompt(prompt)
        return None if embeds is None else list(embeds)

    def _first_frames(self, inputs: Inputs, dimensions: Dimensions) -> Tensor | None:
        """Latents of the first frames [prompts, C, t, h, w]."""
        latents = inputs.given_latents
        if dimensions.first_frames is not None:
            onload(self.vae)
            latents = Codec(self.vae).encode(dimensions.first_frames.to(self._execution_device))
        return None if latents is None else latents.expand(dimensions.prompts, -1, -1, -1, -1)

    # Generation.

    def _latents(self, inputs: Inputs, dimensions: Dimensions) -> Iterator[Tensor]:
        """Yields the latents of each frame [B, C, h, w] as it is finished."""
        self._guidance_scale, self._interrupt = inputs.sampling.guidance_scale, False
        schedule, request = schedule_of(self.scheduler, inputs.shift), self._request(inputs, dimensions)
        tokens = request.latent_size[0] * request.latent_size[1] // self.transformer.config.patch_size**2
        sets = sum(map(len, masking.rounds(inputs.sampling, tokens)))
        self._num_timesteps = sets * (request.frames - request.first_frame_count)
        with self.progress_bar(total=self._num_timesteps) as bar:
            on_step = self._step_callback(inputs, request, bar.update)
            for index, frame in enumerate(generate_frames(self.transformer, schedule, request, on_step)):
                yield frame
                if index < request.frames - 1:
                    onload(self.transformer)  # the VAE may have taken its place while a stream was decoded

    def _step_callback(
        self, inputs: Inputs, request: Request, advance: Callable[[], object]
    ) -> Callable[[SetStep], Change]:
        """A callback for generation that moves the progress bar, and translates for the callback of the call."""
        callback, names = inputs.callback_on_step_end, inputs.callback_on_step_end_tensor_inputs
        if isinstance(callback, (PipelineCallback, MultiPipelineCallbacks)):
            names = callback.tensor_inputs
        steps = itertools.count()

        def on_step(step: SetStep) -> Change:
            advance()
            latents = None
            if callback is not None:
                tensors = {
                    "latents": step.latents,
                    "prompt_embeds": request.text,
                    "negative_prompt_embeds": request.negative_text,
                }
                selected = {name: tensors[name] for name in names}
                # The callback may return other latents, or change those that it is passed in place.
                changed = callback(self, next(steps), step.frame, dict(selected)) or {}
                latents = {**selected, **changed}.get("latents")
            return Change(latents=latents, guidance_scale=self._guidance_scale, stop=self._interrupt)

        return on_step

    # After generation: decoding.

    def _output(self, inputs: Inputs, dimensions: Dimensions) -> NovaPipelineOutput:
        """Generates and decodes all frames."""
        latents = list(self._latents(inputs, dimensions))
        latents += [torch.zeros_like(latents[0])] * (dimensions.latent_frames - len(latents))  # an interrupted call
        tiles = self._tiles(dimensions.latent_frames, inputs.output_type)
        segments = [self._decode(latents[start:stop], start, inputs.output_type) for start, stop in tiles]
        self.maybe_free_model_hooks()
        videos = concatenate(segments, inputs.output_type)
        if dimensions.frames > 1:
            return NovaPipelineOutput(frames=videos)
        return NovaPipelineOutput(images=to_images(videos, inputs.output_type))

    @torch.no_grad()
    def _segments(self, inputs: Inputs, dimensions: Dimensions) -> Iterator[Any]:
        """Yields decoded segments of the videos, each as soon as its latents are there."""
        tiles = self._tiles(dimensions.latent_frames, inputs.output_type)
        latents: list[Tensor] = []
        try:
            for frame in self._latents(inputs, dimensions):
                latents.append(frame)
                while tiles and tiles[0][1] <= len(latents):
                    start, stop = tiles.pop(0)
                    segment = self._decode(latents[start:stop], start, inputs.output_type)
                    yield concatenate([segment], inputs.output_type)
        finally:
            self.maybe_free_model_hooks()

    def _tiles(self, latent_frames: int, output_type: str) -> list[tuple[int, int]]:
        """Ranges of latent frames that are decoded together."""
        if output_type == "latent":
            return [(index, index + 1) for index in range(latent_frames)]
        return Codec(self.vae).tiles(latent_frames)

    def _decode(self, frames: Sequence[Tensor], start: int, output_type: str) -> Any:
        """Decodes the latents of a tile, which starts at a latent frame, and converts them to the output type."""
        latents = torch.stack(list(frames), dim=2)  # [B, C, h, w] each -> [B, C, t, h, w]
        if output_type == "latent":
            return latents
        onload(self.vae)
        return postprocess(Codec(self.vae).decode(latents.to(self._execution_device), start), output_type)


def _generators(generator: torch.Generator | Sequence[torch.Generator] | None) -> list[torch.Generator]:
    """One generator for the batch, or one for each sample."""
    if generator is None:
        return [torch.Generator().manual_seed(int(torch.randint(2**62, ())))]
    return [generator] if isinstance(generator, torch.Generator) else list(generator)
