"""The HTML report: one file that needs no network, built from sections.

Each section is read from the files that a command has written, so a report can be rendered again at any time:

    >>> write_report("report.html", title="Curation", sections=[curation_section(tables, summary)])

A section is a subclass of `Section` that returns its content as blocks (headings, tables, charts, images). The page
renders blocks and is independent of sections, so a package can add sections without a template.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipelines.store.files import write_text


@dataclass(frozen=True)
class SectionBlock(ABC):
    """A piece of a section; the template has a macro for each `kind`."""

    kind: ClassVar[str]


@dataclass(frozen=True)
class Heading(SectionBlock):
    """A heading inside a section."""

    kind = "heading"
    text: str


@dataclass(frozen=True)
class Paragraph(SectionBlock):
    """A paragraph of plain text."""

    kind = "paragraph"
    text: str
    faint: bool = False
    """Set in the secondary colour, for origins and remarks."""


@dataclass(frozen=True)
class Charts(SectionBlock):
    """Charts side by side."""

    kind = "charts"
    drawings: Sequence[str]
    """SVG text from `charts.py`."""

    def markup(self) -> list[Markup]:
        """The drawings as trusted markup. They are the only content that the page does not escape: matplotlib draws
        them and escapes the texts inside."""
        return [Markup(drawing) for drawing in self.drawings]


@dataclass(frozen=True)
class Table(SectionBlock):
    """A table, with a header row."""

    kind = "table"
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    numbers: frozenset[int] = frozenset()
    """Indices of the columns that are aligned to the right."""


@dataclass(frozen=True)
class Details(SectionBlock):
    """A table that is folded until the reader opens it."""

    kind = "details"
    summary: str
    table: Table


@dataclass(frozen=True)
class Picture:
    """An image, or a strip of frames, with its caption."""

    image: str | None
    """`data:` address; None where the file cannot be read."""
    text: str
    detail: str = ""
    verdict: str = ""
    good: bool = True
    """Colour of the verdict."""


@dataclass(frozen=True)
class Pictures(SectionBlock):
    """Images in a grid."""

    kind = "pictures"
    pictures: Sequence[Picture]


@dataclass(frozen=True, kw_only=True)
class Section(ABC):
    """A titled section of a report."""

    name: ClassVar[str]
    """Anchor of the section, and its label in the navigation."""
    title: ClassVar[str]

    source: str = ""
    """Where the content comes from, below the title."""
    tiles: Mapping[str, object] = field(default_factory=dict)
    """Headline numbers by label, on top of the page."""

    @abstractmethod
    def blocks(self) -> Iterable[SectionBlock]:
        """The content, from top to bottom."""


def write_report(
    path: str | Path, *, title: str, sections: Sequence[Section | None], notes: Sequence[str] = ()
) -> Path:
    """Writes the report and returns its path.

    Args:
        path: the HTML file; it is replaced atomically.
        title: title of the page.
        sections: content, in order; None (nothing to report yet) is skipped.
        notes: remarks that a reader needs to interpret the results, on top of the page.
    """
    # Captions and file names are other people's text, hence autoescape. StrictUndefined makes a misspelt name in the
    # template an error instead of an empty string.
    environment = Environment(
        loader=PackageLoader("pipelines.report", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    present = [section for section in sections if section is not None]
    page = environment.get_template("report.html.j2").render(
        title=title,
        subtitle=f"written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        notes=notes,
        tiles={label: value for section in present for label, value in section.tiles.items()},
        sections=present,
    )
    target = Path(path)
    write_text(target, page)
    return target
