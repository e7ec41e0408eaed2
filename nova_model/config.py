"""Configs: the architecture (`config.json` in a checkpoint's `transformer/`), named presets, how samples are made."""

from __future__ import annotations

import difflib
import re
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

_VIT = re.compile(r"vit_d(\d+)w(\d+)(?:h(\d+))?")
_MLP = re.compile(r"mlp_d(\d+)w(\d+)")
TEXT_ROWS = 512
"""Rows of the buffer that pads prompts."""
VIDEO_FRAMES = 9
"""Most latent frames of a video where nobody says how many: 33 frames, as the text-to-video release was trained."""
_HEADS = {64: 4, 768: 12, 1024: 16, 1536: 16}
NORMS = ("post", "pre", "post_add")
PARTS = ("temporal", "spatial", "denoiser")
"""What activation checkpointing can be switched on for."""
ABLATIONS: dict[str, dict[str, Any]] = {
    "no_temporal": {"sees_frames": False},
    "no_scaling": {"video_mixer_rank": None},
    "pre_norm": {"norm": "pre"},
    "post_add_norm": {"norm": "post_add"},
    "no_motion": {"sees_motion": False},
}
"""The paper's ablations, and what each changes in a config."""
_NOT_RELEASED = {"label_classes", "sees_frames", "sees_motion", "norm"}


@dataclass(frozen=True)
class VitSize:
    """Depth, width and heads of a transformer; its name in a config is such as vit_d16w1024 (or …h8)."""

    depth: int
    width: int
    heads: int


@dataclass(frozen=True)
class MlpSize:
    """Depth and width of the denoiser; its name in a config is such as mlp_d6w1024."""

    depth: int
    width: int


@dataclass(frozen=True, kw_only=True)
class NovaConfig:
    """The keys of the released config.json (spec section 2), and ablations, which released configs leave out.

    Raises:
        ValueError: an unknown arch, or sizes that do not go together.
    """

    image_dim: int = 4
    """C, channels of a latent."""
    image_size: int | tuple[int, int] = 512
    """Pixels the model was trained at: a square's side, or (height, width)."""
    image_stride: int = 8
    """Pixels per latent, each way."""
    text_token_dim: int | None = 2560
    """Values of a text feature; None for class labels."""
    text_token_len: int = 256
    """L, text tokens of a prompt."""
    label_classes: int = 1000
    """Classes, where text_token_dim is None."""
    image_base_size: tuple[int, int] = (32, 32)
    """Spatial tokens, rows and columns."""
    video_base_size: tuple[int, int, int] = (1, 16, 16)
    """Frames that times are scaled to, whatever a video's length, and temporal tokens of a frame, rows and columns."""
    video_mixer_rank: int | None = None
    """Rank of scaling and shift: below 0 without the low-rank step, 0 or None without scaling and shift."""
    rotary_pos_embed: bool = False
    """Rotary positions instead of absolute ones."""
    arch: tuple[str, str, str] = ("vit_d16w1024", "vit_d32w1024", "mlp_d6w1024")
    """Temporal encoder, spatial encoder, denoiser."""
    sees_frames: bool = True
    """Ablation where False: no temporal part. Every frame's indicator features come from the conditioning alone, from
    begin-of-video tokens at the frame's place in time; no frame sees another one, nothing is cached."""
    sees_motion: bool = True
    """Ablation where False: neither motion score nor frames per second condition a video model."""
    norm: str = "post"
    """LayerNorm of both encoders' blocks: post, on a branch's output before the addition, as released; ablations: pre,
    on a branch's input; post_add, behind the addition."""

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
            if size.heads < 1 or size.width % 4 or size.width % size.heads:
                raise ValueError(
                    f"arch {self.arch}: width {size.width} must be divisible by 4 and by {size.heads} heads"
                )
            if self.rotary_pos_embed and (size.width // size.heads) % 32:
                raise ValueError(f"arch {self.arch}: rotary positions need a head size divisible by 32")
        if self.text_token_dim is not None and self.text_token_len > TEXT_ROWS:
            raise ValueError(f"text_token_len is {self.text_token_len}; the padding has {TEXT_ROWS} rows")

    def _check_sizes(self) -> None:
        for name in ("image_dim", "image_stride", "text_token_len", "label_classes"):
            if not _whole(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it is a whole number of at least 1")
        for name, kind in (("text_token_dim", "null for labels"), ("video_mixer_rank", "null for no mixer")):
            value = getattr(self, name)
            if value is not None and not (_whole(value) or (name == "video_mixer_rank" and _whole(abs(value) + 1))):
                raise ValueError(f"{name} is {value!r}; it is a whole number, or {kind}")
        sizes = {"image_size": self.pixel_size, "image_base_size": self.image_base_size}
        for name, size, count in (
            *((*each, 2) for each in sizes.items()),
            ("video_base_size", self.video_base_size, 3),
        ):
            if not isinstance(size, tuple) or len(size) != count or not all(map(_whole, size)):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it is {count} whole numbers of at least 1")

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
        """p, latents per spatial token each way; the temporal patch is 2p."""
        return 15 // self.image_stride + 1

    @property
    def token_dim(self) -> int:
        """Values of a spatial token, p*p*C."""
        return self.patch_size**2 * self.image_dim

    @property
    def usual_frames(self) -> int:
        """Latent frames where nobody says how many."""
        return min(self.video_base_size[0], VIDEO_FRAMES)

    @property
    def makes_videos(self) -> bool:
        """Whether it is trained on videos, not on pictures alone."""
        return self.video_base_size[0] > 1

    @property
    def has_motion(self) -> bool:
        """Whether motion score and frames per second condition the model."""
        return self.sees_motion and self.makes_videos

    @property
    def pixel_size(self) -> tuple[int, int]:
        """Height and width in pixels the model was trained at."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else size

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> NovaConfig:
        """Reads a config.json; keys that start with an underscore are diffusers' own.

        Raises:
            ValueError: an unknown key (the nearest known one is named) or an unknown arch.
        """
        known = {each.name for each in fields(cls)}
        given = {key: value for key, value in values.items() if not key.startswith("_")}
        for key in given:
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise ValueError(f"unknown key {key!r} in the model's config{hint}")
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in given.items()
        }
        return cls(**plain)

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` reads, ready for JSON; keys that no release has are left out where they are as usual."""
        usual = {each.name: each.default for each in fields(self) if each.name in _NOT_RELEASED}
        said = {key: value for key, value in asdict(self).items() if key not in usual or value != usual[key]}
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in said.items()}
        return {"_class_name": "NOVATransformer3DModel", **plain}


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How samples are made; the defaults are the released ones for flow matching."""

    set_steps: int = 64
    """K, sets of tokens a frame is made of; 128 for quality."""
    diffusion_steps: int = 25
    """Denoising steps of a token; 100 for DDPM."""
    guidance_scale: float = 5.0
    """How much the prompt is followed; 1 switches guidance off."""
    min_guidance_scale: float | None = None
    """Guidance at the first set, rising linearly to guidance_scale; constant by default."""
    guidance_trunc: float = 0.0
    """Timestep (0 to 1000) below which only the conditional branch runs."""
    guidance_renorm: float = 1.0
    """Below 1, guided outputs are scaled down towards the norm of the conditional ones, at most to this factor."""
    image_guidance_scale: float | None = None
    """How much the frames before are followed, apart from the prompt; a third branch runs."""
    negative_motion: float | None = None
    """Motion score that guidance leads away from, as it does from the negative prompt; the asked one by default, which
    leaves motion out of guidance."""
    temperature: float = 1.0
    """Factor of all noise that tokens are made from. Below 1, as in MAR (arXiv 2406.11838), samples are nearer to what
    is likeliest and differ less."""
    corrections: int = 0
    """Rounds behind a frame's last set, each of which makes a random half of its tokens anew, given the other half.

    Errors add up less. Not in the paper; a round costs what the second half of the sets does; 1 or 2 sets have none.
    """

    def __post_init__(self) -> None:
        if self.corrections < 0:
            raise ValueError(f"corrections is {self.corrections}; it is a number of rounds, 0 or more")
        if self.set_steps < 1 or self.diffusion_steps < 1:
            raise ValueError("set_steps and diffusion_steps must be at least 1")
        if not 0 <= self.guidance_renorm <= 1:
            raise ValueError(f"guidance_renorm is {self.guidance_renorm}; it is a factor from 0 to 1 (off)")
        if self.negative_motion is not None and self.negative_motion < 0:
            raise ValueError(f"negative_motion is {self.negative_motion}; it is a motion score, 0 or more")
        if self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}; it is a factor of noise, 1 (as trained) or less")
        if self.guidance_scale < 0:
            raise ValueError(f"guidance_scale is {self.guidance_scale}; it is 1 (off) or more")


@dataclass(frozen=True, kw_only=True)
class MaskRatios:
    """Share of a frame's tokens that is masked in training: normal around 1, cut at both ends; by default as published.

    Raises:
        ValueError: a share or a deviation that makes no sense.
    """

    least: float = 0.7
    """Lower where frames have few tokens: the last ones are sampled with many others in view, and 0.7 shows few."""
    std: float = 0.25
    """Standard deviation before the cut."""

    def __post_init__(self) -> None:
        if not 0 <= self.least < 1:
            raise ValueError(f"masks.least is {self.least}; it is a share from 0 up to below 1, such as 0.7")
        if self.std <= 0:
            raise ValueError(f"masks.std is {self.std}; it is above 0, such as 0.25")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and value >= 1


def _vit(name: str) -> VitSize:
    match = _VIT.fullmatch(name)
    if match is None:
        raise ValueError(f"unknown arch {name!r}; an encoder is named such as vit_d16w1024 or vit_d4w64h2")
    depth, width, heads = match.groups()
    if heads is None and int(width) not in _HEADS:
        raise ValueError(f"arch {name!r}: width {width} has no usual number of heads; add it, as in {name}h8")
    return VitSize(int(depth), int(width), int(heads) if heads else _HEADS[int(width)])


def _mlp(name: str) -> MlpSize:
    match = _MLP.fullmatch(name)
    if match is None:
        raise ValueError(f"unknown arch {name!r}; a denoiser is named such as mlp_d6w1024")
    return MlpSize(int(match[1]), int(match[2]))


def _t2i_1024(width: int) -> NovaConfig:
    return NovaConfig(
        image_size=1024,
        image_base_size=(64, 64),
        video_base_size=(1, 32, 32),
        arch=(f"vit_d16w{width}", f"vit_d32w{width}", f"mlp_d6w{width}"),
    )


_TINY = NovaConfig(
    image_size=64,
    text_token_dim=64,
    text_token_len=16,
    image_base_size=(4, 4),
    video_base_size=(5, 2, 2),
    video_mixer_rank=8,
    arch=("vit_d2w64", "vit_d4w64", "mlp_d2w96"),
)

_BENCH = NovaConfig(
    image_size=256,
    text_token_dim=256,
    text_token_len=64,
    image_base_size=(16, 16),
    video_base_size=(3, 8, 8),
    video_mixer_rank=16,
    arch=("vit_d8w384h6", "vit_d16w384h6", "mlp_d3w512"),
)

PRESETS: dict[str, NovaConfig] = {
    "nova-d48w1024-sd512": NovaConfig(),
    "nova-d48w768-sdxl1024": _t2i_1024(768),
    "nova-d48w1024-sdxl1024": _t2i_1024(1024),
    "nova-d48w1536-sdxl1024": _t2i_1024(1536),
    "nova-d48w1024-osp480": NovaConfig(
        image_size=(480, 768),
        image_base_size=(30, 48),
        video_base_size=(16, 15, 24),
        arch=("vit_d16w1024", "vit_d32w1024", "mlp_d3w1280"),
    ),
    "tiny": _TINY,
    "bench": _BENCH,
    "shapes": replace(
        _TINY,
        image_dim=8,
        text_token_dim=96,
        video_mixer_rank=-1,
        arch=("vit_d4w160h5", "vit_d6w160h5", "mlp_d3w256"),
    ),
}
