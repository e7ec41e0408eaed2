"""Text features of the two captions of a clip, of their true length: padding is the model's own business.

To train on captions as they were found, `captions="source"` encodes the one that came with the source in place of both,
where there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from pipelines.core.devices import dtype
from pipelines.core.model_hub import digest
from pipelines.core.stage import Row, Stage
from pipelines.core.text_encoder import TextEncoder
from pipelines.store import schema

if TYPE_CHECKING:
    from torch import Tensor


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
        return (*super().identity(), digest(self.model))

    def fresh(self, row: Row) -> bool:
        """Features are fresh where encoder and captions are those they were made with."""
        return super().fresh(row) and row.get("caption_hash") == self._hash(row)

    def load(self) -> TextEncoder:
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
