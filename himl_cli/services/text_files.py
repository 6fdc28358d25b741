"""Reading text files that people write: in UTF-8, or in UTF-16 as Windows' shell redirects it."""

from __future__ import annotations

import codecs
from pathlib import Path

from himl_cli.core.errors import BadUsage

UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: Path, what: str) -> str:
    """The text of *path*, which an option called *what* names. Raises BadUsage where there is no file, or no text in
    it."""
    try:
        content = path.read_bytes()
    except ValueError as err:  # a null byte, or half a character
        raise BadUsage(f"{what}: no file can be called '{path}'.", hint="Check the path.") from err
    except FileNotFoundError as err:
        raise BadUsage(
            f"{what}: there is no file '{path}'.", hint="Check the path; it is relative to the current folder."
        ) from err
    except OSError as err:
        raise BadUsage(f"{what}: cannot read '{path}': {err.strerror}.") from err
    try:
        return content.decode("utf-16" if content.startswith(UTF16_MARKS) else "utf-8-sig")
    except UnicodeDecodeError as err:
        raise BadUsage(f"'{path}' is not UTF-8 text (byte {err.start}).", hint="Save it as UTF-8.") from err
