"""The published model written out literally, on a state dict: slow, one token, sample and step at a time where that is
clearer.

It shares nothing with `nova_model` but the names of the weights, so that its outputs can stand in for reference tensors
of the released model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor


@dataclass
class Literal:
    """A model: its config.json, weights, and diffusers' keys of its scheduler with `kind`."""

    config: dict[str, Any]
    weights: dict[str, Tensor]
    scheduler: dict[str, Any]

    # Sizes.

    @property
    def patch(self) -> int:
        return 15 // self.config["image_stride"] + 1

    @property
    def width(self) -> int:
        return len(self.weights["mask_embed.bos_token"][0])

    def heads(self, arch: int) -> int:
        name = self.config["arch"][arch]
        return int(name.split("h")[1]) if "h" in name else {64: 4}[int(name.split("w")[1])]

    def depth(self, prefix: str) -> int:
        return 1 + max(int(key.split(".")[2]) for key in self.weights if key.startswith(f"{prefix}.blocks."))

    # Layers.

    def linear(self, name: str, x: Tensor) -> Tensor:
        y = x @ self.weights[f"{name}.weight"].T
        return y + self.weights[f"{name}.bias"] if f"{name}.bias" in self.weights else y

    def norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], 1e-5)

    def embed(self, name: str, latents: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, N, D], by a strided convolution."""
        weight = self.weights[f"{name}.patch_embed.proj.weight"]
        bias = self.weights[f"{name}.patch_embed.proj.bias"]
        return F.conv2d(latents, weight, bias, stride=weight.shape[-1]).flatten(2).transpose(1, 2)

    def block(
        self, name: str, x: Tensor, heads: int, places: list[tuple[int, int, int]], mask: Tensor | None
    ) -> Tensor:
        """Residual post-norm; `places` are (time, row, column) of every token where positions are rotary."""
        batch, count, width = x.shape
        q, k, v = self.linear(f"{name}.attn.qkv", x).reshape(batch, count, 3, heads, width // heads).unbind(2)
        if self.config.get("rotary_pos_embed"):
            q, k = rotated(q, places), rotated(k, places)
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(width // heads)
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        mixed = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).reshape(batch, count, width)
        x = x + self.norm(f"{name}.norm1", self.linear(f"{name}.attn.proj", mixed))
        return x + self.norm(f"{name}.norm2", self.linear(f"{name}.mlp.fc2", F.gelu(self.linear(f"{name}.mlp.fc1", x))))

    def projected(self, name: str, values: Tensor, order: str) -> Tensor:
        """The 128-frequency embedding of values, and its projection by two layers with a SiLU between them.

        Timesteps go up to 1000, where the last bit of a frequency matters: their frequencies are exponentials, as in
        the release.
        """
        f = 10000.0 ** (-torch.arange(128) / 128)
        if order == "cos sin":
            f = (-math.log(10000) * torch.arange(128) / 128).exp()
        angles = values.float()[..., None] * f
        waves = {"sin": angles.sin(), "cos": angles.cos()}
        first, second = order.split()
        names = [f"{name}.0", f"{name}.2"] if f"{name}.0.weight" in self.weights else [f"{name}.fc1", f"{name}.fc2"]
        return self.linear(names[1], F.silu(self.linear(names[0], torch.cat([waves[first], waves[second]], -1))))

    def positions(self, rows: int, columns: int) -> Tensor:
        """[rows*columns, D]."""
        f = 10000.0 ** (-torch.arange(self.width // 4) / (self.width // 4))
        grid = [(h, w) for h in range(rows) for w in range(columns)]
        positions = [torch.cat([(w * f).sin(), (w * f).cos(), (h * f).sin(), (h * f).cos()]) for h, w in grid]
        return torch.stack(positions)

    # Conditioning.

    def padded(self, prompts: list[Tensor]) -> Tensor:
        """Pads prompts with the rows of the buffer."""
        rows = self.weights["text_embed.weight"][: self.config["text_token_len"]]
        return torch.stack([torch.cat([prompt, rows[len(prompt) :]]) for prompt in prompts])

    def prompt(self, golden: dict[str, Tensor]) -> Tensor:
        if "labels" in golden:
            return golden["labels"]
        count = sum(name.startswith("prompt_") for name in golden)
        return self.padded([golden[f"prompt_{index}"] for index in range(count)])

    def null(self, like: Tensor) -> Tensor:
        if like.ndim == 1:
            return torch.full_like(like, len(self.weights["label_embed.weight"]) - 1)
        return self.padded([like.new_zeros(0, like.shape[2])] * len(like))

    def text_context(self, prompt: Tensor) -> Tensor:
        if prompt.ndim == 1:
            return self.norm("label_embed.norm", self.weights["label_embed.weight"][prompt])[:, None]
        return self.norm("text_embed.norm", self.linear("text_embed.proj", prompt))

    def context(self, prompt: Tensor, motion: Tensor | None, fps: Tensor | None) -> Tensor:
        tokens = [self.text_context(prompt)]
        if self.config["video_base_size"][0] > 1:
            motion = torch.full((len(prompt),), 5.0) if motion is None else motion
            fps = torch.full((len(prompt),), 12.0) if fps is None else fps
            tokens.append(self.projected("motion_embed.flow_proj", motion, "sin cos")[:, None])
            tokens.append(self.projected("motion_embed.fps_proj", fps, "sin cos")[:, None])
        return torch.cat(tokens, 1)

    # Temporal.

    def temporal(
        self, context: Tensor, slots: list[Tensor | None], frames: int, size: tuple[int, int], blind: bool = False
    ) -> Tensor:
        """Outputs for slots, [B, len(slots), M, D]; a slot is None for begin-of-video, else the preceding frame.

        A blind branch, the unconditional one of image guidance, has the bare begin-of-video token in every slot:
        without place and time where these are added. Rotary positions are not in the slots, and stay.
        """
        rows, columns = (side // (2 * self.patch) for side in size)
        tokens, places = [context], [(0, 0, 0)] * context.shape[1]
        for t, before in enumerate(slots):
            bov = self.weights["mask_embed.bos_token"].expand(len(context), rows * columns, -1)
            x = bov if before is None else self.embed("video_encoder", before)
            if not self.config.get("rotary_pos_embed"):
                base = self.config["video_base_size"][0]
                time = self.projected("video_pos_embed.time_proj", torch.tensor([t * base / frames]), "sin cos")
                x = x + self.positions(rows, columns) + self.norm("video_pos_embed.norm", time)
            tokens.append(bov if blind else x)
            places += [(t, h, w) for h in range(rows) for w in range(columns)]
        block_of = [0] * context.shape[1] + [t for t in range(len(slots)) for _ in range(rows * columns)]
        mask = torch.tensor([[query >= key for key in block_of] for query in block_of])
        x = torch.cat(tokens, 1)
        for index in range(self.depth("video_encoder")):
            x = self.block(f"video_encoder.blocks.{index}", x, self.heads(0), places, mask)
        x = self.norm("video_encoder.norm", x)[:, context.shape[1] :]
        return x.reshape(len(context), len(slots), rows * columns, -1)

    def indicators(self, out: Tensor) -> Tensor:
        """Scaling and shift of every frame but the first."""
        if not self.config.get("video_mixer_rank"):
            return out
        hidden = F.silu(out[:, 1:])
        if "video_encoder.mixer.lora.weight" in self.weights:
            hidden = self.linear("video_encoder.mixer.lora", hidden)
        scale, shift = self.linear("video_encoder.mixer.proj", hidden).chunk(2, -1)
        return torch.cat([out[:, :1], out[:, :1] * (1 + scale) + shift], 1)

    # Spatial.

    def spatial(self, frame: Tensor, prefix: Tensor, visible: list[list[int]]) -> Tensor:
        """z of every token [B, N, D]; one sample after the other."""
        rows, columns = (side // self.patch for side in frame.shape[-2:])
        features = []
        for sample, ids in enumerate(visible):
            grid = [(0, h, w) for h in range(rows) for w in range(columns)]
            before = [(0, 0, 0)] * prefix.shape[1]
            tokens = self.embed("image_encoder", frame[sample : sample + 1])[0]
            masked = self.weights["mask_embed.mask_token"].expand(len(grid), -1)
            if not self.config.get("rotary_pos_embed"):
                tokens, masked = tokens + self.positions(rows, columns), masked + self.positions(rows, columns)
            x = torch.cat([prefix[sample], tokens[ids]])[None]
            depth = self.depth("image_encoder")
            for layer in range(depth // 2):
                x = self.block(
                    f"image_encoder.blocks.{layer}", x, self.heads(1), before + [grid[index] for index in ids], None
                )
            full = masked.clone()
            full[ids] = x[0, len(before) :]
            x = torch.cat([x[0, : len(before)], full])[None]
            for index in range(depth // 2, depth):
                x = self.block(f"image_encoder.blocks.{index}", x, self.heads(1), before + grid, None)
            features.append(self.norm("image_encoder.norm", x)[0, len(before) :])
        return torch.stack(features)

    # Denoiser.

    def denoise(self, x_t: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """[B, N, P], timesteps [B, N] and z [B, N, D] -> [B, N, P]."""
        weight = self.weights["image_decoder.patch_embed.proj.weight"]
        h = x_t @ weight.permute(0, 2, 3, 1).flatten(1).T + self.weights["image_decoder.patch_embed.proj.bias"]
        embed = "image_decoder.time_cond_embed"
        condition = self.linear(f"{embed}.condition_proj.fc1", z)
        condition = self.linear(f"{embed}.condition_proj.fc2", F.silu(condition))
        condition = condition + self.projected(f"{embed}.timestep_proj", t, "cos sin")
        for index in range(self.depth("image_decoder")):
            name = f"image_decoder.blocks.{index}"
            scale, shift, gate = self.linear(f"{name}.norm1.proj", F.silu(condition)).chunk(3, -1)
            inner = F.layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + scale) + shift
            inner = self.linear(f"{name}.proj.fc2", F.silu(self.linear(f"{name}.proj.fc1", inner)))
            h = h + gate * self.norm(f"{name}.norm2", inner)
        scale, shift = self.linear("image_decoder.norm.proj", F.silu(condition)).chunk(2, -1)
        return self.linear("image_decoder.head", F.layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + scale) + shift)

    # Training.

    def diffusers(self) -> DDPMScheduler | FlowMatchEulerDiscreteScheduler:
        keys = {key: value for key, value in self.scheduler.items() if key != "kind"}
        return {"ddpm": DDPMScheduler, "flow": FlowMatchEulerDiscreteScheduler}[self.scheduler["kind"]](**keys)

    def training_pass(self, golden: dict[str, Tensor]) -> dict[str, Tensor]:
        """Every reference output but tables and generations."""
        latents, prompt = golden["latents"], self.prompt(golden)
        batch, _, frames, height, width = latents.shape
        context = self.context(prompt, golden.get("motion_flow"), golden.get("fps"))
        slots = [None, *(latents[:, :, t] for t in range(frames - 1))]
        out = self.temporal(context, slots, frames, (height, width))
        flat = torch.stack([latents[b, :, t] for b in range(batch) for t in range(frames)])
        z = self.spatial(flat, self.indicators(out).flatten(0, 1), golden["train_visible_ids"].tolist())
        repeats = len(golden["train_noise"]) // len(flat)
        x, noise, index = (
            tokens_of(flat, self.patch).repeat(repeats, 1, 1),
            golden["train_noise"],
            golden["train_timesteps"],
        )
        scheduler = self.diffusers()
        if self.scheduler["kind"] == "flow":
            sigma, t = scheduler.sigmas[index][..., None], scheduler.timesteps[index]
            x_t, target = sigma * noise + (1 - sigma) * x, noise - x
        else:
            x_t = scheduler.add_noise(x.flatten(0, 1), noise.flatten(0, 1), index.flatten()).reshape(x.shape)
            velocity = scheduler.get_velocity(x.flatten(0, 1), noise.flatten(0, 1), index.flatten()).reshape(x.shape)
            t, target = (
                index,
                {"epsilon": noise, "sample": x, "v_prediction": velocity}[scheduler.config.prediction_type],
            )
        prediction = self.denoise(x_t, t, z.repeat(repeats, 1, 1))
        mask = torch.ones(len(flat), x.shape[1])
        for row, ids in enumerate(golden["train_visible_ids"].tolist()):
            mask[row, ids] = 0
        mask = mask.repeat(repeats, 1)
        weighted = (prediction - target).square().mean(-1) * mask / (mask.sum() + 1e-5)
        of_frame = weighted.reshape(repeats, batch, frames, -1)
        outputs = {
            "context": self.text_context(prompt), "temporal_out": out.flatten(1, 2), "spatial_out": z,
            "denoiser_out": prediction,
        }  # fmt: skip
        if prompt.ndim == 3:
            outputs["text_padded"] = prompt
        if self.config["video_base_size"][0] > 1:
            outputs["context_with_motion"] = context
        if frames == 1:
            return {**outputs, "loss": weighted.sum()[None]}
        first, later = of_frame[:, :, 0].sum(), of_frame[:, :, 1:].sum()
        return {**outputs, "loss_t2i": frames * first[None], "loss_i2i": frames / (frames - 1) * later[None]}

    # Generation.

    def generation(self, golden: dict[str, Tensor], settings: dict[str, Any], size: tuple[int, int]) -> Tensor:
        """A generation from one CPU generator; every temporal pass covers all frames again, without a cache."""
        prompt, frames = self.prompt(golden), settings["latent_frames"]
        batch, (height, width), patch = len(prompt), size, self.patch
        channels, count = self.config["image_dim"], height // patch * (width // patch)
        motion = (
            torch.full((batch,), float(settings["motion_flow"])) if settings.get("motion_flow") is not None else None
        )
        fps = torch.full((batch,), float(settings["fps"])) if settings.get("fps") is not None else None
        conditional, null = self.context(prompt, motion, fps), self.context(self.null(prompt), motion, fps)
        image_scale = settings.get("image_guidance_scale")
        rng = torch.Generator().manual_seed(settings["seed"])
        video: list[Tensor] = list(settings["given"].unbind(2)) if settings.get("given") is not None else []
        order = None
        while len(video) < frames:
            slots = [None, *video]

            def prefix(context: Tensor, slots: list[Tensor | None], blind: bool = False) -> Tensor:
                return self.indicators(self.temporal(context, slots, frames, (height, width), blind))[:, -1]

            branches = {"cond": prefix(conditional, slots)}
            if image_scale is None:
                branches["uncond"] = prefix(null, slots)
            else:
                branches |= {"imgcond": prefix(null, slots), "uncond": prefix(null, slots, blind=True)}
            if order is None:
                order = torch.rand(batch, count, 1, generator=rng).argsort(1)[..., 0]
            video.append(self.frame(branches, order, rng, settings, (batch, channels, height, width)))
        return torch.stack(video, 2)

    def frame(
        self, branches: dict[str, Tensor], order: Tensor, rng: torch.Generator, settings: dict[str, Any],
        shape: tuple[int, ...],
    ) -> Tensor:  # fmt: skip
        patch, (batch, _, height, _) = self.patch, shape
        frame, count, steps = torch.zeros(shape), order.shape[1], settings["set_steps"]
        masked = [int(np.round(math.cos(math.pi / 2 * k / steps) * count)) for k in range(steps + 1)]
        sets = [(before, after) for before, after in pairwise(masked) if before > after]
        max_scale, min_scale = settings["guidance_scale"], settings.get("min_guidance_scale")
        renorm = settings.get("guidance_renorm") if settings.get("guidance_renorm") is not None else 1
        image_scale = settings.get("image_guidance_scale")
        for k, (before, after) in enumerate(sets, start=1):
            g = max_scale if min_scale is None else min_scale + (max_scale - min_scale) * k / len(sets)
            visible, chosen = order[:, : count - before], order[:, count - before : count - after]
            z = {name: self.spatial(frame, prefix, visible.tolist()) for name, prefix in branches.items()}
            scheduler = self.diffusers()
            scheduler.set_timesteps(settings["diffusion_steps"])
            x = torch.randn(shape, generator=rng)
            inside = torch.zeros(batch, count, 1).scatter(1, chosen[..., None], 1.0).bool()
            for t in scheduler.timesteps:
                noisy = tokens_of(x, patch)
                predictions = {
                    name: torch.where(inside, self.denoise(noisy, t.expand(batch, count), features), noisy)
                    for name, features in z.items()
                }
                out = predictions["cond"]
                guided = (g > 1 or image_scale is not None) and t >= (settings.get("guidance_trunc") or 0)
                if guided:
                    base = predictions["uncond" if image_scale is None else "imgcond"]
                    out = predictions["uncond"] + g * (predictions["cond"] - base)
                    if renorm < 1:
                        norms = [values.flatten(1).norm(dim=1) for values in (predictions["cond"], out)]
                        out = out * (norms[0] / norms[1]).clamp(renorm, 1)[:, None, None]
                    if image_scale is not None:
                        out = out + image_scale * (predictions["imgcond"] - predictions["uncond"])
                x = scheduler.step(latents_of(out, patch, height), t, x, generator=rng).prev_sample
            keep = latents_of(inside.float().expand(-1, -1, patch * patch * shape[1]), patch, height).bool()
            frame = torch.where(keep, x, frame)
        return frame


def rotated(x: Tensor, places: list[tuple[int, int, int]]) -> Tensor:
    """[B, S, heads, d] with adjacent pairs of channels rotated; an eighth of d for time, the rest in halves."""
    d = x.shape[-1]
    axes = (d // 8, (d - d // 8) // 2, (d - d // 8) // 2)
    angles = [
        [
            position * 10000.0 ** (-2 * pair / size)
            for size, position in zip(axes, place, strict=True)
            for pair in range(size // 2)
        ]
        for place in places
    ]
    cos, sin = torch.tensor(angles).cos()[:, None], torch.tensor(angles).sin()[:, None]  # [S, 1, d/2]
    out = torch.empty_like(x)
    out[..., 0::2] = x[..., 0::2] * cos - x[..., 1::2] * sin
    out[..., 1::2] = x[..., 0::2] * sin + x[..., 1::2] * cos
    return out


def tokens_of(latents: Tensor, p: int) -> Tensor:
    """[B, C, H, W] -> [B, N, p*p*C], row in patch, column in patch, channel."""
    rows, columns = latents.shape[2] // p, latents.shape[3] // p
    tokens = [
        latents[:, :, h * p : (h + 1) * p, w * p : (w + 1) * p].permute(0, 2, 3, 1).flatten(1)
        for h in range(rows)
        for w in range(columns)
    ]
    return torch.stack(tokens, 1)


def latents_of(tokens: Tensor, p: int, height: int) -> Tensor:
    """Inverse of `tokens_of`."""
    columns = tokens.shape[1] // (height // p)
    channels = tokens.shape[2] // (p * p)
    out = tokens.new_zeros(len(tokens), channels, height, columns * p)
    for n in range(tokens.shape[1]):
        h, w = divmod(n, columns)
        out[:, :, h * p : (h + 1) * p, w * p : (w + 1) * p] = (
            tokens[:, n].reshape(-1, p, p, channels).permute(0, 3, 1, 2)
        )
    return out
