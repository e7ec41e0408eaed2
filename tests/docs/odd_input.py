"""The table of docs/odd_input.md: odd input, what happens to it, and the test that shows it.

A test describes what it shows by a marker with three texts, the topic, the input and the outcome:

    @pytest.mark.odd_input("Times", "A recording that pauses", "The pause ends a clip.")

python -m tests.docs.odd_input     # writes the table anew
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.docs.documents import ROOT, with_list

PAGE = ROOT / "docs/odd_input.md"
BEGIN = "<!-- The tables below are written by `python -m tests.docs.odd_input`. -->"
END = "<!-- End of the tables. -->"
TOPICS = ("Runs", "Text", "Times", "Pictures", "Moved and changed data", "Names and places", "Models")
"""Topics in the order of the page."""


@dataclass(frozen=True)
class OddInput:
    """A row of the table, and the test that it describes."""

    topic: str
    situation: str
    outcome: str
    test: str
    path: Path


def odd_inputs() -> list[OddInput]:
    """The rows that tests describe, in the order of the files.

    Raises:
        ValueError: a marker has other arguments than three texts, or an unknown topic.
    """
    return [row for path in sorted((ROOT / "tests").rglob("test_*.py")) for row in _rows(path)]


def _rows(path: Path) -> Iterator[OddInput]:
    for node in ast.walk(ast.parse(path.read_text())):
        for decorator in getattr(node, "decorator_list", []):
            if not (isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.odd_input"):
                continue
            texts = [argument.value for argument in decorator.args if isinstance(argument, ast.Constant)]
            if len(texts) != 3 or texts[0] not in TOPICS:
                raise ValueError(f"{path}: {ast.unparse(decorator)}: give a topic of {TOPICS}, the input, the outcome")
            yield OddInput(*texts, test=node.name, path=path)  # type: ignore[attr-defined]


def tables() -> str:
    """The tables as Markdown, one for each topic."""
    rows = odd_inputs()
    lines = []
    for topic in TOPICS:
        lines += [f"## {topic}", "", "| input | what happens | test |", "|---|---|---|"]
        for row in rows:
            if row.topic == topic:
                link = Path(os.path.relpath(row.path, PAGE.parent)).as_posix()
                lines.append(f"| {row.situation} | {row.outcome} | [{row.test.removeprefix('test_')}]({link}) |")
        lines.append("")
    return "\n".join(lines)


def rewritten(page: str) -> str:
    """The page with the tables of today's tests."""
    return with_list(page, BEGIN, END, tables())


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
