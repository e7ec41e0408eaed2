"""Prompt files of GenEval, DPG-Bench, T2I-CompBench and VBench, and the layout that their official scorers expect.

A benchmark becomes a list of `SampleRequest`s: what to generate and where the file goes. The prompt files are the ones
that each benchmark publishes; the user downloads them and names their folder.

    geneval        evaluation_metadata.jsonl       00000/metadata.jsonl, 00000/samples/0000.png      4 samples
    dpg_bench      prompts.jsonl or prompts/*.txt  NAME.png, a 2x2 grid                              4 samples
    t2i_compbench  *_val.txt                       CATEGORY/samples/PROMPT_000000.png               10 samples
    vbench         VBench_full_info.json           PROMPT-0.mp4                                      5 samples, 25 for
                                                                                     temporal flickering

The scorers of the last two read prompts from the names of files, and that of DPG-Bench reads the name of the prompt
file. All published prompts can be read back; `maps_back` tells where other prompts cannot.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from pipelines.generation.file_names import check_paths, safe_name
from pipelines.generation.requests import SampleRequest, read_json, read_json_lines, read_text
from pipelines.store.texts import repair, split_lines

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
        ValueError: the benchmark is unknown, a prompt file is missing or malformed, or two samples would share a file.
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
    except (KeyError, TypeError) as error:
        raise ValueError(f"a prompt file of {benchmark} in {root} is not as published: {error!r}") from error
    if not requests:
        raise ValueError(f"no prompts of {benchmark} in {root}; download its prompt files there")
    check_paths(requests)
    return requests


def _geneval(root: Path, samples: int | None, seed: int) -> Iterator[SampleRequest]:
    for index, entry in enumerate(read_json_lines(root / "evaluation_metadata.jsonl")):
        for number in range(samples or 4):
            yield SampleRequest(
                prompt=_text(entry["prompt"]),
                path=f"{index:05d}/samples/{number:04d}.png",
                seeds=(seed + number,),
                files={f"{index:05d}/metadata.jsonl": json.dumps(entry)},
            )


def _dpg_bench(root: Path, samples: int | None, seed: int) -> Iterator[SampleRequest]:
    if (root / "prompts.jsonl").exists():
        entries = [
            (Path(entry["file"]).stem, _text(entry["prompt"])) for entry in read_json_lines(root / "prompts.jsonl")
        ]
    else:
        folder = root / "prompts" if (root / "prompts").is_dir() else root
        entries = [(path.stem, _prompt_in(path)) for path in sorted(folder.glob("*.txt"))]
    for name, prompt in dict.fromkeys(entries):
        yield SampleRequest(prompt=prompt, path=f"{name}.png", seeds=tuple(range(seed, seed + (samples or 4))))


def _prompt_in(path: Path) -> str:
    return repair("\n".join(split_lines(read_text(path)))).strip()


def _t2i_compbench(root: Path, samples: int | None, seed: int) -> Iterator[SampleRequest]:
    for path in sorted(root.glob("?*_val.txt")):
        category = path.name.removesuffix("_val.txt")
        prompts = dict.fromkeys(repair(line).strip() for line in split_lines(read_text(path)))
        for prompt in prompts:
            for number in range(samples or 10) if prompt else ():
                # The scorer takes the text before the first underscore as the prompt.
                ending = f"_{number:06d}.png"
                name = safe_name(prompt.replace("_", " "), ending) + ending
                yield SampleRequest(prompt=prompt, path=f"{category}/samples/{name}", seeds=(seed + number,))


def _vbench(root: Path, samples: int | None, seed: int) -> Iterator[SampleRequest]:
    counts: dict[str, int] = {}
    for entry in read_json(root / "VBench_full_info.json"):
        default = FLICKERING_SAMPLES if "temporal_flickering" in entry["dimension"] else 5
        prompt = _text(entry["prompt_en"])
        # A prompt that serves several dimensions is listed once for each of them.
        counts[prompt] = max(counts.get(prompt, 0), samples or default)
    for prompt, count in counts.items():
        for number in range(count):
            ending = f"-{number}.mp4"
            yield SampleRequest(prompt=prompt, path=safe_name(prompt, ending) + ending, seeds=(seed + number,))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no prompt")
    return value


BENCHMARKS: dict[str, Callable[[Path, int | None, int], Iterator[SampleRequest]]] = {
    "geneval": _geneval,
    "dpg_bench": _dpg_bench,
    "t2i_compbench": _t2i_compbench,
    "vbench": _vbench,
}


def maps_back(benchmark: str, request: SampleRequest) -> bool:
    """Whether the official scorer of a benchmark reads what was asked for from the name of the file.

    A file name holds neither a slash nor more than 255 bytes, and some scorers read a name up to a certain character.
    """
    name = request.path.rpartition("/")[2]
    if benchmark == "t2i_compbench":
        return name.partition("_")[0] == request.prompt
    if benchmark == "vbench":
        return name.rpartition("-")[0] == request.prompt
    # DPG-Bench looks the prompt up by the name up to the first dot; GenEval's metadata hold the prompt itself.
    return benchmark != "dpg_bench" or name.count(".") == 1
