"""The stages of curation, in order: from a listing of media to curated tables.

    stage       file               adds
    ingest      ingest.py          what a file is, and the id that its content gives it
    shots       shots.py           clips: the shots of videos, and images
    motion      motion.py          motion score, by optical flow
    aesthetic   aesthetic.py       aesthetic score, CLIP embedding, thumbnails
    dedup       dedup.py           groups of near duplicates
    decide      filters.py         accepted, or rejected with a reason
    caption     caption.py         a short and a long caption
    text        text_features.py   features of the captions
    latents     latents.py         VAE moments at the size and length of a bucket

`curator.py` runs them over the tables.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.core.stage import Stage
from pipelines.curation.aesthetic import Aesthetic
from pipelines.curation.caption import Caption
from pipelines.curation.dedup import Dedup
from pipelines.curation.filters import Filters
from pipelines.curation.ingest import Ingest
from pipelines.curation.latents import Latents
from pipelines.curation.motion import Motion
from pipelines.curation.shots import Shots
from pipelines.curation.text_features import TextFeatures


@dataclass(frozen=True, kw_only=True)
class Curation:
    """The settings of every stage, in order. `dedup` and `decide` work on columns alone and are not Ray stages."""

    ingest: Ingest
    shots: Shots
    motion: Motion
    aesthetic: Aesthetic
    dedup: Dedup
    decide: Filters
    caption: Caption
    text: TextFeatures
    latents: Latents

    @property
    def reading(self) -> tuple[Stage, ...]:
        """Stages of pass 1: from sources to assets and clips."""
        return (self.ingest, self.shots)

    @property
    def scoring(self) -> tuple[Stage, ...]:
        """Stages of pass 2: scores of clips."""
        return (self.motion, self.aesthetic)

    @property
    def encoding(self) -> tuple[Stage, ...]:
        """Stages of pass 4: from accepted clips to examples."""
        return (self.caption, self.text, self.latents)
