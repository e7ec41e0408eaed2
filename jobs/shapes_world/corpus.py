"""`nova shapes`: writes a corpus of the shapes world, with its ground truth, for `nova curate`.

nova shapes --items 3000 --output work/shapes
nova curate --recipe shapes --input work/shapes/manifest.jsonl --tables work/tables
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import track

from jobs import settings
from pipelines.shapes_world.corpus import write_corpus
from pipelines.store.files import replacing_folder
from pipelines.store.folders import check_output_folder, local_folder
from pipelines.store.locks import exclusive

OPTIONS_FILE = "corpus.json"
"""File with the options that the corpus was written with."""
MIN_ITEMS = 20
SHARES = ("video_share", "simple_share", "textured_share")
"""Options that are shares. Older corpora do not record those that were added later; they count as 0 there."""


@dataclass(frozen=True, kw_only=True)
class ShapesConfig:
    """Writes png and mp4 files of the shapes world, some ugly, duplicated or broken on purpose, and their ground truth.

    The same options give the same bytes. Example: nova shapes --items 3000 --output work/shapes
    """

    output: str = ""
    """Folder: media/, manifest.jsonl (for nova curate), truth.jsonl."""
    items: int = 120
    """Number of files."""
    seed: int = 0
    """Seed of their content."""
    video_share: float = 0.6
    """Share of the files that are videos; the others are pictures."""
    simple_share: float = 0.0
    """Share of the scenes that show one thing alone, still or moving straight, from which shapes are learnt sooner."""
    textured_share: float = 0.0
    """Share of the simple scenes that have a textured background instead of a plain one."""

    def check(self) -> None:
        """Raises ValueError for options that make no sense."""
        if not self.output:
            raise ValueError("--output is missing; give a folder for the corpus")
        check_items("--items", self.items)
        if self.seed < 0:
            raise ValueError(f"--seed {self.seed}: a number from 0 on")
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)}: a share from 0 to 1")
        if self.textured_share and not self.simple_share:
            raise ValueError("--textured-share is of simple scenes, of which there are none; give --simple-share, too")


def check_items(option: str, items: int) -> None:
    """Raises ValueError for a corpus that is too small to have files of every kind."""
    if items < MIN_ITEMS:
        raise ValueError(f"{option} {items}: at least {MIN_ITEMS}, so that the corpus has files of every kind")


def main(arguments: Sequence[str]) -> int:
    """Runs a command line; returns 0."""
    config = settings.parse(ShapesConfig, args=list(arguments), prog="nova shapes")
    config.check()
    print(f"corpus: {write(config)}")
    return 0


def write(config: ShapesConfig) -> Path:
    """Writes the corpus and returns the path of its manifest; a corpus with the same options is left as it is.

    Raises:
        ValueError: the folder holds other files, or a corpus with other options.
    """
    output = local_folder(config.output, "--output")
    check_output_folder(output, "--output", markers=(OPTIONS_FILE,), allow_hidden=False)
    options: dict[str, Any] = {name: getattr(config, name) for name in ("items", "seed", *SHARES)}
    if (output / OPTIONS_FILE).exists():
        _check_same(output, options)
        return output / "manifest.jsonl"
    # All or nothing: the note below marks a folder as complete, and half a corpus would be curated as if it were one.
    # The lock lies beside the folder, which is replaced as a whole.
    with exclusive(output.parent, f"{output.name}.corpus", option="--output"), replacing_folder(output) as folder:
        write_corpus(folder, **options, progress=lambda indices: track(indices, "drawing"))
        (folder / OPTIONS_FILE).write_text(json.dumps(options) + "\n")
    return output / "manifest.jsonl"


def _check_same(output: Path, options: dict[str, Any]) -> None:
    """Raises ValueError where a folder holds a corpus that was written with other options."""
    present = dict.fromkeys(SHARES, 0.0) | json.loads((output / OPTIONS_FILE).read_text())
    if present != options:
        raise ValueError(f"--output {output} holds a corpus of {present}; give another folder for {options}")
