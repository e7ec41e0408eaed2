"""Guidance: the branches that run, and how their predictions combine.

Classifier-free guidance as the released model applies it (the experiments of the paper use it throughout), with its
options: a scale that rises over the sets, renormalisation, and guidance by the preceding frames.

Shapes: B batch, G branches, N tokens of a frame, P = p*p*C values of a token, L' conditioning tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nova_model.config import SamplingConfig
from nova_model.embeddings import class_ids
from nova_model.model import Nova
from nova_model.sampling.request import Request


@dataclass(frozen=True)
class GuidanceBranches:
    """Conditioning of the branches, stacked along the batch: conditional, then (image-conditional,) unconditional."""

    contexts: Tensor
    """Conditioning tokens [G*B, L', D]."""
    sees_frames: tuple[bool, ...]
    """For each branch, whether it sees the preceding frames; the others see begin-of-video tokens without place and
    time in every slot, the first one included."""


def guidance_branches(model: Nova, request: Request) -> GuidanceBranches:
    """The branches that a request's guidance needs: conditional, then (image-conditional,) unconditional."""
    sampling, text = request.sampling, request.text
    if model.config.takes_labels:
        text = class_ids(text, model.config.label_classes, null=True)
    batch = len(text)
    null = model.null(batch) if request.negative_text is None else request.negative_text
    negative_motion = request.motion
    if sampling.negative_motion is not None:
        negative_motion = text.new_full((batch,), sampling.negative_motion, dtype=torch.float32)
    positive, negative = (text, request.motion), (null.to(text), negative_motion)
    if sampling.image_guidance_scale is not None:
        conditions, sees_frames = [positive, negative, negative], [True, True, False]
    elif max(sampling.guidance_scale, sampling.min_guidance_scale or 0.0) > 1:
        conditions, sees_frames = [positive, negative], [True, True]
    else:
        conditions, sees_frames = [positive], [True]
    contexts = [model.context(prompt, motion_score, request.fps, batch) for prompt, motion_score in conditions]
    return GuidanceBranches(torch.cat(contexts), tuple(sees_frames))


def guide(unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """uncond + g*(cond - uncond)."""
    return unconditional + scale * (conditional - unconditional)


def renorm_factor(guided: Tensor, conditional: Tensor, min_factor: float) -> Tensor:
    """clamp(|cond| / |guided|, min_factor, 1), with one L2 norm per sample over all of its tokens, [B, 1, 1]."""
    conditional_norm = torch.linalg.vector_norm(conditional.float(), dim=(1, 2), keepdim=True)
    guided_norm = torch.linalg.vector_norm(guided.float(), dim=(1, 2), keepdim=True)
    return (conditional_norm / guided_norm).clamp(min_factor, 1.0).to(guided.dtype)


def ramp(min_scale: float | None, max_scale: float, steps: int) -> list[float]:
    """Guidance scale of each set step k = 1..K: min + (max - min) * k/K, or constant without a minimum."""
    if min_scale is None:
        return [max_scale] * steps
    return [min_scale + (max_scale - min_scale) * (step + 1) / steps for step in range(steps)]


def combine(predictions: Sequence[Tensor], scale: float, sampling: SamplingConfig) -> Tensor:
    """The guided prediction [B, N, P].

    Args:
        predictions: prediction [B, N, P] of each branch: conditional, then (image-conditional,) unconditional.
        scale: guidance scale of this set step.
        sampling: renormalisation and image guidance.
    """
    if len(predictions) == 1:
        return predictions[0]
    if len(predictions) == 2:
        conditional, unconditional = predictions
        return _renormed(guide(unconditional, conditional, scale), conditional, sampling.guidance_renorm)
    conditional, image_conditional, unconditional = predictions
    assert sampling.image_guidance_scale is not None
    by_prompt = unconditional + scale * (conditional - image_conditional)
    by_prompt = _renormed(by_prompt, conditional, sampling.guidance_renorm)
    return by_prompt + sampling.image_guidance_scale * (image_conditional - unconditional)


def _renormed(guided: Tensor, conditional: Tensor, min_factor: float) -> Tensor:
    if min_factor >= 1:
        return guided
    return guided * renorm_factor(guided, conditional, min_factor)
