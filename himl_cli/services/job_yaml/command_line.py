"""The command of a job's YAML with its plain values filled in; data and hyperparameters stay for whoever runs it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from himl_cli.core.placeholders import PLACEHOLDER
from himl_cli.core.shortening import shortened
from himl_cli.services.job_yaml.data import Values
from himl_cli.services.job_yaml.document import Part

_OPTIONAL = re.compile(r"\$\[\[(.*?)\]\]", re.DOTALL)
_ANY = re.compile(r"\$\{\{.*?\}\}", re.DOTALL)


def filled_command(part: Part, values: Values, outputs: Collection[str], space: Collection[str]) -> str:
    """The text of `command`. Raises BadUsage where there is none, or it names an input, output or hyperparameter that
    is not there."""
    text = part.text("command").strip()
    if not text:
        raise part.wrong("command", "is missing.")
    end = text.rfind("]]") + 2  # only to there: what is opened and never closed would be looked for again and again
    text = (
        _OPTIONAL.sub(lambda block: block[1] if _is_whole(block[1], values) else "", text[:end]) + text[end:]
    ).strip()
    return filled(part, "command", text, values, {"outputs": outputs, "search_space": space})


def filled(part: Part, key: str, text: str, values: Values, others: Mapping[str, Collection[str]]) -> str:
    """*text* with literals in the place of their placeholders. Raises BadUsage for a placeholder that names nothing."""
    for found in _ANY.finditer(text, 0, text.rfind("}}") + 2):
        named = PLACEHOLDER.fullmatch(found[0])
        known = others.get(named[1], ()) if named and named[1] != "inputs" else (*values.literals, *values.data)
        if named is None or named[2] not in known:
            names = shortened(", ".join(known)) or "none"
            there = (
                f"there are: {names}"
                if named
                else "placeholders are ${{inputs.KEY}}, ${{outputs.KEY}}, ${{search_space.NAME}}"
            )
            raise part.wrong(key, f"has '{shortened(found[0])}', which names nothing; {there}.")
    return PLACEHOLDER.sub(
        lambda found: values.literals.get(found[2], found[0]) if found[1] == "inputs" else found[0], text
    )


def _is_whole(block: str, values: Values) -> bool:
    """Whether all inputs that an optional piece of the command names are given."""
    return all(
        found[2] in values.literals or found[2] in values.data
        for found in PLACEHOLDER.finditer(block)
        if found[1] == "inputs"
    )
