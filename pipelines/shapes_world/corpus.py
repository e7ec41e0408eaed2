"""Writes a corpus of the shapes world: png and mp4 files, some of them ugly, duplicated or broken on purpose.

    folder/manifest.jsonl   uri and caption of each file, as found on web pages: some captions are wrong or missing
    folder/truth.jsonl      the ground truth of each file
    folder/media/           the files

The same seed and number of items give the same bytes. No file shows a combination that is held out (scenes.py).

    >>> write_corpus("corpus", items=120, seed=0)
"""

from __future__ import annotations

import functools
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from io import BytesIO
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageFilter

from pipelines.media.write import write_image, write_video
from pipelines.shapes_world.draw import render
from pipelines.shapes_world.scenes import BACKGROUNDS, Scene, long_caption, sample_scene, short_caption

ROLES = {"ugly": 0.12, "near_duplicate": 0.06, "exact_duplicate": 0.04, "broken": 0.08, "misnamed": 0.02}
"""Shares of the items that are not clean; at least one of each from 50 items on."""
CAPTIONS = {"true": 0.5, "noisy": 0.15, "wrong": 0.1, "missing": 0.25}
"""Shares of the kinds of captions in the manifest."""
VIDEO_SHARE = 0.6
TWO_SHOT_SHARE = 0.25
"""Share of the clean videos that have two shots."""
STILL_SHARE = 0.15
"""Share of the videos with one shot in which nothing moves."""
UGLY = ("blur", "noise", "low_contrast", "overlay")
BROKEN = ("empty", "truncated_video", "wrong_extension", "audio_only", "truncated_picture")
SIZES = ((64, 64), (96, 96), (128, 128), (64, 96), (96, 64), (72, 128), (128, 72))
"""(height, width) of the frames."""
RATES = (12, 24)


@dataclass
class Truth:
    """Ground truth of a file: one line of truth.jsonl."""

    uri: str
    label: str
    """clean, or one of ROLES."""
    kind: str | None = None
    height: int | None = None
    width: int | None = None
    fps: int | None = None
    frames: int | None = None
    cuts: list[int] = field(default_factory=list)
    """First frames of all shots but the first."""
    scenes: list[Scene] = field(default_factory=list)
    """One for each shot."""
    caption_short: str | None = None
    caption_long: str | None = None
    caption_given: str | None = None
    """Kind of the caption in the manifest: one of CAPTIONS."""
    ugly: str | None = None
    broken: str | None = None
    duplicate_of: str | None = None


@dataclass(frozen=True)
class _Content:
    """One picture or one or two shots."""

    scenes: tuple[Scene, ...]
    lengths: tuple[int, ...]
    """Frames of each shot."""
    fps: int | None
    """None for a picture."""

    def frames(self) -> np.ndarray:
        """[N, H, W, 3] uint8."""
        shots = zip(self.scenes, self.lengths, strict=True)
        return np.concatenate([render(scene, np.arange(length) / (self.fps or 1)) for scene, length in shots])

    def truth(self, uri: str, label: str, frames: np.ndarray) -> Truth:
        """Ground truth of a file with these shots, whose frames may have been changed since."""
        video = self.fps is not None
        _, height, width, _ = frames.shape
        return Truth(
            uri=uri,
            label=label,
            kind="video" if video else "image",
            height=height,
            width=width,
            fps=self.fps,
            frames=len(frames),
            cuts=[len(frames) - length for length in self.lengths[1:]],
            scenes=list(self.scenes),
            caption_short=", then ".join(short_caption(scene) for scene in self.scenes),
            caption_long=" Then: ".join(long_caption(scene, video=video) for scene in self.scenes),
        )


def write_corpus(
    folder: str | Path,
    *,
    items: int = 120,
    seed: int = 0,
    video_share: float = VIDEO_SHARE,
    simple_share: float = 0.0,
    textured_share: float = 0.0,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> Path:
    """Writes a corpus and returns the path of its manifest.

    Args:
        folder: output folder; files of the same names are replaced.
        items: number of files.
        seed: seed of their content.
        video_share: share of the files that are videos, apart from broken ones.
        simple_share: share of the scenes that are simple (`sample_scene`); models learn shapes sooner from these.
        textured_share: share of the simple scenes that have a textured background.
        progress: iterates over the items' numbers and shows the progress, such as `rich.progress.track`.
    """
    folder = Path(folder)
    (folder / "media").mkdir(parents=True, exist_ok=True)
    roles = _roles(items, np.random.default_rng([seed, items]))
    sample = functools.partial(sample_scene, trained=True, simple=simple_share, textured=textured_share)
    writer = _Writer(folder, video_share, sample)
    order = sorted(range(items), key=lambda index: roles[index].endswith("duplicate"))  # after their originals
    for index in progress(order):
        writer.write(index, roles[index], np.random.default_rng([seed, items, index]))
    truths = [writer.truths[index] for index in range(items)]
    captions = [writer.captions[index] for index in range(items)]
    _write_lines(folder / "truth.jsonl", [asdict(truth) for truth in truths])
    manifest = folder / "manifest.jsonl"
    pairs = zip(truths, captions, strict=True)
    _write_lines(manifest, [{"uri": truth.uri, "caption": caption} for truth, caption in pairs])
    return manifest


def _roles(items: int, rng: np.random.Generator) -> list[str]:
    roles = [role for role, share in ROLES.items() for _ in range(round(items * share))]
    roles += ["clean"] * (items - len(roles))
    return [roles[index] for index in rng.permutation(items)]


class _Writer:
    """Writes one item after the other and keeps their ground truth."""

    def __init__(self, folder: Path, video_share: float, sample: Callable[..., Scene]) -> None:
        self.folder, self.video_share, self.sample = folder, video_share, sample
        self.truths: dict[int, Truth] = {}
        self.captions: dict[int, str | None] = {}
        self._clean: list[tuple[_Content, Truth]] = []
        self._written: Counter[str] = Counter()

    def write(self, index: int, role: str, rng: np.random.Generator) -> None:
        nth = self._written[role]
        self._written[role] += 1
        name = f"media/{index:05d}"
        if role == "broken":
            truth = self._broken(name, BROKEN[nth % len(BROKEN)], rng)
        elif role.endswith("duplicate"):
            original = self._clean[int(rng.integers(len(self._clean)))]
            truth = (self._near if role == "near_duplicate" else self._exact)(name, *original)
        else:
            truth = self._drawn(name, role, rng, nth)
        truth.caption_given, self.captions[index] = _web_caption(truth, rng)
        self.truths[index] = truth

    def _drawn(self, name: str, role: str, rng: np.random.Generator, nth: int) -> Truth:
        content = _draw(rng, self.video_share, self.sample, one_shot=role == "ugly")
        frames = content.frames()
        ugly = UGLY[nth % len(UGLY)] if role == "ugly" else None
        if ugly is not None:
            frames = spoil(frames, ugly, rng)
        right, wrong = (".png", ".mp4") if content.fps is None else (".mp4", ".png")
        uri = name + (wrong if role == "misnamed" else right)
        _write(self.folder / (name + right), frames, content.fps)
        (self.folder / (name + right)).replace(self.folder / uri)
        truth = content.truth(uri, role, frames)
        truth.ugly = ugly
        if role == "clean":
            self._clean.append((content, truth))
        return truth

    def _exact(self, name: str, content: _Content, original: Truth) -> Truth:
        uri = name + Path(original.uri).suffix
        shutil.copyfile(self.folder / original.uri, self.folder / uri)
        return replace(original, uri=uri, label="exact_duplicate", duplicate_of=original.uri)

    def _near(self, name: str, content: _Content, original: Truth) -> Truth:
        """A little brighter and smaller, as a JPEG, or as a video that begins two frames later."""
        smaller = alike(content.frames()[0 if content.fps is None else 2 :])
        uri = name + (".jpg" if content.fps is None else ".mp4")
        _write(self.folder / uri, smaller, content.fps, crf=26)
        truth = content.truth(uri, "near_duplicate", smaller)
        truth.duplicate_of = original.uri
        return truth

    def _broken(self, name: str, how: str, rng: np.random.Generator) -> Truth:
        uri = name + {"truncated_picture": ".png", "wrong_extension": ".jpg"}.get(how, ".mp4")
        path = self.folder / uri
        if how == "empty":
            path.write_bytes(b"")
        elif how == "wrong_extension":
            path.write_text("<html><body>404: this page has no picture</body></html>\n")
        elif how == "audio_only":
            path.write_bytes(_tone())
        else:
            fps = 12 if how == "truncated_video" else None
            scene = sample_scene(rng, width=96, height=96, seconds=2 if fps else 0, trained=True)
            _write(path, render(scene, np.arange(24) / 12 if fps else [0.0]), fps)
            content = path.read_bytes()
            path.write_bytes(content[: len(content) // 2])
        return Truth(uri=uri, label="broken", broken=how)


def _draw(rng: np.random.Generator, video_share: float, sample: Callable[..., Scene], *, one_shot: bool) -> _Content:
    height, width = SIZES[int(rng.integers(len(SIZES)))]
    drawn = functools.partial(sample, rng, width=width, height=height)
    if rng.random() >= video_share:
        return _Content((drawn(),), (1,), None)
    fps = RATES[int(rng.integers(len(RATES)))]
    if one_shot or rng.random() >= TWO_SHOT_SHARE:
        length = int(rng.integers(round(1.5 * fps), round(2.0 * fps) + 1))
        still = rng.random() < STILL_SHARE
        scene = drawn(seconds=length / fps, still=still)
        return _Content((scene,), (length,), fps)
    lengths = rng.integers(round(1.1 * fps), round(1.4 * fps) + 1, size=2).tolist()
    first = drawn(seconds=lengths[0] / fps)
    backgrounds = tuple(name for name in BACKGROUNDS if name != first.background)  # else nobody could see the cut
    second = drawn(seconds=lengths[1] / fps, backgrounds=backgrounds)
    return _Content((first, second), tuple(lengths), fps)


def _write(path: Path, frames: np.ndarray, fps: int | None, crf: int = 18) -> None:
    if fps is None:
        write_image(path, frames[0])
    else:
        write_video(path, frames, fps, crf=crf)


def spoil(frames: np.ndarray, how: str, rng: np.random.Generator) -> np.ndarray:
    """Degrades frames [N, H, W, 3] uint8 in one of the ways of UGLY."""
    if how == "blur":
        blur = ImageFilter.GaussianBlur(min(frames.shape[1:3]) / 16)
        return np.stack([np.asarray(Image.fromarray(frame).filter(blur)) for frame in frames])
    if how == "noise":
        return (frames + rng.normal(0, 45, frames.shape)).clip(0, 255).astype(np.uint8)
    if how == "overlay":
        return _overlaid(frames)
    assert how == "low_contrast", how
    mean = frames.mean(axis=(0, 1, 2))
    return (mean + 0.18 * (frames - mean)).round().astype(np.uint8)


def alike(frames: np.ndarray) -> np.ndarray:
    """Near duplicates of frames [N, H, W, 3] uint8: a little brighter and smaller."""
    height, width = (int(side * 0.94) // 2 * 2 for side in frames.shape[1:3])
    lighter = (frames.astype(np.int16) + 6).clip(0, 255).astype(np.uint8)
    return np.stack([np.asarray(Image.fromarray(frame).resize((width, height))) for frame in lighter])


def _overlaid(frames: np.ndarray) -> np.ndarray:
    """Frames under a watermark: a grid of bright lines and a banner."""
    height, width = frames.shape[1:3]
    marked = frames.copy()
    step = min(height, width) // 5
    rows, columns = np.indices((height, width))
    lines = ((rows + columns) % step < 2) | ((rows - columns) % step < 2)
    lines |= (rows > height * 0.4) & (rows < height * 0.6) & (columns // 3 % 2 == 0)
    marked[:, lines] = (0.35 * frames[:, lines] + 0.65 * 235).astype(np.uint8)
    return marked


def _web_caption(truth: Truth, rng: np.random.Generator) -> tuple[str, str | None]:
    """The kind of the caption in the manifest (one of CAPTIONS), and the caption."""
    kind = str(rng.choice(list(CAPTIONS), p=list(CAPTIONS.values())))
    if kind == "missing" or truth.caption_short is None or truth.caption_long is None:
        return "missing", None
    number = int(rng.integers(10_000))
    if kind == "noisy":
        return kind, f"IMG_{number:04d} {truth.caption_short} | FREE download, best price!!"
    if kind == "wrong":
        seconds = 0.0 if truth.kind == "image" else 1.0
        return kind, short_caption(sample_scene(rng, width=96, height=96, seconds=seconds))
    return kind, truth.caption_short if rng.random() < 0.5 else truth.caption_long


def _tone() -> bytes:
    """A second of sound, as an mp4 without a video stream."""
    buffer = BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        wave = np.sin(np.arange(16000) * 440 * 2 * np.pi / 16000)[None].astype(np.float32)
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def _write_lines(path: Path, rows: Sequence[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
