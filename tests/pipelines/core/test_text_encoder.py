"""The text encoder: true lengths, no dependence on padding, errors of one line."""

from __future__ import annotations

import pytest
import torch

from pipelines.core.text_encoder import TextEncoder


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder.load("fake/text_encoder", torch.float32, max_tokens=16)


def test_features_are_of_true_length_and_do_not_depend_on_what_is_beside_them(encoder: TextEncoder) -> None:
    texts = ["a red circle", "a small green triangle moves slowly to the left on a white background", ""]
    together = encoder.encode(texts)
    lengths = [len(encoder.tokenizer(text)["input_ids"]) for text in texts]
    assert [len(features) for features in together] == [lengths[0], min(lengths[1], 16), 0]
    for text, features in zip(texts, together, strict=True):
        torch.testing.assert_close(features, encoder.encode([text])[0], atol=1e-5, rtol=1e-5)


def test_features_are_the_last_hidden_state(encoder: TextEncoder) -> None:
    ids = torch.tensor([encoder.tokenizer("a red circle")["input_ids"]])
    with torch.no_grad():
        expected = encoder.model(ids).last_hidden_state[0]
    torch.testing.assert_close(encoder.encode(["a red circle"])[0], expected)


def test_half_a_character_is_encoded_as_its_replacement(encoder: TextEncoder) -> None:
    cut, replaced = encoder.encode(["a red circle \ud83d", "a red circle \ufffd"])
    torch.testing.assert_close(cut, replaced)


def test_a_missing_model_is_one_line() -> None:
    with pytest.raises(ValueError, match="no such folder"):
        TextEncoder.load("/nowhere/phi", torch.float32, 16)
