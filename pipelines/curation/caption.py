"""Captions by a transformers image-text-to-text model, through its own processor and chat template.

Every accepted clip gets a short caption (one sentence) and a long one. The model sees frames spread over the clip. A
caption that came with the source is kept beside them, in `source_caption`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pipelines.core.devices import device, dtype
from pipelines.core.model_hub import digest, folder, loading, quiet
from pipelines.core.stage import Row, Stage
from pipelines.media.frames import sample_clip

if TYPE_CHECKING:
    import numpy as np


class Captioner:
    """A vision-language model that answers a question about each clip of a batch."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor

    @classmethod
    def load(cls, name: str, precision: str) -> Captioner:
        """Loads a folder or hub id as `AutoModelForImageTextToText` and `AutoProcessor` read it.

        Raises:
            ValueError: the model cannot be loaded, or has no chat template.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        # The bars of several actors that load at once overwrite each other on the terminal.
        quiet()
        with loading(name):
            path = folder(name)
            model = AutoModelForImageTextToText.from_pretrained(path, dtype=dtype(precision)).eval().to(device())
            processor = AutoProcessor.from_pretrained(path)
        # A base model has no template and would continue the question instead of answering it.
        if not getattr(processor, "chat_template", None):
            raise ValueError(f"model {name!r} has no chat template; choose an instruction-tuned one")
        return cls(model, processor)

    def answer(
        self,
        clips: Sequence[np.ndarray],
        questions: Sequence[str],
        max_tokens: int,
        seconds: Sequence[float] | None = None,
    ) -> list[str]:
        """Answers one question per clip, by greedy decoding.

        Args:
            clips: uint8 frames [N, H, W, 3] of each clip.
            questions: one question per clip.
            max_tokens: length of an answer in tokens, at most.
            seconds: durations of the clips; with them, clips of several frames are passed as videos and not as images.
        """
        import torch

        as_videos = [seconds is not None and len(frames) > 1 for frames in clips]
        chats = [
            _chat(frames, question, as_video)
            for frames, question, as_video in zip(clips, questions, as_videos, strict=True)
        ]
        # A causal model continues the end of its input, so padding goes to the left of the shorter questions.
        options: dict[str, Any] = {"padding": True, "padding_side": "left"}
        if seconds is not None and any(as_videos):
            durations = zip(clips, seconds, as_videos, strict=True)
            metadata = [video_metadata(len(frames), duration) for frames, duration, as_video in durations if as_video]
            # The frames are a selection already; the processor must not thin them out again.
            options |= {"do_sample_frames": False, "video_metadata": metadata}
        inputs = self.processor.apply_chat_template(
            chats,
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs=options,
        ).to(self.model.device)
        with torch.inference_mode():
            # Greedy: a clip must get the same caption when it is captioned again, or its example would count as stale.
            tokens = self.model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
        answers = tokens[:, inputs["input_ids"].shape[1] :]  # what the model returns begins with its input
        # On one line, as prompts are written in files of a prompt a line.
        return [" ".join(text.split()) for text in self.processor.batch_decode(answers, skip_special_tokens=True)]


def video_metadata(frames: int, seconds: float) -> dict[str, Any]:
    """Metadata for a processor: a video of some seconds, of which it receives frames spread evenly."""
    return {
        "total_num_frames": frames, "frames_indices": list(range(frames)), "duration": seconds,
        "fps": frames / seconds if seconds else 1.0,
    }  # fmt: skip


def _chat(frames: np.ndarray, question: str, as_video: bool) -> list[dict[str, Any]]:
    if as_video:
        media: list[dict[str, Any]] = [{"type": "video", "video": frames}]
    else:
        media = [{"type": "image", "image": frame} for frame in frames]
    return [{"role": "user", "content": [*media, {"type": "text", "text": question}]}]


@dataclass(frozen=True, kw_only=True)
class Caption(Stage):
    """Describes a clip in one sentence, and at length."""

    name: ClassVar[str] = "caption"
    reads: ClassVar[tuple[str, ...]] = ("uri", "kind", "start", "end")
    adds: ClassVar[tuple[str, ...]] = ("caption_short", "caption_long")

    model: str
    """transformers image-text-to-text model: a folder or a hub id."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """auto is bf16 on a GPU and fp32 on a CPU."""
    frames: int = 4
    """Frames of a video that the model sees."""
    as_video: bool = False
    """Pass the frames as a video with their times rather than as images; for models that take videos, as Qwen-VL."""
    short_side: int = 448
    """Short side in pixels at which frames are decoded; the model's processor resizes further."""
    short_prompt: str = "Describe this {kind} in one sentence."
    """Question for the short caption; {kind} becomes image or video."""
    long_prompt: str = (
        "Describe this {kind} in detail: its subjects, what they look like, what happens, the background, the camera "
        "and the style. Answer with the description alone."
    )
    """Question for the long caption."""
    short_tokens: int = 64
    """Length of the short caption at most, in the model's tokens."""
    long_tokens: int = 256
    """Length of the long caption at most."""

    def unused_settings(self) -> dict[str, str]:
        if self.frames > 1 or not self.as_video:
            return {}
        return {"as_video": "with caption.frames=1, as one frame is an image; give more frames, or leave it out"}

    def identity(self) -> tuple[object, ...]:
        return (*super().identity(), digest(self.model))

    def load(self) -> Captioner:
        return Captioner.load(self.model, self.precision)

    def process(self, model: Captioner, rows: Sequence[Row]) -> list[Row | Exception]:
        clips = [sample_clip(row, self.frames, short_side=self.short_side) for row in rows]
        good = [(row, clip) for row, clip in zip(rows, clips, strict=True) if not isinstance(clip, Exception)]
        # Two calls for the whole batch, and not one a clip: generation is bound by memory, so a batch takes hardly
        # longer than a single clip.
        short = self._ask(model, good, self.short_prompt, self.short_tokens)
        long = self._ask(model, good, self.long_prompt, self.long_tokens)
        captions = iter(zip(short, long, strict=True))
        return [clip if isinstance(clip, Exception) else _row(*next(captions)) for clip in clips]

    def _ask(self, model: Captioner, clips: list[tuple[Row, np.ndarray]], prompt: str, limit: int) -> list[str]:
        if not clips:
            return []
        # An image may come without times.
        seconds = [(row["end"] or 0.0) - (row["start"] or 0.0) for row, _ in clips] if self.as_video else None
        questions = [prompt.format(kind=row["kind"]) for row, _ in clips]
        return model.answer([frames for _, frames in clips], questions, limit, seconds)


def _row(short: str, long: str) -> Row | Exception:
    # An example without a caption would be trained as if it were unconditional.
    if not short or not long:
        return ValueError("the captioner returned an empty caption")
    return {"caption_short": short, "caption_long": long}
