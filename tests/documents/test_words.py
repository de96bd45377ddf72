"""The pages have the words that a reader searches for, and not those that only a translation would have."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = sorted((ROOT / "braindnorm").rglob("*.py"))

# a word, and the page on which the search should find it
SEARCHED = {
    "running": "batch_norm",
    "cumulative": "time",
    "causal": "time",
    "data parallel": "devices",
    "variable length": "masks",
    "state_dict": "from_others",
    "BatchNorm": "batch_norm",
    "LIF": "tutorial",
}
TRANSLATED = re.compile(r"The law of this page|what is no |that is none|that is no |counts? in it\b|the own execute")


@pytest.mark.parametrize(("word", "page"), SEARCHED.items())
def test_the_search_finds_the_word_of_the_field(word: str, page: str) -> None:
    text = re.sub(r"\s+", " ", (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"))
    assert re.search(rf"\b{word}\b", text, re.IGNORECASE)


@pytest.mark.parametrize("folder", [PAGES, SOURCES], ids=["pages", "sources"])
def test_the_english_is_that_of_the_field(folder: list[Path]) -> None:
    assert folder
    assert [f"{path}: {found[0]}" for path in folder for found in TRANSLATED.finditer(path.read_text("utf-8"))] == []
