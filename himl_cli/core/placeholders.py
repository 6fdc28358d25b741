"""`${{inputs.KEY}}` and `${{outputs.KEY}}` in a script's arguments: the folders of a job's data."""

from __future__ import annotations

import re

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import JobSpec

PLACEHOLDER = re.compile(r"\$\{\{\s*(inputs|outputs)\.([^\s{}]+)\s*\}\}")
"""Group 1 is `inputs` or `outputs`, group 2 the key, whatever characters it is of: one that names nothing is better refused than sent."""


def check_placeholders(spec: JobSpec) -> None:
    """Raises BadUsage where a placeholder in the arguments names no input or output of *spec*."""
    known = {"inputs": [item.key for item in spec.inputs], "outputs": [item.key for item in spec.outputs]}
    for argument in spec.arguments:
        for found in PLACEHOLDER.finditer(argument):
            keys, kind = known[found[1]], found[1][:-1]
            if found[2] not in keys:
                raise BadUsage(f"'{found[0]}' names no {kind}; there are: {', '.join(keys) or 'none'}.", hint=f"Add --{kind} {found[2]}=NAME")
