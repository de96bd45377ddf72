"""The settings of the documentation site: ``make docs``."""

import inspect
import os
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from docutils import nodes
from mdit_py_plugins.anchors.index import slugify
from sphinx import addnodes
from sphinx.ext.autosummary import autosummary_table

import braindnorm

project = "braindnorm"
author = "braindnorm developers"
version = release = braindnorm.__version__

extensions = [
    "cells",
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx-mathjax-offline",  # equations without network
    "sphinx_copybutton",
]
templates_path = ["_templates"]
root_doc = "index"

# Pages
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True
nb_output_stderr = "remove"
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"
# What the kernels inherit: eight devices on one processor, as in the tests.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.pop("MPLBACKEND", None)

# The copy button takes what was typed, without prompts and outputs.
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

# API
autosummary_generate = True
autosummary_ignore_module_all = False
autosummary_imported_members = True
autodoc_typehints = "none"
numpydoc_show_class_members = False
numpydoc_validation_checks: set[str] = set()

# Look
html_theme = "sphinx_book_theme"
html_title = "braindnorm"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["enlarge.js"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "navbar_persistent": [],  # the search stands in the sidebar
}


def true_signature(app: Any, what: str, name: str, obj: Any, options: Any, signature: str, returns: str) -> Any:
    """Show the arguments of a module's ``__init__`` in one line, without types, which its docstring has."""
    if what != "class" or not (signature == "(*args, **kwargs)" or hasattr(obj, "__signature__")):
        return None
    _, *parameters = inspect.signature(obj.__init__).parameters.values()
    shown = inspect.Signature([p.replace(annotation=inspect.Parameter.empty) for p in parameters])
    one_line = " ".join(str(shown).split()).replace("( ", "(").replace(" )", ")")
    return re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", one_line), returns


def add_cures(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """List the sections of the page of errors that show an error of this class, with its cause and its cure."""
    if not name.startswith("braindnorm.errors.") or what not in ("class", "exception"):
        return
    page = (Path(__file__).parent / "errors.md").read_text()
    sections = re.split(r"^#{2,3} ", page, flags=re.MULTILINE)[1:]
    shown = [s.partition("\n")[0] for s in sections if re.search(rf"\b{name.rpartition('.')[2]}\b", s)]
    plain = [title.replace("`", "") for title in shown]
    lines += ["", "Messages, causes and cures: :doc:`/errors`" + (", in particular:" if plain else "."), ""]
    lines += [f"- `{title} <../errors.html#{slugify(title)}>`__" for title in plain]


def drop_citations(app: Any, doctree: nodes.document) -> None:
    """Leave the citations out of the tables of names, where nothing is cited."""
    for table in doctree.findall(autosummary_table):
        for citation in list(table.findall(addnodes.pending_xref)):
            if citation["reftype"] == "ref" and citation["refdomain"] == "citation":
                before = citation.parent[citation.parent.index(citation) - 1]
                before.parent.replace(before, nodes.Text(before.astext().rstrip()))
                citation.parent.remove(citation)


def setup(app: Any) -> None:
    """Register with Sphinx."""
    app.connect("autodoc-process-signature", true_signature)
    app.connect("autodoc-process-docstring", add_cures)
    app.connect("doctree-read", drop_citations)
