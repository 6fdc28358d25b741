"""`${{inputs.KEY}}` and `${{outputs.KEY}}` in a script's arguments, the folders of a job's data, and `${{search_space.NAME}}`, a trial's value."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from himl_cli.core.errors import BadUsage

if TYPE_CHECKING:
    from himl_cli.core.jobs import JobSpec

SEARCH_SPACE = "search_space"
PLACEHOLDER = re.compile(r"\$\{\{\s*(inputs|outputs|search_space)\.([^\s{}]+)\s*\}\}")
"""Group 1 is `inputs`, `outputs` or `search_space`, group 2 the key, whatever characters it is of: one that names nothing is better refused than sent."""
KINDS = {"inputs": ("input", "Add --input {}=NAME"), "outputs": ("output", "Add --output {}=NAME"), SEARCH_SPACE: ("hyperparameter", "Add --sweep {}=SPEC")}


def check_placeholders(spec: JobSpec) -> None:
    """Raises BadUsage where a placeholder in the arguments names no input, output or hyperparameter of *spec*."""
    known = {
        "inputs": [item.key for item in spec.inputs],
        "outputs": [item.key for item in spec.outputs],
        SEARCH_SPACE: list(spec.sweep.space) if spec.sweep else [],
    }
    for argument in spec.arguments:
        for found in PLACEHOLDER.finditer(argument):
            keys, (kind, hint) = known[found[1]], KINDS[found[1]]
            if found[2] not in keys:
                raise BadUsage(f"'{found[0]}' names no {kind}; there are: {', '.join(keys) or 'none'}.", hint=hint.format(found[2]))
