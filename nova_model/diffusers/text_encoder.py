"""The release's text encoder, and prompts to features.

Features are the last hidden states, after the final norm, of a causal language model (Phi-2). What a token gives
depends on nothing behind it, so prompts of a batch are padded on the right without a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PhiForCausalLM


class PhiEncoderModel(PhiForCausalLM):
    """Phi without what its head says; the head's weights stay, so that a checkpoint is saved as it was loaded."""

    def forward(self, input_ids: Tensor, **settings: Any) -> Any:
        """Token ids [B, S] -> an output with last_hidden_state [B, S, D]."""
        return self.model(input_ids=input_ids, use_cache=False, **settings)


@torch.no_grad()
def encode(
    text_encoder: Any, tokenizer: Any, texts: Sequence[str], max_tokens: int, device: torch.device | str
) -> list[Tensor]:
    """Features of prompts, of their true length; an empty prompt has none.

    Args:
        text_encoder: a transformers model with a last hidden state.
        tokenizer: its own.
        texts: prompts; each is encoded once.
        max_tokens: longer prompts are cut.
        device: where the encoder runs.

    Returns:
        fp32 [tokens, D] each, on that device.
    """
    ids = {text: tokenizer(text, truncation=True, max_length=max_tokens)["input_ids"] for text in texts}
    longest = max(map(len, ids.values()), default=0)
    if longest == 0:
        return [torch.zeros(0, text_encoder.config.hidden_size, device=device) for _ in texts]
    padded = torch.tensor([row + [0] * (longest - len(row)) for row in ids.values()], dtype=torch.long, device=device)
    hidden = text_encoder(padded).last_hidden_state.float()
    features = {text: row[: len(found)] for (text, found), row in zip(ids.items(), hidden, strict=True)}
    return [features[text] for text in texts]
