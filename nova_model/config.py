"""Configs: the architecture (a checkpoint's `transformer/config.json`), how samples are drawn, how tokens are masked.

Presets of whole architectures are data, in `presets.py`. Letters in field descriptions: B batch, T latent frames,
C latent channels, L text tokens, D encoder width, p patch size, N spatial tokens of a frame.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

_VIT = re.compile(r"vit_d(\d+)w(\d+)(?:h(\d+))?")
_MLP = re.compile(r"mlp_d(\d+)w(\d+)")
TEXT_ROWS = 512
"""Rows of the buffer that pads prompts, in every release."""
VIDEO_FRAMES = 9
"""Default length of a video in latent frames: the 33 pixel frames that the text-to-video release was trained on."""
# The released names give depth and width only; these are the heads that the releases have at each width.
_HEADS = {64: 4, 768: 12, 1024: 16, 1536: 16}
NORMS = ("post", "pre", "post_add")
NETWORKS = ("temporal", "spatial", "denoiser")
"""The three networks of the model, in the order of `NovaConfig.arch`; activation checkpointing is chosen for each."""
RELEASED_DEFAULTS: dict[str, Any] = {
    "image_dim": 4,
    "image_size": 512,
    "image_stride": 8,
    "text_token_dim": 2560,
    "text_token_len": 256,
    "image_base_size": (32, 32),
    "video_base_size": (1, 16, 16),
    "video_mixer_rank": None,
    "rotary_pos_embed": False,
    "arch": ("vit_d16w1024", "vit_d32w1024", "mlp_d6w1024"),
}
"""Values of the keys that a released config.json may leave out: those of the first release, nova-d48w1024-sd512."""


@dataclass(frozen=True)
class VitSize:
    """Depth, width and heads of a transformer; its name in a config looks like vit_d16w1024 (or …h8)."""

    depth: int
    width: int
    heads: int


@dataclass(frozen=True)
class MlpSize:
    """Depth and width of the denoiser; its name in a config looks like mlp_d6w1024."""

    depth: int
    width: int


@dataclass(frozen=True, kw_only=True)
class NovaConfig:
    """An architecture: the keys of the released config.json, and switches for ablations, which no release has.

    Architecture keys have no defaults, so that no release is chosen silently. Only what the releases leave out, class
    labels and ablations, has one.

    Raises:
        ValueError: an unknown arch, or sizes that do not fit together.
    """

    image_dim: int
    """C, channels of a latent."""
    image_size: int | tuple[int, int]
    """Pixels that the model was trained on: the side of a square, or (height, width)."""
    image_stride: int
    """Pixels per latent in each direction."""
    text_token_dim: int | None
    """Dimension of a text feature; None, together with text_token_len, for a model of class labels."""
    text_token_len: int | None
    """L, text tokens of a prompt; None for a model of class labels."""
    image_base_size: tuple[int, int]
    """Rows and columns of a frame's spatial tokens."""
    video_base_size: tuple[int, int, int]
    """Number of frames that frame times are scaled to, whatever a video's length; rows and columns of a frame's
    temporal tokens."""
    video_mixer_rank: int | None
    """Rank of scaling and shift: below 0 without the low-rank step, 0 or None without scaling and shift."""
    rotary_pos_embed: bool
    """Whether positions are rotary instead of absolute."""
    arch: tuple[str, str, str]
    """Names of the temporal encoder, the spatial encoder and the denoiser."""
    label_classes: int = 1000
    """Number of classes of a model of class labels."""
    sees_frames: bool = True
    """False is the ablation without temporal modelling: the indicator features of every frame come from the
    conditioning and from begin-of-video tokens at the frame's time; no frame attends to another, nothing is cached."""
    sees_motion: bool = True
    """False is the ablation in which neither motion score nor frames per second condition a video model."""
    norm: str = "post"
    """Position of the LayerNorm in the blocks of both encoders: post, on the output of a branch before the addition, as
    released; ablations: pre, on the input of a branch; post_add, after the addition."""

    def __post_init__(self) -> None:
        self._check_sizes()
        if self.norm not in NORMS:
            raise ValueError(f"norm is {self.norm!r}; choose {', '.join(NORMS)}")
        if len(self.arch) != 3:
            raise ValueError(f"arch {self.arch}: name temporal encoder, spatial encoder and denoiser")
        _mlp(self.arch[2])
        if self.temporal.width != self.spatial.width:
            raise ValueError(f"arch {self.arch}: temporal and spatial encoder must have one width")
        for size in (self.temporal, self.spatial):
            if size.depth < 1:
                raise ValueError(f"arch {self.arch}: an encoder has at least one layer")
            # Sine-cosine positions split the width into four: sines and cosines of row and column.
            if size.heads < 1 or size.width % 4 or size.width % size.heads:
                raise ValueError(
                    f"arch {self.arch}: width {size.width} must be divisible by 4 and by {size.heads} heads"
                )
            # An eighth of a head goes to time and the rest in halves to row and column, all in pairs of channels.
            if self.rotary_pos_embed and (size.width // size.heads) % 32:
                raise ValueError(f"arch {self.arch}: rotary positions need a head size divisible by 32")

    def _check_sizes(self) -> None:
        for name in ("image_dim", "image_stride", "label_classes"):
            if not _is_positive_int(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be a whole number of at least 1")
        self._check_text()
        rank = self.video_mixer_rank
        if rank is not None and not isinstance(rank, int):
            raise ValueError(f"video_mixer_rank is {rank!r}; it must be a whole number, or null for no mixer")
        for name, size, count in (
            ("image_size", self.pixel_size, 2),
            ("image_base_size", self.image_base_size, 2),
            ("video_base_size", self.video_base_size, 3),
        ):
            if not isinstance(size, tuple) or len(size) != count or not all(map(_is_positive_int, size)):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be {count} whole numbers of at least 1")

    def _check_text(self) -> None:
        sizes = {"text_token_dim": self.text_token_dim, "text_token_len": self.text_token_len}
        for name, size in sizes.items():
            if size is not None and not _is_positive_int(size):
                raise ValueError(f"{name} is {size!r}; it must be a whole number, or null for labels")
        if (self.text_token_dim is None) != (self.text_token_len is None):
            absent, present = sorted(sizes, key=lambda name: sizes[name] is not None)
            raise ValueError(
                f"{absent} is null and {present} is {sizes[present]}; give both for a model of prompts, or set both to "
                "null for a model of class labels"
            )
        if self.text_token_len is not None and self.text_token_len > TEXT_ROWS:
            raise ValueError(f"text_token_len is {self.text_token_len}; the padding has {TEXT_ROWS} rows")

    @property
    def text_shape(self) -> tuple[int, int] | None:
        """Shape of a prompt's padded features, L and their dimension; None for a model of class labels."""
        if self.text_token_len is None or self.text_token_dim is None:
            return None
        return self.text_token_len, self.text_token_dim

    @property
    def takes_labels(self) -> bool:
        """Whether class labels condition the model, instead of prompts."""
        return self.text_shape is None

    @property
    def temporal(self) -> VitSize:
        return _vit(self.arch[0])

    @property
    def spatial(self) -> VitSize:
        return _vit(self.arch[1])

    @property
    def denoiser(self) -> MlpSize:
        return _mlp(self.arch[2])

    @property
    def width(self) -> int:
        """D, width of both encoders."""
        return self.temporal.width

    @property
    def patch_size(self) -> int:
        """p, latents per spatial token in each direction; the temporal patch is 2p."""
        return 15 // self.image_stride + 1  # a spatial token covers 16 pixels with any of the releases' VAEs

    @property
    def token_dim(self) -> int:
        """Values of a spatial token, p*p*C."""
        return self.patch_size**2 * self.image_dim

    @property
    def default_frames(self) -> int:
        """Default number of latent frames of a sample."""
        return min(self.video_base_size[0], VIDEO_FRAMES)

    @property
    def makes_videos(self) -> bool:
        """Whether the model is trained on videos, and not on images alone."""
        return self.video_base_size[0] > 1

    @property
    def has_motion(self) -> bool:
        """Whether motion score and frames per second condition the model."""
        return self.sees_motion and self.makes_videos

    @property
    def pixel_size(self) -> tuple[int, int]:
        """Height and width in pixels that the model was trained on."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else size

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> NovaConfig:
        """Reads a config.json; missing keys are filled in from `RELEASED_DEFAULTS`.

        Raises:
            ValueError: an unknown key (the nearest valid one is named), an unknown arch, or sizes that do not fit
                together.
        """
        valid_keys = {field.name for field in fields(cls)}
        keys = {key: value for key, value in values.items() if not key.startswith("_")}  # "_…" are diffusers' own
        for key in keys:
            if key not in valid_keys:
                close = difflib.get_close_matches(key, valid_keys, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise ValueError(f"unknown key {key!r} in the model's config{hint}")
        hashable = {key: tuple(value) if isinstance(value, list) else value for key, value in keys.items()}
        defaults = dict(RELEASED_DEFAULTS)
        if hashable.get("text_token_dim", defaults["text_token_dim"]) is None:
            defaults["text_token_len"] = None  # without a prompt there is no length that could be the release's
        return cls(**{**defaults, **hashable})

    def to_dict(self) -> dict[str, Any]:
        """A dictionary for JSON that `from_dict` reads; keys that no release has are written only where they differ."""
        # The fields with defaults are exactly those that no release has, see the class.
        defaults = {field.name: field.default for field in fields(self) if field.default is not MISSING}
        keys = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
            if key not in defaults or value != defaults[key]
        }
        return {"_class_name": "NOVATransformer3DModel", **keys}


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How samples are drawn; the defaults are the released ones for flow matching.

    Raises:
        ValueError: a value out of its range.
    """

    set_steps: int = 64
    """K, sets of tokens that a frame is predicted in; 128 for quality."""
    diffusion_steps: int = 25
    """Denoising steps of a token; 100 for DDPM."""
    guidance_scale: float = 5.0
    """Strength of classifier-free guidance; 1 switches it off."""
    min_guidance_scale: float | None = None
    """Guidance scale that a linear rise to guidance_scale over the sets starts from; constant by default."""
    guidance_trunc: float = 0.0
    """Timestep (0 to 1000) below which only the conditional branch runs."""
    guidance_renorm: float = 1.0
    """Below 1, guided predictions are scaled down towards the norm of the conditional ones, by this factor at most."""
    image_guidance_scale: float | None = None
    """Strength of guidance by the preceding frames, apart from the prompt; a third branch runs."""
    negative_motion: float | None = None
    """Motion score of the unconditional branch, which guidance moves away from; by default that of the sample, which
    leaves motion out of guidance."""
    temperature: float = 1.0
    """Factor of all noise that tokens are denoised from. Below 1, as in MAR (arXiv 2406.11838), samples are more likely
    and less diverse."""
    corrections: int = 0
    """Rounds after a frame's last set, each of which predicts a random half of its tokens again, given the other half.

    Reduces the errors that accumulate from set to set. Not in the paper. A round costs as much as the second half of
    the sets; with 1 or 2 sets a round is empty.
    """

    def __post_init__(self) -> None:
        if self.corrections < 0:
            raise ValueError(f"corrections is {self.corrections}; it must be a number of rounds, 0 or more")
        if self.set_steps < 1 or self.diffusion_steps < 1:
            raise ValueError("set_steps and diffusion_steps must be at least 1")
        if not 0 <= self.guidance_renorm <= 1:
            raise ValueError(f"guidance_renorm is {self.guidance_renorm}; it must be a factor from 0 to 1 (off)")
        if self.negative_motion is not None and self.negative_motion < 0:
            raise ValueError(f"negative_motion is {self.negative_motion}; it must be a motion score, 0 or more")
        if self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}; it must be a factor of 0 or more (1 as trained)")
        if self.guidance_scale < 0:
            raise ValueError(f"guidance_scale is {self.guidance_scale}; it must be 0 or more (1 is off)")


@dataclass(frozen=True, kw_only=True)
class MaskRatios:
    """Distribution of the share of tokens that is masked in a training step: a normal distribution with mean 1,
    truncated to [min_ratio, 1]; the defaults are the published values.

    Raises:
        ValueError: a share or a standard deviation out of its range.
    """

    min_ratio: float = 0.7
    """Lower it where frames have few tokens: sampling predicts the last sets with most tokens visible, which training
    must have covered."""
    std: float = 0.25
    """Standard deviation before truncation."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_ratio < 1:
            raise ValueError(f"masks.min_ratio is {self.min_ratio}; it must be a share from 0 to below 1, such as 0.7")
        if self.std <= 0:
            raise ValueError(f"masks.std is {self.std}; it must be above 0, such as 0.25")


def _is_positive_int(value: Any) -> bool:
    return isinstance(value, int) and value >= 1


def _vit(name: str) -> VitSize:
    match = _VIT.fullmatch(name)
    if match is None:
        raise ValueError(f"unknown arch {name!r}; an encoder is named such as vit_d16w1024 or vit_d4w64h2")
    depth, width, heads = match.groups()
    if heads is None and int(width) not in _HEADS:
        raise ValueError(f"arch {name!r}: width {width} has no default number of heads; add it, as in {name}h8")
    return VitSize(int(depth), int(width), int(heads) if heads else _HEADS[int(width)])


def _mlp(name: str) -> MlpSize:
    match = _MLP.fullmatch(name)
    if match is None:
        raise ValueError(f"unknown arch {name!r}; a denoiser is named such as mlp_d6w1024")
    return MlpSize(int(match[1]), int(match[2]))
