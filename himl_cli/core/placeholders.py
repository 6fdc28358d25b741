"""`${{inputs.KEY}}` and `${{outputs.KEY}}` in a script's arguments, the folders of a job's data, and
`${{search_space.NAME}}`, a trial's value."""

from __future__ import annotations

import re

SEARCH_SPACE = "search_space"
PLACEHOLDER = re.compile(r"\$\{\{\s*(inputs|outputs|search_space)\.([^\s{}]+)\s*\}\}")
"""Group 1 is `inputs`, `outputs` or `search_space`, group 2 the key, whatever characters it is of: one that names
nothing is better refused than sent."""
