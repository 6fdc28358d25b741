"""How Sphinx builds this documentation; scripts/docs calls it. Nothing is fetched: no fonts, no inventories of others."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from himl_cli import __version__  # noqa: E402

project = "himl"
author = copyright = "The himl authors"
release = __version__
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "docs.tools.sphinx_links", "docs.tools.llms_txt"]
exclude_patterns = ["tools"]
smartquotes = False  # two dashes are two dashes
default_role = "literal"  # docstrings have single backticks

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 4  # links to headings are written as GitHub makes them

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
