"""Reading text files that people write: in UTF-8, or in UTF-16 as Windows' shell redirects it; files of variables."""

from __future__ import annotations

import codecs
import os
import re
import sys
from pathlib import Path, PureWindowsPath

from himl_cli.core.errors import BadUsage

UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_VARIABLE = re.compile(r"(?:export\s+)?(?P<name>[A-Za-z_]\w*)\s*=\s*(?P<value>.*)")
_COMMENT = re.compile(r"(?:^|(?<=\s))#")
_QUOTED = re.compile(r"(?P<quote>['\"])(?P<inside>.*)(?P=quote)\s*(?:#.*)?")


def read_text(path: Path, what: str) -> str:
    """The text of *path*, which an option called *what* names. Raises BadUsage where there is no file, or no text in
    it."""
    try:
        content = path.read_bytes()
        return content.decode("utf-16" if content.startswith(UTF16_MARKS) else "utf-8-sig")
    except UnicodeDecodeError as err:
        raise BadUsage(f"'{path}' is not UTF-8 text (byte {err.start}).", hint="Save it as UTF-8.") from err
    except ValueError as err:  # a null byte, or half a character
        raise BadUsage(f"{what}: no file can be called '{path}'.", hint="Check the path.") from err
    except FileNotFoundError as err:
        raise BadUsage(
            f"{what}: there is no file '{path}'.", hint="Check the path; it is relative to the current folder."
        ) from err
    except OSError as err:
        raise BadUsage(f"{what}: cannot read '{path}': {err.strerror}.") from err


def parse_dotenv(text: str, path: Path) -> dict[str, str]:
    """The variables in *text*, which was read from *path*; the last of two lines counts. Raises BadUsage naming a line
    that is none, not its content."""
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _VARIABLE.fullmatch(line.strip())
        if found is None:
            raise BadUsage(
                f"'{path}', line {number}: no NAME=value.", hint="A value stands on one line; comments begin with '#'."
            )
        quoted = _QUOTED.fullmatch(found["value"])
        values[found["name"]] = quoted["inside"] if quoted else _COMMENT.split(found["value"], maxsplit=1)[0].strip()
    return values


def with_slashes(text: str) -> str:
    """*text* with `/` for `\\`; as it is where it begins with a drive, a slash or a backslash: it is of one machine
    then."""
    return text if PureWindowsPath(text).anchor else text.replace("\\", "/")


def as_found(folder: Path, text: str, *, windows: bool = sys.platform == "win32") -> str:
    """*text*, a path relative to *folder*, with `/` for `\\`, unless a file or folder really has the name as written,
    which no name on Windows does."""
    return text if not windows and os.path.lexists(folder / text) else with_slashes(text)
