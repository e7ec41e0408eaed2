"""Prompt files of GenEval, DPG-Bench, T2I-CompBench and VBench, and the layout that their official scorers expect.

A benchmark becomes a list of `SampleRequest`s: what to generate and where the file goes. The prompt files are the ones
that each benchmark publishes; the user downloads them and names their folder.

    geneval        evaluation_metadata.jsonl       00000/metadata.jsonl, 00000/samples/0000.png      4 samples
    dpg_bench      prompts.jsonl or prompts/*.txt  NAME.png, a 2x2 grid                              4 samples
    t2i_compbench  *_val.txt                       CATEGORY/samples/PROMPT_000000.png               10 samples
    vbench         VBench_full_info.json           PROMPT-0.mp4                                      5 samples, 25 for
                                                                                     temporal flickering
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from pipelines.generation.requests import SampleRequest, read_json_lines, read_text, require_file

FLICKERING_SAMPLES = 25
"""Samples of prompts of VBench's temporal flickering: many move, and its protocol scores static videos only."""


def read(benchmark: str, folder: str, *, samples: int | None = None, seed: int = 0) -> list[SampleRequest]:
    """The requests of a benchmark in a stable order.

    Args:
        benchmark: a name of `BENCHMARKS`.
        folder: folder of its prompt files, or one that holds a folder for each benchmark.
        samples: number of images per prompt; the protocol's number by default.
        seed: seed of each prompt's first sample; the next ones count up.

    Raises:
        ValueError: the benchmark is unknown, or a prompt file is missing or malformed.
    """
    if benchmark not in BENCHMARKS:
        raise ValueError(f"unknown benchmark {benchmark!r}; choose one of {', '.join(BENCHMARKS)}")
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise ValueError(
            f"--benchmark-data {folder} is not a folder; give the one with the prompt files of {benchmark}"
        )
    if (root / benchmark).is_dir():  # the folder that holds all benchmarks
        root = root / benchmark
    try:
        requests = list(BENCHMARKS[benchmark](root, samples, seed))
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"a prompt file of {benchmark} in {root} is not as published: {error!r}") from error
    if not requests:
        raise ValueError(f"no prompts of {benchmark} in {root}; download its prompt files there")
    return requests


def _geneval(root: Path, samples: int | None, seed: int) -> Iterator[SampleRequest]:
    for index, entry in enumerate(read_json_lines(root / "evaluation_metadata.jsonl")):
        for number in range(samples or 4):
            yield SampleRequest(
                prompt=entry["prompt"],
                path=f"{index:05d}/samples/{number:04d}.png",
                seeds=(seed + number,),
                files={f"{index:05d}/metadata.jsonl": json.dumps(entry)},
            )


def _dpg_bench(root: Path, samples: int | None, seed: int) -> Iterator[SampleRequest]:
    if (root / "prompts.jsonl").exists():
        entries = [(Path(entry["file"]).stem, entry["prompt"]) for entry in read_json_lines(root / "prompts.jsonl")]
    else:
        folder = root / "prompts" if (root / "prompts").is_dir() else root
        entries = [(path.stem, read_text(path).strip()) for path in sorted(folder.glob("*.txt"))]
    for name, prompt in entries:
        yield SampleRequest(prompt=prompt, path=f"{name}.png", seeds=tuple(range(seed, seed + (samples or 4))))


def _t2i_compbench(root: Path, samples: int | None, seed: int) -> Iterator[SampleRequest]:
    for path in sorted(root.glob("*_val.txt")):
        category = path.name.removesuffix("_val.txt")
        for line in read_text(path).splitlines():
            prompt = line.strip()
            for number in range(samples or 10) if prompt else ():
                name = f"{safe_name(prompt)}_{number:06d}.png"
                yield SampleRequest(prompt=prompt, path=f"{category}/samples/{name}", seeds=(seed + number,))


def _vbench(root: Path, samples: int | None, seed: int) -> Iterator[SampleRequest]:
    path = root / "VBench_full_info.json"
    require_file(path)
    counts: dict[str, int] = {}
    for entry in json.loads(read_text(path)):
        default = FLICKERING_SAMPLES if "temporal_flickering" in entry["dimension"] else 5
        prompt = entry["prompt_en"]
        # A prompt that serves several dimensions is listed once for each of them.
        counts[prompt] = max(counts.get(prompt, 0), samples or default)
    for prompt, count in counts.items():
        for number in range(count):
            yield SampleRequest(prompt=prompt, path=f"{safe_name(prompt)}-{number}.mp4", seeds=(seed + number,))


BENCHMARKS: dict[str, Callable[[Path, int | None, int], Iterator[SampleRequest]]] = {
    "geneval": _geneval,
    "dpg_bench": _dpg_bench,
    "t2i_compbench": _t2i_compbench,
    "vbench": _vbench,
}


def safe_name(prompt: str) -> str:
    """A prompt as a file name: a slash would make a folder, and file systems take at most 255 bytes."""
    return prompt.replace("/", " ").encode()[:235].decode(errors="ignore")
