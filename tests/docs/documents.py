"""The project's documents, and the commands, options, links and paths that they name."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CARDS = ROOT / "pipelines/shapes_world/zoo/models"
PAGES = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "infra/README.md",
    *sorted(CARDS.glob("*/README.md")),
)
"""Pages that describe the current version; the changelog also names what is gone."""
COMMENTED = (
    ROOT / "Makefile",
    *sorted((ROOT / "infra").rglob("*.y*ml")),
    *sorted((ROOT / "infra").rglob("Dockerfile")),
)
"""Files whose comments name commands, and the Makefile. tests/infra checks what the manifests themselves run."""
MODULES = (*sorted((ROOT / "jobs").rglob("*.py")), *sorted((ROOT / "nova_model").rglob("*.py")))

FENCE = re.compile(r"(?ms)^( *)```(\w*)\n(.*?)^\1```$")
SPAN = re.compile(r"`([^`]+)`")
OPERATORS = re.compile(r"\s(?:&&|\|\||[|;&]|>>?|2>&1)(?=\s|$)")
IMAGE = re.compile(r"nova:[\d.]+(-\w+)?")
ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")
PLACEHOLDER = re.compile(r"[A-Z][A-Z_]+|…|\.\.\.")


@dataclass(frozen=True)
class CommandLine:
    """A command that a document tells its reader to run."""

    where: str
    program: str
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.where}: {shlex.join((self.program, *self.arguments))}"


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", text)


def blocks(text: str, *languages: str) -> list[str]:
    """Contents of the fenced blocks in one of these languages, continued lines joined."""
    return [block.replace("\\\n", " ") for _, language, block in FENCE.findall(text) if language in languages]


def spans(text: str) -> list[str]:
    """Inline code of a page, wrapped lines joined."""
    return [" ".join(span.split()) for span in SPAN.findall(prose(text))]


def comments(path: Path) -> str:
    """The comments of a manifest or a Dockerfile; all of the Makefile."""
    if path.name == "Makefile":
        return path.read_text()
    return "\n".join(re.findall(r"(?m)(?:^|\s)#\s?(.*)$", path.read_text()))


def docstrings(path: Path) -> list[str]:
    """Docstrings of a module and of its top-level classes and functions."""
    tree = ast.parse(path.read_text())
    documented = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef))]
    return [ast.get_docstring(node) or "" for node in documented]


def command_lines() -> Iterator[CommandLine]:
    """Every `nova` and `python -m nova_model` command in pages, comments, docstrings and usage texts."""
    from jobs import cli

    for path in PAGES:
        text = path.read_text()
        lines = [line for block in blocks(text, "", "sh") for line in block.splitlines()]
        yield from commands_of(path, [*lines, *spans(text)])
    for path in COMMENTED:
        text = comments(path)
        yield from commands_of(path, [*text.replace("\\\n", " ").splitlines(), *spans(text)])
    for path in MODULES:
        for text in docstrings(path):
            lines = [re.sub(r"^.*Example: ", "", line.strip()) for line in text.replace("\\\n", " ").splitlines()]
            # Behind a command, two or more spaces begin its explanation.
            yield from commands_of(path, [*(re.split(r"\s{2,}", line)[0] for line in lines), *spans(text)])
    usage = cli.USAGE + cli.RUNS
    yield from commands_of(ROOT / "jobs/cli.py", [*usage.splitlines(), *spans(usage)])


def commands_of(path: Path, lines: list[str]) -> Iterator[CommandLine]:
    """The commands among lines of shell or of inline code."""
    where = str(path.relative_to(ROOT))
    for line in lines:
        if not re.search(r"nova|python", line):
            continue
        for piece in OPERATORS.split(line):
            command = parsed(where, piece)
            if command is not None:
                yield command


def parsed(where: str, text: str) -> CommandLine | None:
    """A piece of shell as a command of the project; None for other programs and for prose."""
    text = re.sub(r"\[[^\]]*\]", "", text)  # optional arguments, as in [NAME ...]
    try:
        words = shlex.split(text, comments=True)
    except ValueError:  # prose with an apostrophe
        return None
    while words and ASSIGNMENT.fullmatch(words[0]):
        words = words[1:]
    image = next((index for index, word in enumerate(words) if IMAGE.fullmatch(word)), None)
    if words[:2] == ["docker", "run"] and image is not None:
        words = ["nova", *words[image + 1 :]]
    if len(words) < 2:
        return None
    program, arguments = Path(words[0]).name, tuple(words[1:])
    if program == "nova" and not PLACEHOLDER.fullmatch(arguments[0]):
        arguments = without_placeholders(arguments)
        return CommandLine(where, program, arguments) if arguments else None
    if program == "python" and arguments[0] == "-m" and arguments[1].startswith("nova_model."):
        return CommandLine(where, arguments[1], arguments[2:])
    return None


def without_placeholders(arguments: Sequence[str]) -> tuple[str, ...]:
    """Arguments as a user might type them: a recipe for `--recipe NAME`, nothing for an ellipsis."""
    typed = [
        "debug" if PLACEHOLDER.fullmatch(word) and previous == "--recipe" else word
        for previous, word in zip(["", *arguments], arguments, strict=False)
    ]
    return tuple(word for word in typed if word not in ("…", "...", "--help", "-h"))


def options() -> Iterator[tuple[str, str]]:
    """Options that stand alone in inline code, with the page: `--set key=value`, `--retry-failures`."""
    for path in PAGES:
        for span in spans(path.read_text()):
            if span.startswith("--"):
                yield str(path.relative_to(ROOT)), span


def with_list(page: str, begin: str, end: str, lines: str) -> str:
    """A page with other lines between two of its comments."""
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n\n{lines}\n{end}{after}"
