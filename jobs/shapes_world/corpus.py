"""`nova shapes`: a corpus of the shapes world, whose truth is known, for `nova curate`.

nova shapes --items 3000 --output work/shapes
nova curate --recipe shapes --input work/shapes/manifest.jsonl --tables work/tables
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs import settings
from pipelines.store.files import replacing_folder
from pipelines.store.folders import check_output_folder

NOTE = "corpus.json"
"""What the corpus was asked to be."""
LEAST = 20
SHARES = ("video_share", "simple_share", "textured_share")
"""Options that are shares; the notes of older corpora do not name all of them."""


@dataclass(frozen=True, kw_only=True)
class ShapesConfig:
    """Writes png and mp4 files of the shapes world, some ugly, duplicated or broken on purpose, and the truth of each.

    The same options give the same bytes. Example: nova shapes --items 3000 --output work/shapes
    """

    output: str = ""
    """Folder: media/, manifest.jsonl (for nova curate), truth.jsonl."""
    items: int = 120
    """Files."""
    seed: int = 0
    """Of what is in them."""
    video_share: float = 0.6
    """Of the files; the others are pictures."""
    simple_share: float = 0.0
    """Of the scenes: one thing alone, still or moving straight. Shapes are learnt from these sooner."""
    textured_share: float = 0.0
    """Of those: on textured ground, not on a plain one."""

    def check(self) -> None:
        """Raises ValueError where the options make no sense."""
        if not self.output:
            raise ValueError("--output is missing; give a folder for the corpus")
        enough("--items", self.items)
        if self.seed < 0:
            raise ValueError(f"--seed {self.seed}: a number from 0 on")
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)}: a share from 0 to 1")
        if self.textured_share and not self.simple_share:
            raise ValueError("--textured-share is of simple scenes, of which there are none; give --simple-share, too")


def enough(option: str, items: int) -> None:
    """Raises ValueError where a corpus of so many files would lack a kind of them."""
    if items < LEAST:
        raise ValueError(f"{option} {items}: at least {LEAST}, so that something of each kind is there")


def main(arguments: Sequence[str]) -> int:
    """Reads the command line and writes the corpus."""
    config = settings.parse(ShapesConfig, args=list(arguments), prog="nova shapes")
    config.check()
    print(f"corpus: {write(config)}")
    return 0


def write(config: ShapesConfig) -> Path:
    """Writes the corpus, in one move, and returns the path of its manifest; a finished one stays.

    Raises:
        ValueError: the folder holds something else.
    """
    from rich.progress import track

    from pipelines.shapes_world import write_corpus

    output = Path(config.output).expanduser().absolute()
    check_output_folder(output, "--output", markers=(NOTE,), allow_hidden=False)
    asked: dict[str, Any] = {name: getattr(config, name) for name in ("items", "seed", *SHARES)}
    if (output / NOTE).exists():
        _same(output, asked)
        return output / "manifest.jsonl"
    with replacing_folder(output) as folder:
        write_corpus(folder, **asked, watched=lambda indices: track(indices, "drawing"))
        (folder / NOTE).write_text(json.dumps(asked) + "\n")
    return output / "manifest.jsonl"


def _same(output: Path, asked: dict[str, Any]) -> None:
    """Raises ValueError unless a folder holds the corpus that is asked for."""
    held = dict.fromkeys(SHARES, 0.0) | json.loads((output / NOTE).read_text())
    if held != asked:
        raise ValueError(f"--output {output} holds a corpus of {held}; give another folder for {asked}")
