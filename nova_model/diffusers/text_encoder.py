"""The text encoder of the releases, and features of prompts.

Features are the last hidden states, after the final norm, of a causal language model (Phi-2). The state of a token
depends on no later token, so that the prompts of a batch can be padded on the right without a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PhiForCausalLM


class PhiEncoderModel(PhiForCausalLM):
    """Phi without the output of its head, whose weights are kept so that a checkpoint is saved as it was loaded."""

    def forward(self, input_ids: Tensor, **settings: Any) -> Any:
        """Token ids [B, S] -> an output with `last_hidden_state` [B, S, D]."""
        return self.model(input_ids=input_ids, use_cache=False, **settings)


@torch.no_grad()
def encode(
    text_encoder: Any, tokenizer: Any, texts: Sequence[str], max_tokens: int, device: torch.device | str
) -> list[Tensor]:
    """Computes the features of prompts in their true length; an empty prompt has none.

    Args:
        text_encoder: a model of transformers that returns a last hidden state.
        tokenizer: the tokenizer of the model.
        texts: prompts; equal ones are encoded once.
        max_tokens: length to which longer prompts are truncated.
        device: device of the text encoder.

    Returns:
        fp32 [tokens, D] for each prompt, on that device.
    """
    ids = {text: tokenizer(_valid(text), truncation=True, max_length=max_tokens)["input_ids"] for text in texts}
    max_length = max(map(len, ids.values()), default=0)
    if max_length == 0:
        return [torch.zeros(0, text_encoder.config.hidden_size, device=device) for _ in texts]
    rows = [tokens + [0] * (max_length - len(tokens)) for tokens in ids.values()]
    padded = torch.tensor(rows, dtype=torch.long, device=device)  # [distinct texts, S]
    hidden = text_encoder(padded).last_hidden_state.float()  # [distinct texts, S, D]
    features = {text: row[: len(tokens)] for (text, tokens), row in zip(ids.items(), hidden, strict=True)}
    return [features[text] for text in texts]


def _valid(text: str) -> str:
    """The text with U+FFFD for surrogates without their other half, as a text cut within an emoji ends with one.

    Tokenizers take UTF-8, which has none.
    """
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
