"""Scores of the zoo's models on scenes that were not trained on, by comparison with the ground truth.

    vae_psnr           reconstruction of videos of 17 frames at 64x64, dB; the mean over videos
    motion_spearman    rank correlation of the motion score with the score by the true flow
    motion_epe         end-point error over the pixels of moving things, in pixels at 64x64, a quarter of a second apart
    aesthetic_auc      probability that a clean picture has a higher score than a spoilt one
    caption_accuracy   share of correct shapes, colours and directions in short captions
    clip_retrieval     share of captions whose picture ranks first of 64 with different captions
    subject_auc        probability that a clip whose object stays the same has a higher subject consistency than one
                       whose object changes its shape or colour half way

Each function draws its scenes from a seed and calls the models as the pipeline's stages do. Cuts and duplicates, which
need whole files, are checked by `jobs/shapes_world/zoo.py` on a corpus that it curates.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.core import model_hub
from pipelines.curation.aesthetic import ClipModel, load_head
from pipelines.curation.caption import Captioner
from pipelines.curation.motion import Flow, Raft, mean_magnitudes, normalised
from pipelines.evaluation.metrics.subject_consistency import DinoModel, consistency
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
from pipelines.shapes_world.zoo.dino import change
from pipelines.shapes_world.zoo.raft import draw_pair
from pipelines.shapes_world.zoo.scenes import draw_scene, draw_shot, generator, maybe_compress, video_pixels

if TYPE_CHECKING:
    from torch import Tensor

# The VAE's modules import torch, and stay inside the function that needs them: `nova zoo --help` imports this file.

SIDE = 64
FPS = 12.0
UPDATES = 12
APART = 0.25
"""Seconds between the frames whose flow is measured. The fastest things move 5.1 pixels in that time, so that the error
of a flow of zero, which the model has to beat, is well above the bar."""
SUBJECT_SECONDS = 1.5
"""Length of the clips of `subject`; things change at half of it."""
GALLERY = 64
CARD = "README.md"
BARS = {
    "vae_psnr": 30.0, "motion_spearman": 0.95, "motion_epe": 0.7, "aesthetic_auc": 0.95, "caption_accuracy": 0.95,
    "clip_retrieval": 0.80, "subject_auc": 0.95,
    "shots_f1": 0.98, "duplicates_precision": 0.98, "duplicates_recall": 0.98,
}  # fmt: skip
LOWER_IS_BETTER = ("motion_epe",)


@dataclass(frozen=True, kw_only=True)
class Models:
    """Folders of the models to check; None where a model is missing."""

    vae: str | None = None
    clip: str | None = None
    aesthetic: str | None = None
    raft: str | None = None
    captioner: str | None = None
    dino: str | None = None

    @classmethod
    def in_folder(cls, folder: Path) -> Models:
        """The models in an output folder of `nova zoo build`, or in `BUNDLED`."""
        names = (field.name for field in fields(cls))
        return cls(**{name: str(folder / name) for name in names if (folder / name / CARD).exists()})

    def has(self, check: str) -> bool:
        """Whether all models that a check needs are there."""
        return all(getattr(self, name) is not None for name in NEEDS[check])


def holds(name: str, value: float) -> bool:
    """Whether a score reaches its bar."""
    return value < BARS[name] if name in LOWER_IS_BETTER else value >= BARS[name]


def vae(models: Models, seed: int, count: int) -> dict[str, float]:
    """`vae_psnr`, and the same for single pictures."""
    import torch

    from nova_model.checkpoints.released import load_vae
    from nova_model.vae.codec import Codec

    assert models.vae is not None
    codec = Codec(load_vae(model_hub.folder(models.vae), torch.float32))

    def psnr(frames: int, number: int) -> float:
        clip = draw_shot(generator(seed, 1, frames, number), frames=frames, side=SIDE).frames
        pixels = video_pixels([clip])
        decoded = codec.decode(codec.encode(pixels), 0).clamp(-1, 1)
        return -10 * float(((decoded - pixels) / 2).square().mean().log10())

    return {
        "vae_psnr": float(np.mean([psnr(17, number) for number in range(max(1, count // 4))])),
        "vae_psnr_images": float(np.mean([psnr(1, number) for number in range(count)])),
    }


def motion(models: Models, seed: int, count: int) -> dict[str, float]:
    """`motion_spearman` and `motion_epe`, and the error of a flow of zero as a baseline of the latter."""
    from scipy.stats import spearmanr

    assert models.raft is not None
    raft = Raft.load("raft_small", models.raft, UPDATES)
    scores, truths = zip(*(_motion_scores(raft, seed, number) for number in range(count)), strict=True)
    errors, lengths = [], []
    for number in range(count):
        first, second, flow, owner = draw_pair(generator(seed, 3, number), APART)
        moving = (owner > 0) & (np.linalg.norm(flow, axis=-1) > 0)
        estimate = raft(_pixels([first]), _pixels([second]))[0].permute(1, 2, 0).numpy()
        errors.append(np.linalg.norm(estimate - flow, axis=-1)[moving])
        lengths.append(np.linalg.norm(flow, axis=-1)[moving])
    return {
        "motion_spearman": float(spearmanr(scores, truths).statistic),
        "motion_epe": float(np.concatenate(errors).mean()),
        "motion_epe_of_no_flow": float(np.concatenate(lengths).mean()),
    }


def _motion_scores(flow: Flow, seed: int, number: int) -> tuple[float, float]:
    """Motion scores of a clip of 1.5 s by a model and by the true flow; nothing moves in one scene in eight."""
    scene = sample_scene(generator(seed, 2, number), width=SIDE, height=SIDE, seconds=1.5, still=number % 8 == 0)
    starts = np.array([0.25, 0.75, 1.25])
    frames = render(scene, np.stack([starts, starts + 1 / FPS]).T.reshape(-1))
    estimate = float(mean_magnitudes(flow(_pixels(frames[0::2]), _pixels(frames[1::2]))).mean())
    true = float(np.mean([true_motion(scene, start) for start in starts]))
    return normalised(estimate, short_side=SIDE, seconds=1 / FPS), true


def aesthetic(models: Models, seed: int, count: int) -> dict[str, float]:
    """`aesthetic_auc`, and the same for each way of spoiling a picture."""
    import torch

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
    aucs = {f"aesthetic_auc_{how}": _auc(clean, values) for how, values in ugly.items()}
    return {"aesthetic_auc": _auc(clean, np.concatenate(list(ugly.values()))), **aucs}


def _auc(high: np.ndarray, low: np.ndarray) -> float:
    """Probability that a value of `high` exceeds one of `low`; ties count half."""
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(high, low).statistic / (len(high) * len(low)))


def retrieval(models: Models, seed: int, count: int) -> dict[str, float]:
    """`clip_retrieval`, over at least one gallery of 64 pictures whose captions differ."""
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
    """`caption_accuracy` over pictures and videos, and the accuracy of each attribute.

    `direction` counts straight motion only: a few frames do not show in which direction a bouncing thing started, nor
    how far a thing turned. `bounce` and `turn` count those, and `things` whether the number of things is correct.
    """
    assert models.captioner is not None
    captioner = Captioner.load(models.captioner, "fp32")
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for start in range(0, count, 16):
        clips = [
            _clip(generator(seed, 6, number), video=number % 2 == 1) for number in range(start, min(start + 16, count))
        ]
        questions = [SHORT.format(kind="image" if len(frames) == 1 else "video") for _, frames, _ in clips]
        seconds = [seconds for _, _, seconds in clips]
        answers = captioner.answer([frames for _, frames, _ in clips], questions, 40, seconds)
        for (scene, frames, _), answer in zip(clips, answers, strict=True):
            for name, correct in judge_caption(scene, answer, video=len(frames) > 1):
                total[name] += 1
                right[name] += correct
    shares = {name: right[name] / total[name] for name in sorted(total)}
    main = ("shape", "colour", "direction")
    accuracy = sum(right[name] for name in main) / sum(total[name] for name in main)
    return {"caption_accuracy": accuracy, **{f"caption_{name}": value for name, value in shares.items()}}


def _clip(rng: np.random.Generator, *, video: bool) -> tuple[Scene, np.ndarray, float]:
    """A scene, some of its frames, and the seconds that they span."""
    seconds = float(rng.uniform(1.0, 2.5)) if video else 0.0
    scene = sample_scene(rng, width=SIDE, height=SIDE, seconds=seconds, still=rng.random() < 0.15)
    return scene, render(scene, frame_times(seconds)), seconds


@dataclass(frozen=True)
class Mention:
    """A thing as a caption describes it."""

    shape: str
    colour: str
    motion: str | None
    """moving, bouncing or turning."""
    direction: str | None


_THING = re.compile(
    rf"\b({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})(?:e?s)?\b"
    rf"(?: (moving|bouncing) to the ({'|'.join(sorted(DIRECTIONS, key=len, reverse=True))})"
    r"| (turning) (clockwise|counterclockwise))?"
)


def read_caption(caption: str) -> list[Mention]:
    """The things that a short caption describes, in its order."""
    mentions = []
    for colour, shape, motion, direction, turning, turn in _THING.findall(caption.lower()):
        mentions.append(Mention(shape, colour, motion or turning or None, direction or turn or None))
    return mentions


def judge_caption(scene: Scene, caption: str, *, video: bool) -> list[tuple[str, bool]]:
    """Compares a caption with its scene: names of attributes, and whether the caption has them right.

    Args:
        scene: the ground truth.
        caption: a short caption.
        video: whether the captioner saw motion.
    """
    mentions = read_caption(caption)
    things = scene.things[:1] if are_alike(scene) else scene.things  # equal things are described once, with a count
    orders = [mentions, mentions[::-1]] if len(things) == 2 else [mentions]  # a caption may begin with either of two
    verdicts = max(
        (_verdicts(things, order, video) for order in orders),
        key=lambda verdicts: sum(correct for _, correct in verdicts),
    )
    return [("things", len(mentions) == len(things)), *verdicts]


def _verdicts(things: Sequence[Thing], mentions: Sequence[Mention], video: bool) -> list[tuple[str, bool]]:
    verdicts = []
    for number, thing in enumerate(things):
        mention = mentions[number] if number < len(mentions) else Mention("", "", None, None)
        verdicts += [("shape", mention.shape == thing.shape), ("colour", mention.colour == thing.colour)]
        if video and thing.direction is not None:
            name = {"straight": "direction", "bouncing": "bounce", "turning": "turn"}[thing.path]
            verdicts.append((name, mention.direction == thing.direction))
    return verdicts


def subject(models: Models, seed: int, count: int) -> dict[str, float]:
    """`subject_auc`, and the same for changes of colour and of shape alone.

    Each scene with one moving thing gives three clips: one as it is, and one each in which the thing changes its colour
    or shape half way.
    """
    assert models.dino is not None
    dino = DinoModel.load(models.dino)

    def scores(attribute: str | None) -> np.ndarray:
        clips = [_subject_clip(generator(seed, 7, number), attribute) for number in range(count)]
        features = [dino.features(list(frames)).numpy() for frames in clips]
        return np.array([consistency(features_ND) for features_ND in features])

    constant = scores(None)
    changed = {attribute: scores(attribute) for attribute in ("colour", "shape")}
    aucs = {f"subject_auc_{attribute}": _auc(constant, values) for attribute, values in changed.items()}
    return {"subject_auc": _auc(constant, np.concatenate(list(changed.values()))), **aucs}


def _subject_clip(rng: np.random.Generator, attribute: str | None) -> np.ndarray:
    """Frames [T, H, W, 3] of a scene with one moving thing, which changes an attribute half way if one is given."""
    scene = draw_scene(rng, side=SIDE, seconds=SUBJECT_SECONDS)
    while len(scene.things) > 1:  # the subject of a clip with two things would be ambiguous
        scene = draw_scene(rng, side=SIDE, seconds=SUBJECT_SECONDS)
    times = np.arange(round(SUBJECT_SECONDS * FPS)) / FPS
    if attribute is None:
        return maybe_compress(rng, render(scene, times))
    first, second = np.split(times, 2)
    changed = change(scene, attribute, rng)
    return maybe_compress(rng, np.concatenate([render(scene, first), render(changed, second)]))


def _pixels(frames: Sequence[np.ndarray] | np.ndarray) -> Tensor:
    import torch

    return torch.from_numpy(np.stack(list(frames))).permute(0, 3, 1, 2)


CHECKS: dict[str, Callable[[Models, int, int], dict[str, float]]] = {
    "vae": vae, "motion": motion, "aesthetic": aesthetic, "retrieval": retrieval, "captions": captions,
    "subject": subject,
}  # fmt: skip
NEEDS = {
    "vae": ("vae",), "motion": ("raft",), "aesthetic": ("clip", "aesthetic"), "retrieval": ("clip",),
    "captions": ("captioner",), "subject": ("dino",),
}  # fmt: skip
"""The models that each check needs."""
