"""What to generate: one `SampleRequest` a file, and the prompt files that requests are read from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipelines.core.stage import Row
from pipelines.store.texts import repair, repair_all, split_lines


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """One file to generate.

    A row of the generation stage holds a request as its columns: `columns` writes them and `from_row` reads them back.
    What a request leaves open (None) is the stage's own setting.
    """

    prompt: str
    path: str
    """Relative to the output folder. Its ending tells an image (.png) from a video (.mp4)."""
    seeds: tuple[int, ...]
    """One seed per image in the file; several images are arranged in a grid."""
    frames: int | None = None
    """Pixel frames; 1 makes an image."""
    motion: float | None = None
    """Motion score that conditions the model."""
    image: str | None = None
    """First frame to continue from."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Text files that a benchmark's scorer expects beside the sample: relative path to content."""

    @property
    def is_video(self) -> bool:
        return self.path.endswith(".mp4")

    @classmethod
    def from_row(cls, row: Row) -> SampleRequest:
        """The request in the columns of a row; optional columns may be missing."""
        return cls(
            prompt=row["prompt"],
            path=row["path"],
            seeds=tuple(row["seeds"]),
            frames=row.get("asked_frames"),
            motion=row.get("asked_motion"),
            image=row.get("first_frame"),
        )

    def columns(self) -> Row:
        """The request as columns of a row."""
        return {
            "prompt": self.prompt,
            "path": self.path,
            # Arrow has lists and no tuples; `from_row` turns them back.
            "seeds": list(self.seeds),
            "asked_frames": self.frames,
            "asked_motion": self.motion,
            "first_frame": self.image,
        }

    def one_per_seed(self) -> Iterator[SampleRequest]:
        """Separate requests, one per image of the file."""
        for seed in self.seeds:
            yield replace(self, seeds=(seed,))


def prompt_requests(prompts: Sequence[str], *, samples: int, seed: int, video: bool) -> list[SampleRequest]:
    """Requests for the samples of each prompt, which have seeds that count up.

    Args:
        prompts: prompts in the order of the files.
        samples: number of samples per prompt.
        seed: seed of the first sample of every prompt.
        video: whether the samples are videos.
    """
    ending = "mp4" if video else "png"
    return [
        SampleRequest(prompt=prompt, path=f"{index:05d}-{sample_seed}.{ending}", seeds=(sample_seed,))
        for index, prompt in enumerate(prompts)
        for sample_seed in range(seed, seed + samples)
    ]


def read_prompts(path: str) -> list[str]:
    """Prompts of a text file (one per line), a JSONL file (.jsonl, .ndjson) with `prompt`, or a JSON list (.json).

    Raises:
        ValueError: the file is missing or empty, or an entry has no prompt.
    """
    file = Path(path).expanduser()
    # Before the suffix decides how to read, so that a missing file is reported as such.
    require_file(file)
    kind = file.suffix.lower()
    if kind in (".jsonl", ".ndjson"):
        prompts = [_prompt(entry, file, f"line {number}") for number, entry in _json_lines(file)]
    elif kind == ".json":
        entries = read_json(file)
        if not isinstance(entries, list):
            raise ValueError(f"{file} is no JSON list; give a list of prompts, or name a file of JSON lines .jsonl")
        prompts = [
            entry if isinstance(entry, str) else _prompt(entry, file, f"entry {number}")
            for number, entry in enumerate(entries, start=1)
        ]
    else:
        prompts = [repair(line).strip() for line in split_lines(read_text(file))]
    prompts = [prompt for prompt in prompts if prompt]
    if not prompts:
        raise ValueError(f"{path} holds no prompts; write one per line")
    return prompts


def _prompt(entry: Any, file: Path, place: str) -> str:
    prompt = entry.get("prompt") if isinstance(entry, dict) else None
    if not isinstance(prompt, str):
        text = json.dumps(entry)
        raise ValueError(f"{file}, {place}: an entry has no prompt ({text[:100]}); give each one a `prompt` of text")
    return prompt


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The values of a JSONL file; raises ValueError where it is missing, not text, or not JSON."""
    return [entry for _, entry in _json_lines(path)]


def _json_lines(path: Path) -> list[tuple[int, Any]]:
    """The values of a JSONL file with the numbers of their lines."""
    require_file(path)
    lines = enumerate(split_lines(read_text(path)), start=1)
    return [(number, _parse(line, path, f"line {number}")) for number, line in lines if line.strip()]


def read_json(path: Path) -> Any:
    """The value of a JSON file; raises ValueError where it is missing, not text, or not JSON."""
    require_file(path)
    return _parse(read_text(path), path, "")


def _parse(text: str, path: Path, place: str) -> Any:
    try:
        # Escapes of JSON can spell half a character, which no table and no tokenizer takes.
        return repair_all(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}{place and f', {place}'}: invalid JSON ({error}); correct it") from error


def read_text(path: Path) -> str:
    """The text of a prompt file; raises ValueError where it is not UTF-8."""
    raw = path.read_bytes()
    try:
        # Editors on Windows begin a file with a byte-order mark, which would become part of the first prompt.
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path} is no text in UTF-8 (line {line}); save it as UTF-8") from error


def require_file(path: Path) -> None:
    """Raises ValueError where a prompt file does not exist."""
    if not path.is_file():
        raise ValueError(f"{path} is missing")
