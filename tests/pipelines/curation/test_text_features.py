"""Text features: both captions are encoded, and features are fresh only for the captions they were computed from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.core.stage import apply
from pipelines.core.text_encoder import TextEncoder
from pipelines.curation.text_features import TextFeatures


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder.load("fake/text_encoder", torch.float32, max_tokens=16)


def test_both_captions_are_stored_beside_their_hash(encoder: TextEncoder) -> None:
    stage = TextFeatures(max_tokens=16)
    rows = [{"caption_short": "a red circle", "caption_long": "a red circle moves to the left"}, {
        "caption_short": "two squares", "caption_long": "two blue squares on a black background"}]  # fmt: skip
    made = apply(stage, encoder, rows)
    for row in made:
        for name in ("short", "long"):
            stored = np.frombuffer(row[f"{name}_text"], row[f"{name}_text_dtype"]).reshape(row[f"{name}_text_shape"])
            expected = encoder.encode([row[f"caption_{name}"]])[0].numpy()
            np.testing.assert_allclose(stored, expected, atol=5e-3)
    assert made[0]["caption_hash"] != made[1]["caption_hash"]


def test_a_changed_caption_makes_features_stale(encoder: TextEncoder) -> None:
    stage = TextFeatures(max_tokens=16)
    row = apply(stage, encoder, [{"caption_short": "a red circle", "caption_long": "it moves"}])[0]
    assert stage.fresh(row)
    assert not stage.fresh({**row, "caption_long": "it stands still"})
    assert not TextFeatures(max_tokens=8).fresh(row)


def test_the_sources_caption_takes_the_place_of_both_where_there_is_one(encoder: TextEncoder) -> None:
    stage = TextFeatures(max_tokens=16, captions="source")
    captions = {"caption_short": "a red circle", "caption_long": "a red circle moves to the left"}
    given, missing = apply(stage, encoder, [{**captions, "source_caption": each} for each in ("IMG_1 red", None)])
    found = np.frombuffer(given["short_text"], given["short_text_dtype"]).reshape(given["short_text_shape"])
    np.testing.assert_allclose(found, encoder.encode(["IMG_1 red"])[0].numpy(), atol=5e-3)
    assert given["long_text"] == given["short_text"]
    usual = apply(TextFeatures(max_tokens=16), encoder, [captions])[0]
    assert missing["short_text"] == usual["short_text"]
    assert missing["caption_hash"] == usual["caption_hash"] != given["caption_hash"]
    assert stage.fresh(given)
    assert not stage.fresh({**given, "source_caption": "IMG_2 blue"})
    assert stage.fresh({**given, "caption_long": "something else"}), "it was not encoded"
