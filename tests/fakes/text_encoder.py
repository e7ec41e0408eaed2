"""fake/text_encoder: a Phi of width 64 with random weights. Its features distinguish prompts but have no meaning."""

from __future__ import annotations

from pathlib import Path

from pipelines.core.model_hub import quiet
from pipelines.shapes_world.zoo.vocabulary import make_tokenizer
from tests.fakes.weights import fill

SEED = 3
POSITIONS = 512


def build(folder: Path) -> None:
    """Writes the files that `AutoModel` and `AutoTokenizer` load."""
    from transformers import PhiConfig, PhiModel

    quiet()
    tokenizer = make_tokenizer(model_max_length=POSITIONS)
    config = PhiConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=POSITIONS,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = PhiModel(config)
    fill(model, SEED)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
