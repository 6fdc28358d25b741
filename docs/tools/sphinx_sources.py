"""Read the pages, which a forge shows without Sphinx: directives are in comments, and search omits contributors' pages.

A comment with directives starts with `<!-- sphinx` and ends with `-->`, each on a line of its own.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

COMMENT = re.compile(r"^<!-- sphinx\n(.*?)\n-->$", re.DOTALL | re.MULTILINE)
FOR_CONTRIBUTORS = ("azure-double", "contributing/", "design")


def uncover(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace the comments in the text of a page by their directives. Changes *source* in place."""
    source[0] = COMMENT.sub(r"\1", source[0])


def leave_out_of_search(app: Sphinx, doctree: nodes.document) -> None:
    """Mark a page for contributors, so that the search of the built pages does not find it."""
    if app.env.docname.startswith(FOR_CONTRIBUTORS):
        app.env.metadata[app.env.docname]["nosearch"] = True


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension with Sphinx."""
    app.connect("source-read", uncover)
    app.connect("doctree-read", leave_out_of_search)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
