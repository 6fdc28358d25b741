"""Convert links that lead out of docs/, to files of the checkout that readers on GitHub see.

MyST makes downloads of files other than Markdown. A link to a README with a page in docs/ becomes a link to that page
(`examples/hi_ml/README.md`: `examples/hi_ml`). A link to other Markdown, or to a file beside an included text, becomes
plain text. Links to files that do not exist are unchanged, and fail the build."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx


def mend_links(app: Sphinx, doctree: nodes.document) -> None:
    """Redirect the links of a page that Sphinx has read. Changes *doctree* in place."""
    source, docname = Path(app.srcdir), app.env.docname
    texts = [
        Path(app.env.doc2path(docname)),
        *(source / name for name in app.env.dependencies[docname] if str(name).endswith(".md")),
    ]
    for link in list(doctree.findall(addnodes.pending_xref)):
        if link.get("reftype") != "myst" or link["reftarget"] in app.env.found_docs:
            continue
        # If MyST found the file, the target is its path from docs/ without its ending.
        is_document = link.get("refdomain") == "doc"
        folders = [source] if is_document else [text.parent for text in texts]
        path = _file(folders, f"{link['reftarget']}.md" if is_document else link["reftarget"].partition("#")[0])
        if path is not None:
            _redirect(link, path, source.parent, app.env.found_docs)


def _file(folders: Sequence[Path], name: str) -> Path | None:
    """Return the path of the file *name* in the first of *folders* that has it."""
    paths = [Path(os.path.normpath(folder / name)) for folder in folders]
    return next((path for path in paths if path.is_file()), None)


def _redirect(link: addnodes.pending_xref, path: Path, root: Path, pages: set[str]) -> None:
    page = path.parent.relative_to(root).as_posix() if path.name == "README.md" and path.is_relative_to(root) else ""
    if page in pages:
        link["refdomain"], link["reftarget"] = "doc", page
    else:
        link.replace_self(link.children)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension with Sphinx."""
    app.connect("doctree-read", mend_links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
