"""Links, paths, names and code in the documents lead somewhere."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

from tests.docs import odd_input, tree
from tests.docs.documents import CARDS, PAGES, ROOT, blocks, prose, spans

LINK = re.compile(r"\]\(([^)\s]+)\)")
ROOMS = ("nova_model", "pipelines", "jobs", "infra", "docs", "tests")
ALL_PAGES = (*PAGES, ROOT / "CHANGELOG.md")
CURRENT = tuple(path for path in PAGES if CARDS not in path.parents)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub derives them."""
    headings = re.findall(r"(?m)^#+ (.+)$", prose(page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ALL_PAGES, ids=name)
def test_relative_links_lead_to_files_and_headings(page):
    broken = []
    for target in LINK.findall(prose(page.read_text())):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_paths_in_the_text_exist(page):
    """Inline code that looks like a path of the repository is one; a pattern matches something."""
    paths = [span for span in spans(page.read_text()) if re.fullmatch(rf"(?:{'|'.join(ROOMS)})/[\w./*-]*", span)]
    assert [path for path in paths if not (list(ROOT.glob(path)) or (ROOT / path).exists())] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_dotted_names_in_the_text_exist(page):
    """Inline code such as `nova_model.presets.PRESETS` can be imported."""
    for span in spans(page.read_text()):
        if re.fullmatch(r"(?:nova_model|pipelines|jobs)(?:\.\w+)+", span):
            parent, _, last = span.rpartition(".")
            assert hasattr(importlib.import_module(parent), last) or importlib.import_module(span)


@pytest.mark.parametrize("page", CURRENT, ids=name)
def test_python_examples_compile_and_import_what_exists(page):
    for block in blocks(page.read_text(), "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ROOMS:
                module = importlib.import_module(node.module)
                # Names of nova_model are loaded when first used; listing them does without torch.
                assert {alias.name for alias in node.names} <= {*dir(module), *getattr(module, "__all__", ())}


def test_the_readme_is_short_and_shows_real_output_near_its_top():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 140
    assert any(re.match(r"!\[.+\]\(.+\.png\)", line) for line in lines[:30])


def test_every_page_of_the_documentation_is_linked_from_the_readme():
    targets = {target.partition("#")[0] for target in LINK.findall((ROOT / "README.md").read_text())}
    assert {name(path) for path in (ROOT / "docs").glob("*.md")} <= targets


def test_every_picture_is_shown_somewhere():
    used = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in LINK.findall(page.read_text())
        if "://" not in target
    }
    assert [path for path in (ROOT / "docs").rglob("*") if path.suffix in (".png", ".svg") and path not in used] == []


def test_the_architecture_lists_today_s_files():
    """`python -m tests.docs.tree` writes the list anew, with the first sentences of today's docstrings."""
    listed = tree.PAGE.read_text().partition(tree.BEGIN)[2].partition(tree.END)[0]
    assert sorted(LINK.findall(listed)) == sorted(LINK.findall(tree.listing()))


def test_the_table_of_odd_input_is_that_of_the_tests():
    """`python -m tests.docs.odd_input` writes it anew."""
    page = odd_input.PAGE.read_text()
    assert page == odd_input.rewritten(page)


def test_the_architecture_names_every_column_s_table():
    from pipelines.store import schema

    page = tree.PAGE.read_text()
    assert all(f"`{table}`" in page for table in schema.TABLES)
