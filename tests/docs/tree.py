"""The list of source files in docs/architecture.md, each with the first sentence of its docstring.

python -m tests.docs.tree     # writes the list anew
"""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

from tests.docs.documents import ROOT, with_list

PAGE = ROOT / "docs/architecture.md"
BEGIN = "<!-- The list below is written by `python -m tests.docs.tree`. -->"
END = "<!-- End of the list. -->"
ROOMS = ("nova_model", "pipelines", "jobs")
LONGEST = 240


def listing() -> str:
    """The list as Markdown: a heading a room, a line a file."""
    return "\n".join(line for room in ROOMS for line in folder(ROOT / room))


def folder(path: Path) -> list[str]:
    """Lines of a folder and of the folders in it."""
    name = path.relative_to(ROOT)
    level = "###" if len(name.parts) == 1 else "####"
    lines = [f"{level} `{name}/`", "", first_sentence(path / "__init__.py"), ""]
    files = [file for file in sorted(path.glob("*.py")) if file.name != "__init__.py"]
    lines += [
        f"- [`{file.name}`]({Path(os.path.relpath(file, PAGE.parent)).as_posix()}): {first_sentence(file)}"
        for file in files
    ]
    lines += [""] if files else []
    for inner in sorted(path.iterdir()):
        if (inner / "__init__.py").exists():
            lines += folder(inner)
    return lines


def first_sentence(file: Path) -> str:
    """First sentence of a module's docstring, on one line.

    Raises:
        ValueError: no docstring, or one whose first sentence is too long for a list.
    """
    text = ast.get_docstring(ast.parse(file.read_text())) or ""
    paragraph = " ".join(text.split("\n\n")[0].split())
    sentence = re.split(r"(?<=[.:])\s+(?=[A-Z`])", paragraph)[0].removesuffix(":")
    if not sentence:
        raise ValueError(f"{file} has no docstring; say in a sentence what it holds")
    if len(sentence) > LONGEST:
        raise ValueError(f"{file}: the first sentence of its docstring has {len(sentence)} characters; shorten it")
    return sentence if sentence.endswith(".") else f"{sentence}."


def rewritten(page: str) -> str:
    """The page with the list of today's files."""
    return with_list(page, BEGIN, END, listing())


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
