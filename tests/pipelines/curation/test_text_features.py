"""Text features: both captions are encoded, and features are fresh only for the captions they were computed from."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from pipelines.core.stage import apply
from pipelines.core.text_encoder import TextEncoder
from pipelines.curation.text_features import TextFeatures

text_stage = partial(TextFeatures, model="fake/text_encoder")
"""A stage of an untrained text encoder."""


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder.load("fake/text_encoder", torch.float32, max_tokens=16)


def test_both_captions_are_stored_beside_their_hash(encoder: TextEncoder) -> None:
    stage = text_stage(max_tokens=16)
    rows = [{"caption_short": "a red circle", "caption_long": "a red circle moves to the left"}, {
        "caption_short": "two squares", "caption_long": "two blue squares on a black background"}]  # fmt: skip
    encoded = apply(stage, encoder, rows)
    for row in encoded:
        for name in ("short", "long"):
            stored = np.frombuffer(row[f"{name}_text"], row[f"{name}_text_dtype"]).reshape(row[f"{name}_text_shape"])
            expected = encoder.encode([row[f"caption_{name}"]])[0].numpy()
            np.testing.assert_allclose(stored, expected, atol=5e-3)
    assert encoded[0]["caption_hash"] != encoded[1]["caption_hash"]


def test_a_changed_caption_makes_features_stale(encoder: TextEncoder) -> None:
    stage = text_stage(max_tokens=16)
    row = apply(stage, encoder, [{"caption_short": "a red circle", "caption_long": "it moves"}])[0]
    assert stage.fresh(row)
    assert not stage.fresh({**row, "caption_long": "it stands still"})
    assert not text_stage(max_tokens=8).fresh(row)


def test_the_sources_caption_takes_the_place_of_both_where_there_is_one(encoder: TextEncoder) -> None:
    stage = text_stage(max_tokens=16, captions="source")
    captions = {"caption_short": "a red circle", "caption_long": "a red circle moves to the left"}
    rows = [{**captions, "source_caption": source_caption} for source_caption in ("IMG_1 red", None)]
    with_source, without_source = apply(stage, encoder, rows)
    features = np.frombuffer(with_source["short_text"], with_source["short_text_dtype"]).reshape(
        with_source["short_text_shape"]
    )
    np.testing.assert_allclose(features, encoder.encode(["IMG_1 red"])[0].numpy(), atol=5e-3)
    assert with_source["long_text"] == with_source["short_text"]
    by_captioner = apply(text_stage(max_tokens=16), encoder, [captions])[0]
    assert without_source["short_text"] == by_captioner["short_text"]
    assert without_source["caption_hash"] == by_captioner["caption_hash"] != with_source["caption_hash"]
    assert stage.fresh(with_source)
    assert not stage.fresh({**with_source, "source_caption": "IMG_2 blue"})
    assert stage.fresh({**with_source, "caption_long": "something else"}), "it was not encoded"
