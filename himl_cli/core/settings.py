"""Settings files: `himl.private.toml`, `himl.toml`, and `[tool.himl]` in `pyproject.toml`, the nearest of each upward.

Reads files and finds the line of each key. The callers decide which values an option accepts. Settings may name the
program that runs a script, and the owner of a workspace may change the code of its runs, so each search upward ends
where another user could have written what it finds, as git's `safe.directory` does. himl does not read the access
lists of Windows, and uses each file there.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

from himl_cli.core.engines import OWN, is_engine
from himl_cli.core.errors import BadUsage
from himl_cli.core.files import WORKSPACE_FOLDER, expand_user, home_folder, may_write, warned
from himl_cli.core.json_text import DEEPEST, is_too_deep, spelled
from himl_cli.core.mounts import mount_of, mount_table
from himl_cli.core.patterns import lazy_pattern
from himl_cli.core.records import dataclass

log = logging.getLogger(__name__)
PRIVATE_FILE, SETTINGS_FILE, PYPROJECT = "himl.private.toml", "himl.toml", "pyproject.toml"
SECTIONS = ("submit", "notify", "local", "azure", "montage", *OWN, "remote", "trust")
LARGEST_SETTINGS = 512 << 10  # characters of a settings file
# Integers with up to this number of digits, hexadecimal ones included, can be converted to floating point
LONGEST_NUMBER = 250

# Each file on these has the same mode, which does not show who can write to it
WITHOUT_MODES = {"cifs", "smb3", "smbfs", "9p", "drvfs", "vfat", "msdos", "exfat", "ntfs", "ntfs3", "fuseblk", "vboxsf"}

_TEXTS = lazy_pattern(r'''"""[\s\S]*?(?:"""|\Z)|\'{3}[\s\S]*?(?:\'{3}|\Z)|"(?:[^"\\\n]|\\.)*"?|\'[^\'\n]*\'?|#[^\n]*''')


@dataclass(frozen=True)
class FileSetting:
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

    def section(self, name: str) -> dict[str, FileSetting]:
        """The keys of a section. Raises BadUsage if the section is not a table."""
        table = self.content.get(name, {})
        if not isinstance(table, Mapping):
            raise BadUsage(
                f"'{self.path}': '{name}' must be a section.", hint=f"Write it as [{'.'.join((*self.prefix, name))}]."
            )
        lines = lines_of(self.text, (*self.prefix, name))
        return {key: FileSetting(key, value, self.path, lines.get(key, 0)) for key, value in table.items()}


def find_settings(start: Path, *, warns: bool = True) -> Sequence[SettingsFile]:
    """The settings files that apply to *start*, by precedence, with warnings of those that other users could have
    written. Raises BadUsage for an invalid one."""
    found: list[SettingsFile] = []
    for names in ((PRIVATE_FILE,), (SETTINGS_FILE, PYPROJECT)):
        for path in find_upward((start, *start.parents), names, warns=warns):
            if path.is_file() and (file := _read(path)) is not None:
                found.append(file)
                break
    return found


def section_settings(start: Path, section: str) -> dict[str, FileSetting]:
    """The keys of *section* from all files that apply. The private file wins."""
    merged: dict[str, FileSetting] = {}
    for file in reversed(find_settings(start)):
        merged |= file.section(section)
    return merged


def trusted_folders(folders: Sequence[Path], owners: Collection[int]) -> set[str]:
    """The real paths that `[trust] folders` lists, in the settings of *folders* and of the user's home. Ignores files
    that do not belong to *owners*. Raises BadUsage for an invalid file or list."""
    found: set[str] = set()
    for folder in filter(None, (*folders, home_folder())):
        for path in (folder / name for name in (PRIVATE_FILE, SETTINGS_FILE, PYPROJECT)):
            is_used = path.is_file() and not why_untrusted(path, owners) and not _is_closed(path)
            file = _read(path) if is_used else None
            for key, setting in (file.section("trust") if file is not None else {}).items():
                listed = setting.value
                if key != "folders" or not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
                    raise setting.wrong("is not a list of folders.", hint='Write [trust] folders = ["/shared/lab"].')
                found |= {os.path.realpath(folder / expand_user(one)) for one in listed}
    return found


def find_upward(
    folders: Sequence[Path], names: Sequence[str], *, by_folder: bool = False, warns: bool = True
) -> Iterator[Path]:
    """The existing files and folders with one of *names* in *folders*: the one where a search starts, and those above
    it, nearest first.

    Ends at the first folder above the start, or at the first of these files, that belongs neither to this user, nor to
    root, nor to the owner of the start, or that all users can write to, unless `[trust] folders` lists the folder.
    Omits files above the start that only other users may read. Logs a warning if it *warns* and omits a file. With
    *by_folder*, only folders count. Requests one stat for each folder up to the last one with such a file. Raises
    BadUsage for an invalid `[trust]`.
    """
    existing = [[path for path in (folder / name for name in names) if os.path.lexists(path)] for folder in folders]
    while existing and not existing[-1]:
        existing.pop()
    owners: set[int] = set()  # this user, root and the owner of the start; empty on Windows
    if existing and sys.platform != "win32":
        owners = {os.geteuid(), 0}
        with suppress(OSError):
            owners.add(os.stat(folders[0]).st_uid)
    for number, (folder, paths) in enumerate(zip(folders, existing, strict=False)):
        problem, is_listed = why_untrusted(folder, owners) if number else "", False
        if problem:
            is_listed = _is_listed(folder, folders[:number], owners)
            if not is_listed:
                return _warn(folder, next(chain.from_iterable(existing[number:])), problem, folder, warns)
        for path in paths:
            problem = "" if by_folder or is_listed else why_untrusted(path, owners)
            if problem and not _is_listed(folder, folders[: number + 1], owners):
                return _warn(path, path, problem, folder, warns)
            if number and not by_folder and _is_closed(path):
                _warn(path, path, f"only {owner_name(path.stat().st_uid)} may read it", folder, warns)
                continue
            yield path


def nearest_local(start: Path) -> Path | None:
    """The nearest `.himl` folder in *start* or a parent that may be used."""
    found = find_upward((start, *start.parents), (WORKSPACE_FOLDER,))
    return next((path for path in found if path.is_dir()), None)


def why_untrusted(path: Path, owners: Collection[int]) -> str:
    """Why *path* may contain what another user wrote: a clause, or an empty text."""
    try:
        found = os.lstat(path)
        # The owner of a link chose its target. Links themselves have no mode
        mode = os.stat(path).st_mode if stat.S_ISLNK(found.st_mode) else found.st_mode
    except OSError:
        return ""
    if owners and found.st_uid not in owners:
        return f"'{path}' belongs to {owner_name(found.st_uid)}"
    if owners and mode & stat.S_IWOTH and mount_of(path.resolve(), mount_table())[0] not in WITHOUT_MODES:
        return f"all users can write to '{path}'"
    return ""


def is_other_users(path: Path) -> bool:
    """Whether *path* belongs to another user, and this one cannot write to it. Never on Windows."""
    return sys.platform != "win32" and path.stat().st_uid != os.geteuid() and not may_write(path)


def _is_closed(path: Path) -> bool:
    """Whether this is a file of another user that this one may not read, and so could not mend."""
    is_closed = path.is_file() and not os.access(path, os.R_OK)
    return is_closed and sys.platform != "win32" and path.stat().st_uid != os.geteuid()


def owner_name(number: int) -> str:
    """The user with the id *number*, for messages."""
    if sys.platform != "win32":
        import pwd

        with suppress(KeyError):
            return f"user '{pwd.getpwuid(number).pw_name}'"
    return f"user {number}"


def _is_listed(folder: Path, below: Sequence[Path], owners: Collection[int]) -> bool:
    """Whether `[trust] folders` lists *folder*, in the settings of the folders *below* or of the user's home."""
    return os.path.realpath(folder) in trusted_folders(below, owners)


def _warn(key: Path, omitted: Path, problem: str, folder: Path, warns: bool) -> None:
    """Log once per command and *key* that himl does not use *omitted*, if it *warns*."""
    if not warns or key in warned:
        return
    warned.add(key)
    is_own = sys.platform != "win32" and key != folder and os.lstat(key).st_uid == os.geteuid()
    remedy = f"run chmod o-w '{key}'" if is_own else f"list '{folder}' under [trust] folders in ~/himl.toml"
    if _is_closed(key):
        remedy = "ask its owner to let you read it"
    log.warning("himl does not use '%s', because %s. To use it, %s.", omitted, problem, remedy)


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
        if name not in SECTIONS and not is_engine(name):
            from difflib import get_close_matches

            near = get_close_matches(name, SECTIONS, n=1)
            known = {section: f"[{'.'.join((*prefix, section))}]" for section in SECTIONS}
            hint = f"Sections: {', '.join(known.values())}. Options of submit belong in {known['submit']}."
            if near:
                hint = f"Did you mean {known[near[0]]}?"
            line = lines_of(text, prefix).get(name, 0)
            raise FileSetting(name, None, path, line).wrong("is not known.", hint=hint)
    return SettingsFile(path, prefix, text, content)


def _parse(path: Path, text: str) -> Any:
    """The content of a TOML file. Raises BadUsage, including for a file that would take minutes to parse or that
    contains a number which cannot be printed."""
    if len(text) > LARGEST_SETTINGS:
        raise BadUsage(
            f"'{path}' is too large: {len(text):,} characters. Settings may have {LARGEST_SETTINGS:,} at most."
        )
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
