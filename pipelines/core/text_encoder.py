"""A transformers language model as a text encoder.

NOVA is conditioned on the last hidden state of a causal language model (Phi-2 in the releases). The features of a token
depend on nothing after it, so a batch may be padded on the right without an attention mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipelines.core.devices import device
from pipelines.core.model_hub import folder, loading, quiet

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# nova_model's loaders import torch and transformers (10 s and more together), so only the worker that encodes does.


class TextEncoder:
    """Encodes prompts as the last hidden state of each of their tokens."""

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int) -> None:
        self.model, self.tokenizer, self.max_tokens = model, tokenizer, max_tokens

    @classmethod
    def load(cls, name: str, dtype: torch.dtype, max_tokens: int, tokenizer: str | None = None) -> TextEncoder:
        """Loads a folder or hub id with transformers' `AutoModel` and `AutoTokenizer`.

        Args:
            name: folder or hub id of the model.
            dtype: data type of its weights.
            max_tokens: longer prompts are cut.
            tokenizer: folder or hub id of the tokenizer; by default that of the model.

        Raises:
            ValueError: the model or the tokenizer cannot be loaded.
        """
        from nova_model.checkpoints.released import load_text_encoder, load_tokenizer

        quiet()
        with loading(name):
            # `AutoModel` leaves out the language head, which takes memory and is not used.
            model = load_text_encoder(folder(name), dtype, class_name="AutoModel").to(device())
        with loading(tokenizer or name):
            loaded_tokenizer = load_tokenizer(folder(tokenizer or name))
        return cls(model, loaded_tokenizer, max_tokens)

    def encode(self, texts: Sequence[str]) -> list[Tensor]:
        """Returns fp32 features [tokens, dim] of each text on the CPU; an empty text has no tokens."""
        from nova_model.diffusers.text_encoder import encode

        encoded = encode(self.model, self.tokenizer, texts, self.max_tokens, self.model.device)
        # Off the GPU at once: the features of a whole batch are stored, and not used there.
        return [features.cpu() for features in encoded]
