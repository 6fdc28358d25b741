"""Settings files: `himl.private.toml`, `himl.toml`, and `[tool.himl]` in `pyproject.toml`, the nearest of each upward.

Reads files and finds the line of each key. The callers decide which values an option accepts.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from himl_cli.core.errors import BadUsage
from himl_cli.core.records import dataclass
from himl_cli.core.text import DEEPEST, is_too_deep, spelled

PRIVATE_FILE, FILE, PYPROJECT = "himl.private.toml", "himl.toml", "pyproject.toml"
SECTIONS = ("submit", "notify", "azure", "montage", "slurm")
LARGEST = 512 << 10  # characters of a settings file
# Integers with up to this number of digits, hexadecimal ones included, can be converted to floating point
LONGEST_NUMBER = 250

_TEXTS = re.compile(r'''"""[\s\S]*?(?:"""|\Z)|\'{3}[\s\S]*?(?:\'{3}|\Z)|"(?:[^"\\\n]|\\.)*"?|\'[^\'\n]*\'?|#[^\n]*''')


@dataclass(frozen=True)
class Setting:
    """A key of a settings file, with its TOML value and its location (`line` is 0 if unknown)."""

    key: str
    value: Any
    file: Path
    line: int

    @property
    def place(self) -> str:
        """`FILE:LINE`, as compilers write it."""
        return f"{self.file}:{self.line}" if self.line else str(self.file)

    def wrong(self, what: str, *, hint: str = "") -> BadUsage:
        """An error about this key. *what* completes the sentence `'himl.toml', line 3: 'cluster' ...`."""
        line = f", line {self.line}" if self.line else ""
        return BadUsage(f"'{self.file}'{line}: '{self.key}' {what}", hint=hint)


@dataclass(frozen=True)
class SettingsFile:
    """The content of a settings file. `prefix` is the table with himl's sections (`tool.himl` in pyproject.toml)."""

    path: Path
    prefix: tuple[str, ...]
    text: str
    content: Mapping[str, Any]

    def section(self, name: str) -> dict[str, Setting]:
        """The keys of a section. Raises BadUsage if the section is not a table."""
        table = self.content.get(name, {})
        if not isinstance(table, Mapping):
            raise BadUsage(
                f"'{self.path}': '{name}' must be a section.", hint=f"Write it as [{'.'.join((*self.prefix, name))}]."
            )
        lines = lines_of(self.text, (*self.prefix, name))
        return {key: Setting(key, value, self.path, lines.get(key, 0)) for key, value in table.items()}


def find_settings(start: Path) -> Sequence[SettingsFile]:
    """The settings files that apply to *start*, by precedence. Raises BadUsage for an invalid one."""
    nearest = (_nearest(start, names) for names in ((PRIVATE_FILE,), (FILE, PYPROJECT)))
    return [file for file in nearest if file is not None]


def section_settings(start: Path, section: str) -> dict[str, Setting]:
    """The keys of *section* from all files that apply. The private file wins."""
    merged: dict[str, Setting] = {}
    for file in reversed(find_settings(start)):
        merged |= file.section(section)
    return merged


def _nearest(start: Path, names: Sequence[str]) -> SettingsFile | None:
    """The first of *names* with settings, in *start* or the nearest folder above."""
    for folder in (start, *start.parents):
        for name in names:
            if (folder / name).is_file() and (found := _read(folder / name)) is not None:
                return found
    return None


def _read(path: Path) -> SettingsFile | None:
    """The file's settings. None for a pyproject.toml without `[tool.himl]`."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as err:
        raise BadUsage(
            f"'{path}' is not UTF-8 text (byte {err.start}).", hint="Save it as UTF-8, or remove it."
        ) from err
    except OSError as err:
        raise BadUsage(f"Cannot read '{path}': {err.strerror}.") from err
    prefix = ("tool", "himl") if path.name == PYPROJECT else ()
    if prefix and "himl" not in text:
        return None
    content = _parse(path, text)
    for part in prefix:
        content = content.get(part) if isinstance(content, Mapping) else None
    if content is None:
        return None
    if not isinstance(content, Mapping):
        raise BadUsage(f"'{path}': '{'.'.join(prefix)}' must be a section.")
    for name in content:
        if name not in SECTIONS:
            from difflib import get_close_matches

            near = get_close_matches(name, SECTIONS, n=1)
            known = {section: f"[{'.'.join((*prefix, section))}]" for section in SECTIONS}
            hint = f"Sections: {', '.join(known.values())}. Options of submit belong in {known['submit']}."
            if near:
                hint = f"Did you mean {known[near[0]]}?"
            line = lines_of(text, prefix).get(name, 0)
            raise Setting(name, None, path, line).wrong("is not known.", hint=hint)
    return SettingsFile(path, prefix, text, content)


def _parse(path: Path, text: str) -> Any:
    """The content of a TOML file. Raises BadUsage, including for a file that would take minutes to parse or that
    contains a number which cannot be printed."""
    if len(text) > LARGEST:
        raise BadUsage(f"'{path}' is too large: {len(text):,} characters. Settings may have {LARGEST:,} at most.")
    plain = _TEXTS.sub(lambda found: '""' + "\n" * found[0].count("\n"), text)
    if found := re.search(f"[0-9a-fA-F_]{{{LONGEST_NUMBER + 1}}}", plain):
        line = plain.count("\n", 0, found.start()) + 1
        raise BadUsage(
            f"'{path}', line {line}: the number is too long.", hint=f"Numbers have {LONGEST_NUMBER} digits at most."
        )
    content: Any = None
    is_deep = any(part.count(".") > DEEPEST for part in re.split(r"[\n=,{}\[\]]", plain))
    try:
        if not is_deep:
            content = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli").loads(
                text, parse_float=spelled
            )
    except ValueError as err:  # includes TOMLDecodeError
        raise _corrupt(path, text, str(err)) from err
    except RecursionError:
        is_deep = True
    if is_deep or is_too_deep(content):
        raise BadUsage(f"'{path}' is nested too deeply.", hint="A section is a table of keys: [submit]")
    return content


def _corrupt(path: Path, text: str, complaint: str) -> BadUsage:
    """The TOML parser's complaint with the line, and with the key if that line has one."""
    at = re.search(r"\s*\(at (?:line (\d+), column \d+|end of document)\)", complaint)
    lines = text.splitlines() or [""]
    number = int(at[1]) if at and at[1] else len(lines)
    line = lines[min(number, len(lines)) - 1].strip()
    key = line.partition("=")[0].strip() if "=" in line else ""
    what = complaint[: at.start()] if at else complaint
    hint = (
        "Put a path with backslashes in single quotes: 'C:\\data'"
        if "\\" in line
        else 'The file is not valid TOML. Put text in quotes: cluster = "gpu"'
    )
    return BadUsage(f"'{path}', line {number}{f' (key {key!r})' if key else ''}: {what}.", hint=hint)


def lines_of(text: str, table: tuple[str, ...]) -> dict[str, int]:
    """The line numbers (from 1) of the keys of *table* or of their own tables, for each key that a plain search
    finds."""
    found: dict[str, int] = {}
    current: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[\[?([^\]]+)\]", line)
        dotted = header[1] if header else line.partition("=")[0]
        names = tuple(part.strip().strip("\"'") for part in dotted.split("."))
        if header:
            current = names
        elif "=" in line:
            names = (*current, *names)
        else:
            continue
        if len(names) > len(table) and names[: len(table)] == table:
            found.setdefault(names[len(table)], number)
    return found
