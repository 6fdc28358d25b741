"""Configuration of Sphinx, for scripts/docs. The build fetches nothing: no fonts and no inventories of other
projects.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from himl_cli import __version__  # noqa: E402

project = "himl"
author = copyright = "The himl authors"
release = __version__
language = "en"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "docs.tools.sphinx_sources",
    "docs.tools.sphinx_links",
    "docs.tools.llms_txt",
]
exclude_patterns = ["tools"]
# Two dashes must stay two dashes, as in options.
smartquotes = False
# Docstrings use single backticks for code.
default_role = "literal"

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
# Anchors of headings have the form of GitHub's.
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["himl.css"]
html_title = f"himl {release}"
html_show_sphinx = False
html_show_sourcelink = False
html_copy_source = False
