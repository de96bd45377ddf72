"""The code of the pages is what a reader can paste: narrow, and not in need of what is folded away."""

import ast
import builtins
import doctest
import importlib.util
from pathlib import Path

import pytest

from tests.documents.test_documents import ROOT, Block, blocks_of

PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
WIDEST = 76

spec = importlib.util.spec_from_file_location("cells", ROOT / "docs" / "cells.py")
cells = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cells)


def python_of(page: Path) -> list[Block]:
    return [block for block in blocks_of(page) if block.language.startswith("python")]


def source_of(block: Block) -> str:
    """Return the code of a block without its prompts and outputs."""
    if ">>>" not in block.code:
        return block.code
    return "".join(example.source for example in doctest.DocTestParser().get_examples(block.code))


def bound_by(tree: ast.AST) -> set[str]:
    """Return every name that the code binds, in functions too."""
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            names.add(node.name)
    return names


def missing_in(page: Path) -> set[str]:
    """Return the names that the visible blocks use and no visible block binds."""
    bound: set[str] = set(dir(builtins))
    missing: set[str] = set()
    for block in python_of(page):
        if ">>>" not in block.code and cells.is_folded(block.code):
            continue
        tree = ast.parse(source_of(block))
        bound |= bound_by(tree)
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        missing |= used - bound
    return missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_visible_code_needs_nothing_that_is_folded(page: Path) -> None:
    assert not missing_in(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_fits_a_narrow_column(page: Path) -> None:
    wide = [
        f"{page.name}:{block.line + number}: {len(line)} columns"
        for block in blocks_of(page)
        for number, line in enumerate(block.code.splitlines())
        if len(line) > WIDEST and not cells.FIGURE.match(line + "\n")
    ]
    assert not wide


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_figure_has_an_alternative_text(page: Path) -> None:
    drawn = [block for block in python_of(page) if "plt.show" in block.code or cells.is_folded(block.code)]
    assert [block.line for block in drawn if not cells.FIGURE.match(block.code)] == []


def test_a_name_from_a_folded_block_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nfig, ax = plt.subplots()\n```\n\n```python\n>>> print(fig)\nFigure\n```\n")
    assert missing_in(page) == {"fig"}
