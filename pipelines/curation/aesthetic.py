"""Beauty scores: open_clip image features and a LAION head (linear or MLP).

The heads score about 1 to 10; 4.5 to 5.5 is a common cut. The mean embedding of a clip is kept, and its frames as
thumbnails, for near duplicates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pipelines.core.stage import Row, Stage
from pipelines.media.errors import MediaError
from pipelines.media.frames import clip_times, read_frames

if TYPE_CHECKING:
    from torch import Tensor, nn

THUMBNAIL = 16
"""Pixels of a thumbnail, each way."""


class ClipModel:
    """An open_clip model: unit-length features of pictures and texts."""

    def __init__(self, model: Any, transform: Any, tokenizer: Any) -> None:
        self.model, self.transform, self.tokenizer = model, transform, tokenizer

    @classmethod
    def load(cls, name: str, pretrained: str | None = None) -> ClipModel:
        """Loads a folder (open_clip_config.json and open_clip_model.safetensors), a hub id, or an architecture.

        Args:
            name: local folder, OWNER/REPO, or an open_clip architecture such as ViT-L-14.
            pretrained: tag of the weights of an architecture, such as openai.

        Raises:
            ValueError: it cannot be loaded.
        """
        import open_clip

        from pipelines.core.devices import device
        from pipelines.core.model_hub import folder, loading

        with loading(name):
            if "/" in name or Path(name).exists():
                place = f"local-dir:{folder(name)}"
                model, transform = open_clip.create_model_from_pretrained(place, device=device())
                return cls(model.eval(), transform, open_clip.get_tokenizer(place))
            model, _, transform = open_clip.create_model_and_transforms(
                name, pretrained=pretrained, device=device(), force_quick_gelu=pretrained == "openai"
            )
            return cls(model.eval(), transform, open_clip.get_tokenizer(name))

    def image_features(self, frames: Sequence[np.ndarray]) -> Tensor:
        """RGB uint8 frames [H, W, 3], of any sizes -> fp32 [N, D], unit length."""
        import torch
        from PIL import Image

        pixels = torch.stack([self.transform(Image.fromarray(frame)) for frame in frames])
        weight = next(self.model.parameters())
        with torch.inference_mode():
            return self.model.encode_image(pixels.to(weight), normalize=True).float().cpu()

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Texts -> fp32 [N, D], unit length."""
        import torch

        tokens = self.tokenizer(list(texts)).to(next(self.model.parameters()).device)
        with torch.inference_mode():
            return self.model.encode_text(tokens, normalize=True).float().cpu()


def load_head(path: str) -> nn.Module:
    """A LAION aesthetic head: its form is recognised from its keys.

    One Linear (`weight`, `bias`), or the MLP whose layers are `layers.0`, `layers.2`, … with dropouts (nothing at
    inference) between and no activation.

    Args:
        path: file or folder; .pth is loaded with weights_only, .safetensors as it is.

    Raises:
        ValueError: no head there.
    """
    import torch
    from safetensors.torch import load_file
    from torch import nn

    from pipelines.core.model_hub import folder, loading

    place = folder(path)
    if place.is_dir():
        found = [*place.glob("*.safetensors"), *place.glob("*.pth")]
        if not found:
            raise ValueError(f"no aesthetic head in {place}; name a .pth or .safetensors file")
        place = found[0]
    with loading(path):
        if place.suffix == ".safetensors":
            state = load_file(place)
        else:
            state = torch.load(place, map_location="cpu", weights_only=True)
    weights = [name for name, value in state.items() if name.endswith("weight") and value.ndim == 2]
    if not weights:
        raise ValueError(f"{place} is no aesthetic head: it holds {', '.join(list(state)[:3])}")
    layers = []
    for name in sorted(weights, key=_number):
        weight, bias = state[name], state[name.removesuffix("weight") + "bias"]
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight.float(), "bias": bias.float()})
        layers.append(layer)
    return nn.Sequential(*layers).eval()


def _number(name: str) -> int:
    digits = [part for part in name.split(".") if part.isdigit()]
    return int(digits[-1]) if digits else 0


class Scorer:
    """CLIP and a head that fit each other.

    Raises:
        ValueError: the head takes embeddings of another width.
    """

    def __init__(self, clip: ClipModel, head: nn.Module) -> None:
        self.clip, self.head = clip, head
        takes = next(head.parameters()).shape[1]
        gives = clip.image_features([np.zeros((8, 8, 3), np.uint8)]).shape[1]
        if takes != gives:
            raise ValueError(f"the aesthetic head takes embeddings of {takes} values, the CLIP model gives {gives}")

    def __call__(self, features: Tensor) -> np.ndarray:
        """Unit-length features [N, D] -> scores [N]."""
        import torch

        with torch.inference_mode():
            return self.head(features).squeeze(-1).numpy()


@dataclass(frozen=True, kw_only=True)
class Aesthetic(Stage):
    """Scores frames spread over a clip; keeps the mean, the lowest, the mean embedding, and thumbnails."""

    name: ClassVar[str] = "aesthetic"
    reads: ClassVar[tuple[str, ...]] = ("uri", "kind", "start", "end")
    adds: ClassVar[tuple[str, ...]] = (
        "aesthetic_mean", "aesthetic_min", "embedding", "embedding_shape", "embedding_dtype", "thumbnails",
    )  # fmt: skip

    model: str
    """open_clip model: a folder, a hub id, or an architecture such as ViT-L-14."""
    pretrained: str | None = None
    """Weights of an architecture, such as openai."""
    head: str
    """LAION head: a .pth or .safetensors file, for the model's width."""
    frames: int = 3
    """Frames scored of a video."""
    short_side: int = 336
    """Pixels that frames are decoded at; at least what the model looks at."""

    def identity(self) -> tuple[object, ...]:
        from pipelines.core.model_hub import digest

        model = digest(self.model) if "/" in self.model else self.model
        return (*super().identity(), model, digest(self.head))

    def load(self) -> Scorer:
        return Scorer(ClipModel.load(self.model, self.pretrained), load_head(self.head))

    def process(self, model: Scorer, rows: Sequence[Row]) -> list[Row | Exception]:
        decoded = [self._frames(row) for row in rows]
        good = [frames for frames in decoded if not isinstance(frames, Exception)]
        if not good:
            return [each for each in decoded if isinstance(each, Exception)]
        features = model.clip.image_features([frame for frames in good for frame in frames])
        scores = model(features)
        ends = np.cumsum([len(frames) for frames in good])
        spans = iter(zip([0, *ends[:-1]], ends, strict=True))
        return [
            frames if isinstance(frames, Exception) else self._row(frames, scores, features, *next(spans))
            for frames in decoded
        ]

    def _frames(self, row: Row) -> np.ndarray | Exception:
        try:
            times = clip_times(row, count=self.frames)
            return read_frames(row["uri"], times, short_side=self.short_side)
        except MediaError as error:
            return error

    def _row(self, frames: np.ndarray, scores: np.ndarray, features: Tensor, start: int, end: int) -> Row:
        mean = features[start:end].mean(dim=0)
        embedding = (mean / mean.norm()).numpy().astype(np.float16)
        return {
            "aesthetic_mean": float(scores[start:end].mean()),
            "aesthetic_min": float(scores[start:end].min()),
            "embedding": embedding.tobytes(),
            "embedding_shape": list(embedding.shape),
            "embedding_dtype": "float16",
            "thumbnails": thumbnails(frames).tobytes(),
        }


def thumbnails(frames: np.ndarray) -> np.ndarray:
    """RGB uint8 frames [N, H, W, 3] -> [N, 16, 16, 3]."""
    from PIL import Image

    size = (THUMBNAIL, THUMBNAIL)
    return np.stack([np.asarray(Image.fromarray(each).resize(size, Image.Resampling.BOX)) for each in frames])
