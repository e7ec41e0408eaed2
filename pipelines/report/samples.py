"""Section of the report on generated samples: images and videos above their prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.core.stage import Row
from pipelines.generation.manifest import read_manifest
from pipelines.media.errors import MediaError
from pipelines.report.contact_sheet import sample_frames
from pipelines.report.page import Heading, Picture, Pictures, Section, SectionBlock
from pipelines.report.pictures import strip_address

MAX_SAMPLES = 12


@dataclass(frozen=True)
class SampleGroup:
    """Samples of one `nova generate`."""

    title: str
    pictures: Sequence[Picture]


@dataclass(frozen=True, kw_only=True)
class SamplesSection(Section):
    """Groups of samples, each below its title."""

    name = "samples"
    title = "Samples"

    groups: Sequence[SampleGroup]

    def blocks(self) -> Iterator[SectionBlock]:
        for group in self.groups:
            yield Heading(group.title)
            yield Pictures(group.pictures)


def sample_group(folder: str | Path, title: str, max_samples: int = MAX_SAMPLES) -> SampleGroup:
    """Reads the first samples of a `nova generate`.

    Args:
        folder: its output folder, with manifest.parquet.
        title: title of the group.
        max_samples: maximum number of samples.
    """
    return SampleGroup(title, [_picture(row) for row in read_manifest(Path(folder), max_samples)])


def _picture(row: Row) -> Picture:
    seeds = ", ".join(map(str, row["seeds"]))
    detail = f"seed {seeds}; {row['frames']} x {row['height']} x {row['width']}; {row['seconds']:.2f} s"
    try:
        frames = sample_frames(row)
    except MediaError:
        return Picture(None, row["prompt"], detail, verdict="the file is gone", good=False)
    return Picture(strip_address(frames), row["prompt"], detail)
