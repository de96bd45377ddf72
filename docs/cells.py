"""Run the pages while the site is built: a Sphinx extension that turns their Python blocks into notebook cells.

The pages are plain Markdown, so that they read well anywhere. A block of plain Python becomes a cell, whose output and
figures stand below it. One that draws panels (``plt.subplots``) is folded: what other code needs stands elsewhere. A
block with prompts shows the output that is written in it (the tests compare it with the real one); it is run out of
sight, for the sake of the blocks that follow.
"""

import doctest
import json
import re
import textwrap
from pathlib import Path
from typing import Any

FENCE = re.compile(r"^```python\n(?P<code>.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
FIGURE = re.compile(r"# Figure: (?P<alt>.*)\n")
LINK = re.compile(r"\]\((?P<page>[\w/]+)\.(?:md|rst)\)")
HEADER = "---\nfile_format: mystnb\nkernelspec:\n  name: python3\n---\n\n"


def is_folded(code: str) -> bool:
    """Tell whether a block shows its figure and hides its code."""
    return "plt.subplots" in code


def cell(code: str, *tags: str) -> str:
    """Return a code cell as MyST-NB reads it. A first line ``# Figure: ...`` says in words what its figure shows."""
    options = f"tags: [{', '.join(tags)}]\n" if tags else ""
    if figure := FIGURE.match(code):
        options += f"mystnb:\n  image:\n    alt: {json.dumps(figure['alt'], ensure_ascii=False)}\n"
    header = f"---\n{options}---\n" if options else ""
    return f"```{{code-cell}} python3\n{header}{code}```"


def failing(code: str) -> str:
    """Return code that raises, as it is meant to, and goes on: the examples after it need what it leaves behind."""
    return f"try:\n{textwrap.indent(code, '    ')}except Exception:\n    pass\n"


def run_block(fence: re.Match[str]) -> str:
    """Turn one block into a cell, or into what is shown and a hidden cell."""
    code = fence["code"]
    if ">>>" not in code:
        return cell(code, "hide-input") if is_folded(code) else cell(code)
    examples = doctest.DocTestParser().get_examples(code)
    hidden = "".join(example.source if example.exc_msg is None else failing(example.source) for example in examples)
    shown = f"```pycon\n{code.rstrip()}\n```"
    return f"{shown}\n\n{cell(hidden, 'remove-cell')}" if hidden else shown


def contents(text: str) -> str:
    """Return a hidden table of contents: the pages that each section of the text links to, in its order."""
    tables = ""
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        pages = "\n".join(dict.fromkeys(LINK.findall(section)))
        tables += f"\n\n```{{toctree}}\n:hidden:\n:caption: {section.splitlines()[0]}\n\n{pages}\n```\n"
    return tables


def make_notebook(app: Any, page: str, source: list[str]) -> None:
    """Give a page its cells, and the first page the table of contents."""
    if Path(app.env.doc2path(page)).suffix != ".md":
        return
    text = source[0]
    if FENCE.search(text):
        # The pages name files from the root of the repository, and a block says what it shows with print.
        setting = 'get_ipython().ast_node_interactivity = "none"'
        root = cell(f"import os\nos.chdir({str(Path(app.srcdir).parent)!r})\n{setting}\n", "remove-cell")
        title, _, rest = text.partition("\n")
        source[0] = HEADER + title + "\n\n" + root + "\n" + FENCE.sub(run_block, rest)
    if page == app.config.root_doc:
        source[0] += contents(text)


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("source-read", make_notebook)
    return {"parallel_read_safe": True}
