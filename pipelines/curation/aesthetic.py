"""Aesthetic scores: open_clip image features and a LAION head (linear or MLP).

The heads score about 1 to 10; a common threshold is 4.5 to 5.5. The mean embedding of a clip and thumbnails of its
frames are stored beside the scores, for the search of near duplicates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image

from pipelines.core.devices import device
from pipelines.core.model_hub import digest, folder, loading
from pipelines.core.stage import Row, Stage
from pipelines.media.frames import sample_clip

if TYPE_CHECKING:
    from torch import Tensor, nn

THUMBNAIL = 16
"""Width and height of a thumbnail in pixels: 768 bytes per frame, and detail enough to tell copies from lookalikes."""


def is_architecture(name: str) -> bool:
    """Whether an open_clip model is named by its architecture, rather than by a folder or hub id that holds weights."""
    return "/" not in name and not Path(name).exists()


def unused_weights(model: str, pretrained: str | None) -> dict[str, str]:
    """The `unused_settings` of a stage with a CLIP model."""
    if pretrained is None or is_architecture(model):
        return {}
    return {"pretrained": f"on {model}, which holds its own weights; leave it out, or name an architecture as model"}


class ClipModel:
    """An open_clip model that returns unit-length features of images and texts."""

    def __init__(self, model: Any, transform: Any, tokenizer: Any) -> None:
        self.model, self.transform, self.tokenizer = model, transform, tokenizer

    @classmethod
    def load(cls, name: str, pretrained: str | None = None) -> ClipModel:
        """Loads a folder (open_clip_config.json and open_clip_model.safetensors), a hub id, or an architecture.

        Args:
            name: local folder, OWNER/REPO, or an open_clip architecture such as ViT-L-14.
            pretrained: tag of the weights of an architecture, such as openai.

        Raises:
            ValueError: the model cannot be loaded.
        """
        import open_clip

        with loading(name):
            if not is_architecture(name):
                location = f"local-dir:{folder(name)}"
                model, transform = open_clip.create_model_from_pretrained(location, device=device())
                return cls(model.eval(), transform, open_clip.get_tokenizer(location))
            # OpenAI trained with QuickGELU, which open_clip's configurations of the same architectures do not use: the
            # weights would load all the same, and give wrong features.
            model, _, transform = open_clip.create_model_and_transforms(
                name, pretrained=pretrained, device=device(), force_quick_gelu=pretrained == "openai"
            )
            return cls(model.eval(), transform, open_clip.get_tokenizer(name))

    def image_features(self, frames: Sequence[np.ndarray]) -> Tensor:
        """Features of RGB uint8 frames [H, W, 3] of any sizes: fp32 [N, D], unit length, on the CPU."""
        import torch

        # Through PIL, as the model's own transform resizes with antialiasing; other resizing changes the scores.
        pixels = torch.stack([self.transform(Image.fromarray(frame)) for frame in frames])
        weight = next(self.model.parameters())
        with torch.inference_mode():
            # Unit length, as the heads were trained on it; in fp32, as cosines near 1 are compared later.
            return self.model.encode_image(pixels.to(weight), normalize=True).float().cpu()

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Features of texts: fp32 [N, D], unit length, on the CPU."""
        import torch

        tokens = self.tokenizer(list(texts)).to(next(self.model.parameters()).device)
        with torch.inference_mode():
            return self.model.encode_text(tokens, normalize=True).float().cpu()


def load_head(path: str) -> nn.Module:
    """Loads a LAION aesthetic head; its architecture follows from the keys of its state.

    It is one Linear (`weight`, `bias`), or an MLP whose layers are `layers.0`, `layers.2`, … The published MLP has
    dropouts between its layers, which do nothing at inference, and no activations, so linear layers in the order of
    their numbers are all of it.

    Args:
        path: a file or folder; .pth files are loaded with weights_only, so that no code in them runs.

    Raises:
        ValueError: there is no aesthetic head at that path.
    """
    import torch
    from safetensors.torch import load_file
    from torch import nn

    location = folder(path)
    if location.is_dir():
        candidates = [*location.glob("*.safetensors"), *location.glob("*.pth")]
        if not candidates:
            raise ValueError(f"no aesthetic head in {location}; name a .pth or .safetensors file")
        location = candidates[0]
    with loading(path):
        if location.suffix == ".safetensors":
            state = load_file(location)
        else:
            state = torch.load(location, map_location="cpu", weights_only=True)
    weights = [name for name, value in state.items() if name.endswith("weight") and value.ndim == 2]
    if not weights:
        names = ", ".join(list(state)[:3])
        raise ValueError(f"no aesthetic head in {location}, which contains {names}; give a LAION head")
    # Built from the shapes, as the published files hold weights and no configuration.
    layers = []
    for name in sorted(weights, key=_layer_number):
        weight, bias = state[name], state[name.removesuffix("weight") + "bias"]
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight.float(), "bias": bias.float()})
        layers.append(layer)
    return nn.Sequential(*layers).eval()


def _layer_number(name: str) -> int:
    """The number in a name such as layers.10.weight, which as text would come before layers.2.weight."""
    numbers = [int(word) for word in name.split(".") if word.isdigit()]
    return numbers[-1] if numbers else 0


class Scorer:
    """A CLIP model and a head for embeddings of its width.

    Raises:
        ValueError: the head takes embeddings of another width.
    """

    def __init__(self, clip: ClipModel, head: nn.Module) -> None:
        self.clip, self.head = clip, head
        head_width = next(head.parameters()).shape[1]
        # open_clip's models name their width differently; features of one image show it.
        clip_width = clip.image_features([np.zeros((8, 8, 3), np.uint8)]).shape[1]
        if head_width != clip_width:
            raise ValueError(
                f"the aesthetic head takes embeddings of {head_width} values, the CLIP model gives {clip_width}; "
                "choose the head that was trained on this CLIP model"
            )

    def __call__(self, features: Tensor) -> np.ndarray:
        """Scores [N] of unit-length features [N, D]."""
        import torch

        with torch.inference_mode():
            return self.head(features).squeeze(-1).numpy()


@dataclass(frozen=True, kw_only=True)
class Aesthetic(Stage):
    """Scores frames spread over a clip: mean and lowest score, mean embedding, and thumbnails."""

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
    """LAION head: a .pth or .safetensors file, trained on the same CLIP model."""
    frames: int = 3
    """Frames of a video that are scored."""
    short_side: int = 336
    """Short side in pixels at which frames are decoded; at least the size of the model's input."""

    def unused_settings(self) -> dict[str, str]:
        return unused_weights(self.model, self.pretrained)

    def identity(self) -> tuple[object, ...]:
        # A name without a slash is an architecture of open_clip, whose weights follow from `pretrained`.
        model = digest(self.model) if "/" in self.model else self.model
        return (*super().identity(), model, digest(self.head))

    def load(self) -> Scorer:
        return Scorer(ClipModel.load(self.model, self.pretrained), load_head(self.head))

    def process(self, model: Scorer, rows: Sequence[Row]) -> list[Row | Exception]:
        decoded = [sample_clip(row, self.frames, short_side=self.short_side) for row in rows]
        good = [frames for frames in decoded if not isinstance(frames, Exception)]
        if not good:
            return [error for error in decoded if isinstance(error, Exception)]
        # Frames of all clips in one call of the model; `spans` cuts the results up again.
        features = model.clip.image_features([frame for frames in good for frame in frames])  # [frames, D]
        scores = model(features)
        ends = np.cumsum([len(frames) for frames in good])
        spans = iter(zip([0, *ends[:-1]], ends, strict=True))
        return [
            frames if isinstance(frames, Exception) else self._row(frames, scores, features, *next(spans))
            for frames in decoded
        ]

    def _row(self, frames: np.ndarray, scores: np.ndarray, features: Tensor, start: int, end: int) -> Row:
        mean = features[start:end].mean(dim=0)
        # The mean of unit vectors is shorter than 1, the more so the more a clip changes.
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
    """Shrinks RGB uint8 frames [N, H, W, 3] to [N, 16, 16, 3]."""
    size = (THUMBNAIL, THUMBNAIL)
    # A box filter averages the pixels of each cell, so small shifts and noise change little.
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX)) for frame in frames])
