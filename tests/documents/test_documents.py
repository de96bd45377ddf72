"""Run the documentation: the pages as a reader would type them, and the examples of the docstrings."""

import doctest
import importlib
import pkgutil
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import brainstate
import pytest

import braindnorm

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
MODULES = [
    "braindnorm",
    *(module.name for module in pkgutil.walk_packages(braindnorm.__path__, "braindnorm.")),
]

FENCE = re.compile(
    r"^(?P<indent>[ ]*)(?P<ticks>`{3,})(?P<language>[^\n]*)\n(?P<code>.*?)^(?P=indent)(?P=ticks)[ ]*$",
    re.MULTILINE | re.DOTALL,
)
# Python is run. A misspelt language would escape from that, so the other ones are listed too.
# "python interop" needs torch, flax and so on: tests/interop/frameworks runs it.
LANGUAGES = {"python", "python interop", "bash", "text", "bibtex", "toml"}
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Block(NamedTuple):
    """A fenced block of a page and the line its code begins at, counted from 1."""

    language: str
    code: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            fence["language"].strip(),
            textwrap.dedent(fence["code"]),
            text.count("\n", 0, fence.start("code")) + 1,
        )
        for fence in FENCE.finditer(text)
    ]


def run_doctest(test: doctest.DocTest) -> None:
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=OPTIONS, verbose=False)
    failed, _ = runner.run(test, out=report.append, clear_globs=False)
    assert not failed, "".join(report)


def run_block(block: Block, page: Path, namespace: dict[str, Any]) -> None:
    """Run one block in the namespace of its page; a block with prompts is compared with its output."""
    if ">>>" in block.code:
        test = doctest.DocTestParser().get_doctest(block.code, {}, page.name, str(page), block.line - 1)
        test.globs = namespace
        run_doctest(test)
    else:
        # The empty lines make a traceback point at the line of the page.
        exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), namespace)


def doctests_of(name: str) -> list[doctest.DocTest]:
    """Return the examples of a module. Their namespace is empty: they import what they use, as readers do."""
    module = importlib.import_module(name)
    found = doctest.DocTestFinder(exclude_empty=True).find(module, globs={"__name__": "__main__"})
    return [test for test in found if test.examples]


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stand where a reader stands, in a folder with the examples, and leave the settings as they were."""
    monkeypatch.chdir(tmp_path)
    if (ROOT / "examples").exists():
        (tmp_path / "examples").symlink_to(ROOT / "examples")
    before = brainstate.environ.all()
    yield
    for setting in brainstate.environ.all().keys() - before.keys():
        brainstate.environ.pop(setting)
    brainstate.environ.set(**before)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page(page: Path, reader: None) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks_of(page):
        assert block.language in LANGUAGES, f"{page.name}:{block.line - 1}: a block in {block.language!r}"
        if block.language == "python":
            run_block(block, page, namespace)


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name: str, reader: None) -> None:
    for test in doctests_of(name):
        run_doctest(test)


def test_there_is_something_to_run() -> None:
    """A lost page or a parser that finds nothing must not look like a success."""
    assert any(block.language == "python" for block in blocks_of(ROOT / "README.md"))
    assert any(doctests_of(name) for name in MODULES)


def test_every_fence_is_found() -> None:
    for page in PAGES:
        lines = page.read_text(encoding="utf-8").splitlines()
        fences = sum(line.lstrip().startswith(("```", "~~~")) for line in lines)
        assert fences == 2 * len(blocks_of(page)), page.name
