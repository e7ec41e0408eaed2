"""Scores of the zoo on scenes that none of its models has seen, against what is true of them.

    vae_psnr           reconstruction of videos of 17 frames at 64x64, dB; the mean over videos
    motion_spearman    rank correlation of the motion score with the one that the true flow gives
    motion_epe         end-point error over the pixels of moving things, in pixels at 64x64, a quarter of a second apart
    aesthetic_auc      chance that a clean picture scores higher than a spoilt one
    caption_accuracy   shapes, colours and directions that the short caption says rightly
    clip_retrieval     share of captions whose picture comes first of 64 that differ in what one frame shows

Each function draws its scenes from a seed and calls the models as the pipeline's stages do. What only whole files show
(cuts, duplicates) is checked by `jobs/shapes_world/zoo.py` on a corpus that it curates.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.curation.motion import mean_magnitudes, normalised
from pipelines.shapes_world.corpus import UGLY, spoil
from pipelines.shapes_world.draw import render, true_motion
from pipelines.shapes_world.scenes import (
    COLOURS,
    DIRECTIONS,
    SHAPES,
    Scene,
    Thing,
    are_alike,
    long_caption,
    sample_scene,
)
from pipelines.shapes_world.zoo.captioner import SHORT, frame_times
from pipelines.shapes_world.zoo.raft import draw_pair
from pipelines.shapes_world.zoo.scenes import draw_shot, generator, video_pixels

if TYPE_CHECKING:
    from pipelines.curation.motion import Flow

SIDE = 64
FPS = 12.0
UPDATES = 12
APART = 0.25
"""Seconds between the frames whose flow is measured; the fastest things go 5.1 pixels, so that no flow errs by 3."""
GALLERY = 64
CARD = "README.md"
BARS = {
    "vae_psnr": 30.0, "motion_spearman": 0.95, "motion_epe": 0.7, "aesthetic_auc": 0.95, "caption_accuracy": 0.95,
    "clip_retrieval": 0.80, "shots_f1": 0.98, "duplicates_precision": 0.98, "duplicates_recall": 0.98,
}  # fmt: skip
LOWER_IS_BETTER = ("motion_epe",)


@dataclass(frozen=True, kw_only=True)
class Models:
    """Folders of what is checked; None where there is none yet."""

    vae: str | None = None
    clip: str | None = None
    aesthetic: str | None = None
    raft: str | None = None
    captioner: str | None = None

    @classmethod
    def in_folder(cls, folder: Path) -> Models:
        """Those that `nova zoo build` wrote there, or that the project carries in `CARRIED`."""
        names = (each.name for each in fields(cls))
        return cls(**{name: str(folder / name) for name in names if (folder / name / CARD).exists()})

    def has(self, check: str) -> bool:
        """Whether all that a check needs is there."""
        return all(getattr(self, name) is not None for name in NEEDS[check])


def holds(name: str, value: float) -> bool:
    """Whether a score reaches its bar."""
    return value < BARS[name] if name in LOWER_IS_BETTER else value >= BARS[name]


def vae(models: Models, seed: int, count: int) -> dict[str, float]:
    """`vae_psnr`, and the same of single pictures."""
    import torch

    from nova_model.checkpoints.released import load_vae
    from nova_model.vae.codec import Codec
    from pipelines.core.model_hub import folder

    assert models.vae is not None
    codec = Codec(load_vae(folder(models.vae), torch.float32))

    def psnr(frames: int, number: int) -> float:
        clip = draw_shot(generator(seed, 1, frames, number), frames=frames, side=SIDE).frames
        pixels = video_pixels([clip])
        made = codec.decode(codec.encode(pixels), 0).clamp(-1, 1)
        return -10 * float(((made - pixels) / 2).square().mean().log10())

    return {
        "vae_psnr": float(np.mean([psnr(17, number) for number in range(max(1, count // 4))])),
        "vae_psnr_images": float(np.mean([psnr(1, number) for number in range(count)])),
    }


def motion(models: Models, seed: int, count: int) -> dict[str, float]:
    """`motion_spearman` and `motion_epe`; and the error of saying that nothing moves, which `motion_epe` must beat."""
    from scipy.stats import spearmanr

    from pipelines.curation.motion import Raft

    assert models.raft is not None
    raft = Raft.load("raft_small", models.raft, UPDATES)
    scores, truths = zip(*(_motion_scores(raft, seed, number) for number in range(count)), strict=True)
    errors, lengths = [], []
    for number in range(count):
        first, second, flow, owner = draw_pair(generator(seed, 3, number), APART)
        moving = (owner > 0) & (np.linalg.norm(flow, axis=-1) > 0)
        found = raft(_pixels([first]), _pixels([second]))[0].permute(1, 2, 0).numpy()
        errors.append(np.linalg.norm(found - flow, axis=-1)[moving])
        lengths.append(np.linalg.norm(flow, axis=-1)[moving])
    return {
        "motion_spearman": float(spearmanr(scores, truths).statistic),
        "motion_epe": float(np.concatenate(errors).mean()),
        "motion_epe_of_no_flow": float(np.concatenate(lengths).mean()),
    }


def _motion_scores(flow: Flow, seed: int, number: int) -> tuple[float, float]:
    """The motion score of a clip of 1.5 s by a model, and by the true flow; one scene in eight stands still."""
    scene = sample_scene(generator(seed, 2, number), width=SIDE, height=SIDE, seconds=1.5, still=number % 8 == 0)
    starts = np.array([0.25, 0.75, 1.25])
    frames = render(scene, np.stack([starts, starts + 1 / FPS]).T.reshape(-1))
    found = float(mean_magnitudes(flow(_pixels(frames[0::2]), _pixels(frames[1::2]))).mean())
    true = float(np.mean([true_motion(scene, each) for each in starts]))
    return normalised(found, short_side=SIDE, seconds=1 / FPS), true


def aesthetic(models: Models, seed: int, count: int) -> dict[str, float]:
    """`aesthetic_auc`, and the same for each way of being ugly."""
    import torch

    from pipelines.curation.aesthetic import ClipModel, load_head

    assert models.clip is not None
    assert models.aesthetic is not None
    clip, head = ClipModel.load(models.clip), load_head(models.aesthetic)

    def scores(how: str | None) -> np.ndarray:
        pictures = []
        for number in range(count):
            rng = generator(seed, 4, number, UGLY.index(how) + 1 if how else 0)
            frames = draw_shot(rng, frames=1, side=SIDE).frames
            pictures.append(spoil(frames, how, rng)[0] if how else frames[0])
        with torch.inference_mode():
            return head(clip.image_features(pictures)).flatten().numpy()

    clean = scores(None)
    ugly = {how: scores(how) for how in UGLY}
    found = {f"aesthetic_auc_{how}": _auc(clean, each) for how, each in ugly.items()}
    return {"aesthetic_auc": _auc(clean, np.concatenate(list(ugly.values()))), **found}


def _auc(high: np.ndarray, low: np.ndarray) -> float:
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(high, low).statistic / (len(high) * len(low)))


def retrieval(models: Models, seed: int, count: int) -> dict[str, float]:
    """`clip_retrieval`, over at least one gallery of 64 pictures whose captions differ."""
    from pipelines.curation.aesthetic import ClipModel

    assert models.clip is not None
    clip = ClipModel.load(models.clip)
    firsts = []
    for number in range(max(1, count // GALLERY)):
        pictures: dict[str, np.ndarray] = {}
        rng = generator(seed, 5, number)
        while len(pictures) < GALLERY:
            shot = draw_shot(rng, frames=1, side=SIDE)
            pictures.setdefault(long_caption(shot.scene, video=False), shot.frames[0])
        likeness = clip.text_features(list(pictures)) @ clip.image_features(list(pictures.values())).T
        firsts += (likeness.argmax(1).numpy() == np.arange(GALLERY)).tolist()
    return {"clip_retrieval": float(np.mean(firsts))}


def captions(models: Models, seed: int, count: int) -> dict[str, float]:
    """`caption_accuracy` over pictures and videos, and each attribute apart.

    Directions are those of what goes straight on: a few frames do not show the first way of what bounced, nor how far
    something turned. Those and whole captions are told apart in keys of their own.
    """
    from pipelines.curation.caption import Captioner

    assert models.captioner is not None
    captioner = Captioner.load(models.captioner, "fp32")
    right: Counter[str] = Counter()
    told: Counter[str] = Counter()
    for start in range(0, count, 16):
        clips = [
            _clip(generator(seed, 6, number), video=number % 2 == 1) for number in range(start, min(start + 16, count))
        ]
        questions = [SHORT.format(kind="image" if len(frames) == 1 else "video") for _, frames, _ in clips]
        seconds = [seconds for _, _, seconds in clips]
        answers = captioner.answer([frames for _, frames, _ in clips], questions, 40, seconds)
        for (scene, frames, _), answer in zip(clips, answers, strict=True):
            for name, good in judged(scene, answer, video=len(frames) > 1):
                told[name] += 1
                right[name] += good
    shares = {name: right[name] / told[name] for name in sorted(told)}
    main = ("shape", "colour", "direction")
    whole = sum(right[name] for name in main) / sum(told[name] for name in main)
    return {"caption_accuracy": whole, **{f"caption_{name}": value for name, value in shares.items()}}


def _clip(rng: np.random.Generator, *, video: bool) -> tuple[Scene, np.ndarray, float]:
    """A scene, some of its frames, and how many seconds they are spread over."""
    seconds = float(rng.uniform(1.0, 2.5)) if video else 0.0
    scene = sample_scene(rng, width=SIDE, height=SIDE, seconds=seconds, still=rng.random() < 0.15)
    return scene, render(scene, frame_times(seconds)), seconds


@dataclass(frozen=True)
class Told:
    """A thing as a caption tells it."""

    shape: str
    colour: str
    doing: str | None
    direction: str | None


_THING = re.compile(
    rf"\b({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})(?:e?s)?\b"
    rf"(?: (moving|bouncing) to the ({'|'.join(sorted(DIRECTIONS, key=len, reverse=True))})"
    r"| (turning) (clockwise|counterclockwise))?"
)


def read_caption(caption: str) -> list[Told]:
    """The things that a short caption tells of, in its order."""
    found = []
    for colour, shape, doing, direction, turning, turn in _THING.findall(caption.lower()):
        found.append(Told(shape, colour, doing or turning or None, direction or turn or None))
    return found


def judged(scene: Scene, caption: str, *, video: bool) -> list[tuple[str, bool]]:
    """Which attributes of a scene its caption tells rightly.

    Args:
        scene: what is true.
        caption: a short one.
        video: whether motion was shown.
    """
    told = read_caption(caption)
    things = scene.things[:1] if are_alike(scene) else scene.things  # a few that are alike are told of once
    orders = [told, told[::-1]] if len(things) == 2 else [told]  # either of two may be named first
    verdicts = max(
        (_compared(things, order, video) for order in orders), key=lambda each: sum(good for _, good in each)
    )
    return [("things", len(told) == len(things)), *verdicts]


def _compared(things: Sequence[Thing], told: Sequence[Told], video: bool) -> list[tuple[str, bool]]:
    verdicts = []
    for number, thing in enumerate(things):
        mine = told[number] if number < len(told) else Told("", "", None, None)
        verdicts += [("shape", mine.shape == thing.shape), ("colour", mine.colour == thing.colour)]
        if video and thing.direction is not None:
            name = {"straight": "direction", "bouncing": "bounce", "turning": "turn"}[thing.path]
            verdicts.append((name, mine.direction == thing.direction))
    return verdicts


def _pixels(frames: Sequence[np.ndarray] | np.ndarray):  # type: ignore[no-untyped-def]
    import torch

    return torch.from_numpy(np.stack(list(frames))).permute(0, 3, 1, 2)


CHECKS: dict[str, Callable[[Models, int, int], dict[str, float]]] = {
    "vae": vae, "motion": motion, "aesthetic": aesthetic, "retrieval": retrieval, "captions": captions,
}  # fmt: skip
NEEDS = {
    "vae": ("vae",), "motion": ("raft",), "aesthetic": ("clip", "aesthetic"), "retrieval": ("clip",),
    "captions": ("captioner",),
}  # fmt: skip
"""The models that each check takes."""
