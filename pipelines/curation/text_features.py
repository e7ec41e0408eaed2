"""Text features of the two captions of a clip, at their true length: the model pads them when it is trained.

To train on captions as they come with the data, `captions="source"` encodes a source's own caption in place of both.
Clips without one keep the captioner's.
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
    """Captions to encode: the captioner's, or in place of both the source's own caption, where there is one."""
    model: str
    """transformers language model: a folder or a hub id."""
    tokenizer: str | None = None
    """The model's own by default."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """auto is bf16 on a GPU and fp32 on a CPU."""
    max_tokens: int = 256
    """Longer captions are cut; NOVA was trained with 256."""

    def identity(self) -> tuple[object, ...]:
        return (*super().identity(), digest(self.model))

    def fresh(self, row: Row) -> bool:
        """Features are fresh where both the encoder and the captions are the ones they were computed from."""
        # The fingerprint covers settings and weights, and not the input: a new captioner changes captions, not the
        # encoder.
        return super().fresh(row) and row.get("caption_hash") == self.caption_hash(row)

    def load(self) -> TextEncoder:
        return TextEncoder.load(self.model, dtype(self.precision), self.max_tokens, self.tokenizer)

    def process(self, model: TextEncoder, rows: Sequence[Row]) -> list[Row | Exception]:
        captions = [self._captions(row) for row in rows]
        # One call for both captions of all rows: short and long ones are padded to the longest, which costs less than a
        # second call.
        encoded = model.encode([*(short for short, _ in captions), *(long for _, long in captions)])
        pairs = zip(rows, encoded[: len(rows)], encoded[len(rows) :], strict=True)
        return [
            _array("short_text", short) | _array("long_text", long) | {"caption_hash": self.caption_hash(row)}
            for row, short, long in pairs
        ]

    def _captions(self, row: Row) -> tuple[str, str]:
        """The short and the long caption to encode."""
        if self.captions == "source" and row["source_caption"]:
            return row["source_caption"], row["source_caption"]
        return row["caption_short"], row["caption_long"]

    def caption_hash(self, row: Row) -> str:
        """Hash of the captions of a clip that are encoded."""
        return schema.derived_id(*self._captions(row))


def _array(name: str, features: Tensor) -> Row:
    # bytes with a shape and a type: Arrow has no bfloat16, Delta refuses float16 columns, and arrays of different
    # lengths in one column would be pickled.
    values = features.numpy().astype(np.float16)
    return {name: values.tobytes(), f"{name}_shape": list(values.shape), f"{name}_dtype": "float16"}
