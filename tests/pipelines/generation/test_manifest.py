"""Ids of samples: they change where, and only where, the sample may change."""

from __future__ import annotations

import json

import pytest

from nova_model.config import SamplingConfig
from pipelines.generation import manifest
from pipelines.generation.checkpoint_resolution import ResolvedCheckpoint
from pipelines.generation.requests import SampleRequest
from pipelines.generation.stage import Generate

CHECKPOINT = ResolvedCheckpoint(checkpoint="c", transformer="t", scheduler="s", vae="v", text_encoder="e")


def test_samples_of_corrected_image_guidance_have_ids_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 0.1 wrote the same settings without the key `image_guidance`; other samples keep their ids."""
    monkeypatch.setattr(manifest, "digest", lambda path: "weights")
    request = SampleRequest(prompt="a", path="a.png", seeds=(1,))
    for scale, guidance in ((None, None), (1.5, "without place and time")):
        stage = Generate(checkpoint=CHECKPOINT, output="out", sampling=SamplingConfig(image_guidance_scale=scale))
        (row,) = manifest.sample_rows(stage, [request])
        settings = json.loads(row["settings"])
        assert settings.get("image_guidance") == guidance
        assert ("image_guidance" in settings) == (guidance is not None)
