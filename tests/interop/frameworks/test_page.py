"""The page on converters, with the blocks that need other packages."""

from pathlib import Path
from typing import Any

from tests.test_documents import ROOT, blocks_of, run_block

PAGE: Path = ROOT / "docs" / "interop.md"


def test_page_with_other_packages() -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    blocks = [block for block in blocks_of(PAGE) if block.language.startswith("python")]
    assert any(block.language == "python interop" for block in blocks)
    for block in blocks:
        run_block(block, PAGE, namespace)
