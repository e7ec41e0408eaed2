"""`build` writes models that the loaders of their classes read, with cards; the bundled models are complete."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipelines.core import model_hub
from pipelines.shapes_world.zoo import BUNDLED, NAMES, NOVA, build, path


def test_a_model_is_trained_written_and_described(tmp_path):
    from transformers import AutoModel, AutoTokenizer

    lines: list[str] = []
    folder = build.build("text_encoder", tmp_path, steps=2, report=lines.append)
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        features = model(**tokenizer("a red circle", return_tensors="pt")).last_hidden_state
    assert features.shape == (1, 3, model.config.hidden_size)
    card = (folder / "README.md").read_text()
    assert card.startswith("# zoo/text_encoder\n")
    assert "`nova zoo build text_encoder`, seed 13, learning rate 0.002: 2 steps, " in card
    assert lines == [f"text_encoder: {folder}"]
    assert (tmp_path / ".training" / "text_encoder.pt").exists()


def test_an_unknown_model_is_an_error_that_lists_the_zoo():
    with pytest.raises(ValueError, match="unknown model 'dog'; the zoo has vae, clip"):
        build.build("dog", BUNDLED)
    with pytest.raises(ValueError, match="model 'zoo/dog': the zoo has vae"):
        model_hub.resolve("zoo/dog")


def test_the_zoo_is_small():
    """All models are bundled, so that nothing has to be downloaded."""
    sizes = {name: size(BUNDLED / name) for name in (*NAMES, NOVA)}
    assert 0 < sizes.pop(NOVA) < 10e6
    assert 0 < sum(sizes.values()) < 24e6
    assert all(sizes.values())


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_bundled_models_have_cards():
    for folder in BUNDLED.iterdir():
        assert folder.name in (*NAMES, NOVA)
        assert path(folder.name) == folder
        assert (folder / "README.md").read_text().startswith(f"# zoo/{folder.name}\n")
