"""The pages on converters, with the blocks that need other packages."""

from pathlib import Path
from typing import Any

import pytest

from tests.documents.test_documents import ROOT, blocks_of, run_block

PAGES = [ROOT / "README.md", ROOT / "docs" / "index.md", ROOT / "docs" / "interop.md", ROOT / "docs" / "chip.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_with_other_packages(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    blocks = [block for block in blocks_of(page) if block.language.startswith("python")]
    assert any(block.language == "python interop" for block in blocks)
    for block in blocks:
        run_block(block, page, namespace)
