"""Text features of the two captions of a clip, of their true length: padding is the model's own business.

To train on captions as they were found, `captions="source"` encodes the one that came with the source in place of both,
where there is one.

NOVA is conditioned on the last hidden state of a causal language model (Phi-2 in the releases), so features of a token
depend on nothing behind it and a batch may be padded on the right without a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from pipelines.core.stage import Row, Stage
from pipelines.store import schema

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class TextEncoder:
    """A transformers language model: the last hidden state of each token of a prompt."""

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int) -> None:
        self.model, self.tokenizer, self.max_tokens = model, tokenizer, max_tokens

    @classmethod
    def load(cls, name: str, dtype: torch.dtype, max_tokens: int, tokenizer: str | None = None) -> TextEncoder:
        """Loads a folder or hub id as `AutoModel` and `AutoTokenizer` read it.

        Args:
            name: of the model.
            dtype: of its weights.
            max_tokens: longer prompts are cut.
            tokenizer: where it lies elsewhere, as in a released folder.

        Raises:
            ValueError: it cannot be loaded.
        """
        from nova_model.checkpoints.released import load_text_encoder, load_tokenizer
        from pipelines.core.model_hub import device, folder, loading, quiet

        quiet()
        with loading(name):
            model = load_text_encoder(folder(name), dtype, name="AutoModel").to(device())
        with loading(tokenizer or name):
            found = load_tokenizer(folder(tokenizer or name))
        return cls(model, found, max_tokens)

    def encode(self, texts: Sequence[str]) -> list[Tensor]:
        """Texts -> fp32 features [tokens, dim] each; an empty text has none."""
        from nova_model.diffusers.text_encoder import encode

        found = encode(self.model, self.tokenizer, texts, self.max_tokens, self.model.device)
        return [features.cpu() for features in found]


@dataclass(frozen=True, kw_only=True)
class TextFeatures(Stage):
    """Encodes the short and the long caption of a clip."""

    name: ClassVar[str] = "text"
    reads: ClassVar[tuple[str, ...]] = ("caption_short", "caption_long", "source_caption")
    adds: ClassVar[tuple[str, ...]] = (
        "short_text", "short_text_shape", "short_text_dtype", "long_text", "long_text_shape", "long_text_dtype",
        "caption_hash",
    )  # fmt: skip

    captions: Literal["captioner", "source"] = "captioner"
    """Which are encoded: the captioner's, or for both the one that came with the source, where there is one."""
    model: str
    """transformers language model: a folder or a hub id."""
    tokenizer: str | None = None
    """The model's own by default."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """auto is bf16 on a GPU and fp32 on a CPU."""
    max_tokens: int = 256
    """Longer captions are cut; what NOVA was trained with."""

    def identity(self) -> tuple[object, ...]:
        from pipelines.core.model_hub import digest

        return (*super().identity(), digest(self.model))

    def fresh(self, row: Row) -> bool:
        """Features are fresh where encoder and captions are those they were made with."""
        return super().fresh(row) and row.get("caption_hash") == self._hash(row)

    def load(self) -> TextEncoder:
        from pipelines.core.model_hub import dtype

        return TextEncoder.load(self.model, dtype(self.precision), self.max_tokens, self.tokenizer)

    def process(self, model: TextEncoder, rows: Sequence[Row]) -> list[Row | Exception]:
        chosen = [self._chosen(row) for row in rows]
        encoded = model.encode([captions[index] for index in range(2) for captions in chosen])
        pairs = zip(rows, encoded[: len(rows)], encoded[len(rows) :], strict=True)
        return [
            _array("short_text", short) | _array("long_text", long) | {"caption_hash": self._hash(row)}
            for row, short, long in pairs
        ]

    def _chosen(self, row: Row) -> tuple[str, str]:
        """The short and the long caption that are encoded."""
        if self.captions == "source" and row["source_caption"]:
            return row["source_caption"], row["source_caption"]
        return row["caption_short"], row["caption_long"]

    def _hash(self, row: Row) -> str:
        return schema.derived_id(*self._chosen(row))


def _array(name: str, features: Tensor) -> Row:
    values = features.numpy().astype(np.float16)
    return {name: values.tobytes(), f"{name}_shape": list(values.shape), f"{name}_dtype": "float16"}
