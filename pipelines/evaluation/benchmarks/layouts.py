"""Prompt files of GenEval, DPG-Bench, T2I-CompBench and VBench, and the layout that their official scorers expect.

A benchmark becomes a list of `Sample`s: what to generate and where the file goes. The prompt files are the ones that
each benchmark publishes; the user downloads them and names their folder.

    geneval        evaluation_metadata.jsonl       00000/metadata.jsonl, 00000/samples/0000.png      4 samples
    dpg_bench      prompts.jsonl or prompts/*.txt  NAME.png, a 2x2 grid                              4 samples
    t2i_compbench  *_val.txt                       CATEGORY/samples/PROMPT_000000.png               10 samples
    vbench         VBench_full_info.json           PROMPT-0.mp4                                      5 samples, 25 for
                                                                                     temporal flickering
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FLICKERING_SAMPLES = 25


@dataclass(frozen=True)
class Sample:
    """One file to generate."""

    prompt: str
    path: str
    """Relative to the output folder."""
    seeds: tuple[int, ...]
    """One for each picture in the file; more than one make a grid."""
    video: bool = False
    frames: int | None = None
    """Pixel frames; here and below, the run's own setting where a sample has none."""
    motion: float | None = None
    """Motion score that is asked for."""
    image: str | None = None
    """First frame to continue from."""
    files: dict[str, str] = field(default_factory=dict)
    """Text files that belong beside it: relative path to content."""


def read(benchmark: str, folder: str, *, samples: int | None = None, seed: int = 0) -> list[Sample]:
    """The samples of a benchmark in a stable order.

    Args:
        benchmark: a name of `BENCHMARKS`.
        folder: where its prompt files are.
        samples: pictures per prompt; the protocol's number by default.
        seed: of each prompt's first sample; the next ones count up.

    Raises:
        ValueError: unknown benchmark, missing or malformed prompt file.
    """
    if benchmark not in BENCHMARKS:
        raise ValueError(f"unknown benchmark {benchmark!r}; choose one of {', '.join(BENCHMARKS)}")
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise ValueError(f"--benchmark-data {folder} is no folder; give the one with the prompt files of {benchmark}")
    if (root / benchmark).is_dir():  # the folder that holds all benchmarks
        root = root / benchmark
    try:
        found = list(BENCHMARKS[benchmark](root, samples, seed))
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"a prompt file of {benchmark} in {root} is not as published: {error!r}") from error
    if not found:
        raise ValueError(f"no prompts of {benchmark} in {root}; download its prompt files there")
    return found


def _geneval(root: Path, samples: int | None, seed: int) -> Iterator[Sample]:
    for index, entry in enumerate(_json_lines(root / "evaluation_metadata.jsonl")):
        for number in range(samples or 4):
            yield Sample(
                prompt=entry["prompt"],
                path=f"{index:05d}/samples/{number:04d}.png",
                seeds=(seed + number,),
                files={f"{index:05d}/metadata.jsonl": json.dumps(entry)},
            )


def _dpg_bench(root: Path, samples: int | None, seed: int) -> Iterator[Sample]:
    if (root / "prompts.jsonl").exists():
        entries = [(Path(entry["file"]).stem, entry["prompt"]) for entry in _json_lines(root / "prompts.jsonl")]
    else:
        folder = root / "prompts" if (root / "prompts").is_dir() else root
        entries = [(path.stem, _text(path).strip()) for path in sorted(folder.glob("*.txt"))]
    for name, prompt in entries:
        yield Sample(prompt=prompt, path=f"{name}.png", seeds=tuple(range(seed, seed + (samples or 4))))


def _t2i_compbench(root: Path, samples: int | None, seed: int) -> Iterator[Sample]:
    for path in sorted(root.glob("*_val.txt")):
        category = path.name.removesuffix("_val.txt")
        for line in _text(path).splitlines():
            prompt = line.strip()
            for number in range(samples or 10) if prompt else ():
                name = f"{safe_name(prompt)}_{number:06d}.png"
                yield Sample(prompt=prompt, path=f"{category}/samples/{name}", seeds=(seed + number,))


def _vbench(root: Path, samples: int | None, seed: int) -> Iterator[Sample]:
    path = root / "VBench_full_info.json"
    _require(path)
    counts: dict[str, int] = {}
    for entry in json.loads(_text(path)):
        many = FLICKERING_SAMPLES if "temporal_flickering" in entry["dimension"] else 5
        prompt = entry["prompt_en"]
        counts[prompt] = max(counts.get(prompt, 0), samples or many)
    for prompt, count in counts.items():
        for number in range(count):
            yield Sample(prompt=prompt, path=f"{safe_name(prompt)}-{number}.mp4", seeds=(seed + number,), video=True)


BENCHMARKS: dict[str, Any] = {
    "geneval": _geneval,
    "dpg_bench": _dpg_bench,
    "t2i_compbench": _t2i_compbench,
    "vbench": _vbench,
}


def safe_name(prompt: str) -> str:
    """A prompt as a file name: a slash would make a folder, and file systems take at most 255 bytes."""
    return prompt.replace("/", " ").encode()[:235].decode(errors="ignore")


def read_prompts(path: str) -> list[str]:
    """Prompts of a text file (one a line), a JSONL file with `prompt`, or a JSON list.

    Raises:
        ValueError: missing or empty file, or entries without a prompt.
    """
    file = Path(path).expanduser()
    _require(file)
    try:
        if file.suffix == ".jsonl":
            prompts = [entry["prompt"] for entry in _json_lines(file)]
        elif file.suffix == ".json":
            entries = json.loads(_text(file))
            prompts = [each if isinstance(each, str) else each["prompt"] for each in entries]
        else:
            prompts = [line.strip() for line in _text(file).splitlines()]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: every entry needs a prompt ({error!r})") from error
    prompts = [prompt for prompt in prompts if prompt]
    if not prompts:
        raise ValueError(f"{path} holds no prompts")
    return prompts


def _json_lines(path: Path) -> list[dict[str, Any]]:
    _require(path)
    return [json.loads(line) for line in _text(path).splitlines() if line.strip()]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8; give a file of prompts") from error


def _require(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"{path} is missing")
