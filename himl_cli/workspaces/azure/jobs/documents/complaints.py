"""What azure-ai-ml finds wrong with a YAML file, in one line with the key.

It reports a tree: JSON within text, a page of advice behind it, and every form that a value could have had. What people
need is the first leaf.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from himl_cli.core.redaction import redact
from himl_cli.core.text import is_too_deep

LONGEST = 300
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_MISSING_FILE = re.compile(
    r"(?:No such file or directory: |Can't find directory or file in resolved absolute path: "
    r")([^'\"\]\n]+?)\.?(?=['\"\]\n]|$)"
)


def complaint_of(text: str) -> str:
    """The key and what is wrong there, as far as *text*, azure-ai-ml's own, tells: `resources.instance_count: Not a
    valid integer.`"""
    text = _COLOURS.sub("", text)
    path, words = next(_leaves(text, ()), ((), text))
    missing = _MISSING_FILE.search(text if not path else words)
    said = f"there is no '{missing[1]}'" if missing else _first_line(words)
    keys = " ".join(".".join(path).split())
    line = redact(f"{keys}: {said}" if keys else said)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Texts of a report with the keys that they are about."""
    if isinstance(value, str):
        inner = _json_in(value)
        if inner is None:
            yield path, value
        else:
            yield from _leaves(inner, path)
    elif isinstance(value, list):
        for one in value:
            yield from _leaves(one, path)
    elif isinstance(value, dict) and isinstance(value.get("errors"), list):
        for error in value["errors"]:
            yield from _leaves(error, path)
    elif isinstance(value, dict) and "message" in value and "path" in value:
        key = str(value["path"] or "")
        yield from _leaves(value["message"], path if key in ("", "*") else (*path, key))
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from _leaves(one, path if name == "_schema" else (*path, str(name)))


def _json_in(text: str) -> Any | None:
    """The JSON object that *text* is, or carries behind its heading; None where it carries none."""
    if not text.startswith(("Validation for ", "{")):
        return None
    start = text.find("{")
    try:
        found = json.JSONDecoder().raw_decode(text[start:])[0] if start >= 0 else None
    except (RecursionError, ValueError):
        return None
    return None if is_too_deep(found) else found


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    wrong = next((place for place, line in enumerate(lines) if line.startswith("(x)")), None)
    if wrong is not None:  # a field, and in the next line what is wrong with it; or all of it in one
        field, after = lines[wrong].removeprefix("(x)").strip(), lines[wrong + 1 : wrong + 2]
        return f"{field} {after[0].removeprefix('-').strip()}" if field.endswith(":") and after else field
    return (
        " ".join(lines[:4])
        if lines and lines[0].startswith("Error while parsing")
        else (lines or ["it does not say what"])[0]
    )
